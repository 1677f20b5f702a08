package main

import (
	"net/url"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"weft/router"
)

// statusTables are the sub-verbs of status.
var statusTables = []string{"targets", "connections", "peers", "dns", "ipam"}

func newStatusCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [targets|connections|peers|dns|ipam] [--json]",
		Short: "Show how the router and the mesh are",
		Long: `Shows an overview of this host's router, or one of its tables:

  targets      addresses that this host keeps contact with
  connections  the tunnels, and why one is not up
  peers        the members of the mesh
  dns          the names: on which address, of which container, by which host;
               weave:extern stands for a name without a container
  ipam         who owns how much of the address range`,
		Example: `  weft status
  weft status connections`,
		ValidArgs: statusTables,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, "weft status shows one table at a time")
			}
			if len(args) == 1 && !slices.Contains(statusTables, args[0]) {
				return usageHint(cmd, didYouMean(args[0], statusTables), "unknown table %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.print(cmd.Context(), strings.Join(append([]string{"/status"}, args...), "/"), asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

func newReportCmd(a *app) *cobra.Command {
	var format string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "report [-f template]",
		Short: "Print the whole state of the router",
		Long: `Prints the whole state of the router as JSON, or through a Go template
(text/template), in which {{json .X}} prints a part as JSON.`,
		Example: `  weft report
  weft report -f '{{.Router.ID}}'
  weft report -f '{{range .Router.Peers}}{{.Nickname}} {{.State}}{{"\n"}}{{end}}'
  weft report -f '{{json .DNS.Entries}}'`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format == "" || asJSON {
				return a.print(cmd.Context(), "/report", true)
			}
			t, err := template.New("report").Funcs(template.FuncMap{"json": toJSON}).Parse(format)
			if err != nil {
				return parseTemplateError(cmd, err)
			}
			var r router.Report
			if err := a.client().Do(cmd.Context(), "GET", "/report", nil, &r); err != nil {
				return err
			}
			var out strings.Builder
			if err := t.Execute(&out, r); err != nil {
				return execTemplateError(cmd, err)
			}
			return a.printWords([]string{strings.TrimSuffix(out.String(), "\n")})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template")
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

func newPsCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps [container…] [--json]",
		Short: "List attached containers",
		Long:  "Prints a line per attached container: its ID, MAC address and addresses.",
		Example: `  weft ps
  weft ps web db`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/ps"
			if len(args) > 0 {
				path += "?" + url.Values{"container": args}.Encode()
			}
			return a.print(cmd.Context(), path, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}
