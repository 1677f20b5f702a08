package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"weft/api"
	"weft/router"
)

// Groups of the verbs in the help text.
const (
	groupRouter     = "router"
	groupContainers = "containers"
	groupNames      = "names"
)

// newRootCmd makes the whole command line.
func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "An encrypted network for containers on many hosts",
		Long: `weft joins Docker hosts into one encrypted network in which every container
has an address and a name.

Every flag has an environment default: that of --run-dir is WEFT_RUN_DIR.`,
		Example: `  weft launch                                 # on the first host: prints how to join it
  weft launch weft1-…                         # on every other host
  docker run -d --name web $(weft dns-args) nginx && weft attach web
  weft status`,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
		// cobra's own "did you mean" would be part of the error's text.
		DisableSuggestions: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.applyEnv(cmd); err != nil {
				return err
			}
			a.started = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(cmd, "a verb is needed")
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.SetUsageTemplate(strings.NewReplacer(
		`{{.CommandPath}} [command] --help`, `weft help VERB`,
		`{{.CommandPath}} [command]`, `{{.CommandPath}} VERB`,
		`for more information about a command`, `to see how to use a verb`,
		`Additional Commands:`, `More:`,
		`Available Commands:`, `Verbs:`,
	).Replace(root.UsageTemplate()))
	root.AddGroup(
		&cobra.Group{ID: groupRouter, Title: "The router of this host:"},
		&cobra.Group{ID: groupContainers, Title: "Containers on the mesh:"},
		&cobra.Group{ID: groupNames, Title: "Names:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			c.DisableFlagsInUseLine = true
			root.AddCommand(c)
		}
	}
	add(groupRouter, newLaunchCmd(a), newStopCmd(a), newResetCmd(a), newStatusCmd(a), newReportCmd(a),
		newConnectCmd(a), newForgetCmd(a), newRmpeerCmd(a), newTokenCmd(a), newPrimeCmd(a), newDemoCmd(a))
	add(groupContainers, newAttachCmd(a), newDetachCmd(a), newPsCmd(a))
	add(groupNames, newDNSArgsCmd(a), newDNSAddCmd(a), newDNSRemoveCmd(a), newDNSLookupCmd(a))
	add("", newVersionCmd(a), newDeviceCmd(a), newRouterCmd(a), newDemoRespondCmd(), newDemoFetchCmd(a))
	root.SetHelpCommand(newHelpCmd())
	describeCompletion(root)
	return root
}

// newHelpCmd replaces cobra's, which answers a wrong verb on stdout and as a success.
func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:                   "help [verb]",
		Short:                 "Show how to use a verb",
		Example:               "  weft help attach",
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownVerb(found, args[len(args)-max(1, len(rest))])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if len(args) == 0 {
				for _, c := range cmd.Root().Commands() {
					if c.IsAvailableCommand() {
						names = append(names, c.Name()+"\t"+c.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// socketFlags adds what every verb needs that speaks to the router.
func (a *app) socketFlags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.runDir, "run-dir", router.DefaultRunDir, "directory of the router's socket")
	return cmd
}

func (a *app) client() *api.Client { return api.NewClient(socketPath(a.runDir)) }

func socketPath(runDir string) string { return filepath.Join(runDir, "weft.sock") }

// needRoot is an error when the verb would fail for want of privileges.
func (a *app) needRoot(verb string) error {
	if a.euid() == 0 {
		return nil
	}
	return fail("sudo weft "+verb, "weft %s needs root: it changes this host's network", verb)
}

// args makes cobra's complaint about a wrong number of arguments say what is wanted.
func args(least, most int, wanted string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usage(cmd, "weft %s takes %s", cmd.Name(), wanted)
		}
		return nil
	}
}

func newVersionCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version [--json]",
		Short:   "Print the version of this program",
		Example: "  weft version",
		Args:    args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return a.printJSON(map[string]string{"version": version})
			}
			_, err := fmt.Fprintln(a.stdout, "weft "+version)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
