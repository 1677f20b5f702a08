package main

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func newDNSArgsCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "dns-args [--json]",
		Short: "Print the flags that make docker run use the mesh's names",
		Long: `Prints --dns=IP --dns-search=DOMAIN for docker run, and nothing when DNS is off.
Leave it unquoted, since it is two words.`,
		Example: "  docker run $(weft dns-args) -d --name web nginx",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !asJSON {
				return a.print(cmd.Context(), "/dns-args", false)
			}
			var text string
			if err := a.client().Do(cmd.Context(), "GET", "/dns-args", nil, &text); err != nil {
				return err
			}
			return a.printJSON(map[string][]string{"args": append([]string{}, strings.Fields(text)...)})
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

const nameForms = `Without addresses, all of the container's are meant. Without a container the name
belongs to none, and stays until it is removed.`

func newDNSAddCmd(a *app) *cobra.Command {
	return newNameCmd(a, &cobra.Command{
		Use:   "dns-add [ip…] container [-h fqdn] | ip… -h fqdn | --cname name -h fqdn",
		Short: "Add a name",
		Long: "Adds a name, by default the container's hostname, to addresses. With --cname the name\n" +
			"stands for another name. A name that begins with *. stands for all names below the rest\n" +
			"of it that do not exist.\n\n" + nameForms,
		Example: `  weft dns-add web -h shop.weft.local
  weft dns-add 10.32.0.7 web
  weft dns-add 192.168.1.20 -h printer.weft.local
  weft dns-add web -h '*.apps.weft.local'
  weft dns-add --cname web.weft.local -h www.weft.local`,
	}, "/dns/add")
}

func newDNSRemoveCmd(a *app) *cobra.Command {
	return newNameCmd(a, &cobra.Command{
		Use:   "dns-remove [ip…] container [-h fqdn] | ip… -h fqdn | --cname name -h fqdn",
		Short: "Remove a name",
		Long:  "Removes names from addresses: the one given with -h, or all.\n\n" + nameForms,
		Example: `  weft dns-remove web -h shop.weft.local
  weft dns-remove 192.168.1.20 -h printer.weft.local`,
	}, "/dns/remove")
}

// newNameCmd completes dns-add or dns-remove.
func newNameCmd(a *app, cmd *cobra.Command, path string) *cobra.Command {
	var in struct {
		Container string   `json:"container"`
		IPs       []string `json:"ips"`
		FQDN      string   `json:"fqdn"`
		CNAME     string   `json:"cname,omitempty"`
	}
	var asJSON bool
	named := args(1, -1, "addresses, or a container, or both")
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if in.CNAME == "" {
			return named(cmd, given)
		}
		if len(given) > 0 || in.FQDN == "" {
			return usageHint(cmd, "weft "+cmd.Name()+" --cname NAME -h ALIAS", "with --cname there is -h, and neither an address nor a container")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if in.CNAME != "" {
			in.IPs = []string{}
		} else if in.IPs, in.Container, err = parseNameArgs(cmd, args, in.FQDN); err != nil {
			return err
		}
		var raw json.RawMessage
		if err := a.client().Do(cmd.Context(), "POST", path, in, &raw); err != nil {
			return err
		}
		if a.warn(raw); !asJSON {
			return nil
		}
		return a.printJSON(raw)
	}
	cmd.Flags().StringVarP(&in.FQDN, "fqdn", "h", "", "the name, fully qualified")
	cmd.Flags().StringVar(&in.CNAME, "cname", "", "the name that it stands for")
	// -h is the name's, as it was in Weave; cobra would take it for help.
	cmd.Flags().Bool("help", false, "help for "+cmd.Name())
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

// parseNameArgs splits `[ip…] container` or `ip…`.
func parseNameArgs(cmd *cobra.Command, args []string, fqdn string) (ips []string, container string, err error) {
	ips = []string{}
	for i, s := range args {
		if ip, err := netip.ParseAddr(s); err == nil {
			ips = append(ips, ip.String())
			continue
		}
		if p, err := netip.ParsePrefix(s); err == nil {
			return nil, "", usageHint(cmd, "leave the prefix length out: "+p.Addr().String(), "%q is a CIDR; a name is on an address", s)
		}
		if dotted.MatchString(s) {
			return nil, "", usage(cmd, "%q is not an IP address", s)
		}
		if i != len(args)-1 {
			return nil, "", usage(cmd, "%q is not an IP address; addresses come first, then at most one container", s)
		}
		if container, err = parseContainer(s); err != nil {
			return nil, "", usage(cmd, "%w", err)
		}
	}
	if container == "" && fqdn == "" {
		return nil, "", usageHint(cmd, "name it: weft "+cmd.Name()+" "+strings.Join(args, " ")+" -h NAME", "a name without a container needs -h")
	}
	return ips, container, nil
}

func newDNSLookupCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "dns-lookup name [--json]",
		Short:   "Look a name up in this host's table",
		Long:    "Prints the addresses of a name, one a line. The domain may be left out.",
		Example: "  weft dns-lookup web",
		Args:    args(1, 1, "one name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := a.client().Do(cmd.Context(), "GET", "/lookup?"+url.Values{"name": args}.Encode(), nil, &raw); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(raw)
			}
			var out struct {
				Addresses []string `json:"addresses"`
			}
			if err := json.Unmarshal(raw, &out); err != nil {
				return err
			}
			if len(out.Addresses) == 0 {
				return fail("weft status dns lists the names", "no host of the mesh has the name %q", args[0])
			}
			return a.printWords([]string{strings.Join(out.Addresses, "\n")})
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}
