package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/mesh"
)

func newTokenCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "token [show] [--json]",
		Short: "Print the join token of this mesh",
		Long: `Prints the token with which another host joins this mesh. Whoever has it can
join: hand it on as you would a password.`,
		Example: `  weft token
  weft token | ssh host2 sudo weft launch --token-file -`,
		ValidArgs: []string{"show"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != "show" {
				return usageHint(cmd, didYouMean(args[0], []string{"show"}), "weft token takes show, or nothing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct {
				Token string `json:"token"`
			}
			if err := a.client().Do(cmd.Context(), "GET", "/token", nil, &out); err != nil {
				return err
			}
			if t, err := mesh.ParseToken(out.Token); err == nil && len(t.Endpoints) == 0 {
				fmt.Fprintln(a.stderr, "weft: this host knows no address of its own: launch with --advertise-address, or name this host after the token")
			}
			if asJSON {
				return a.printJSON(out)
			}
			_, err := fmt.Fprintln(a.stdout, out.Token)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}
