package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/ipam"
	"weft/router"
)

// addrForms explains <addr> and <container> in help texts.
const addrForms = `An address is ip:CIDR or CIDR (this very address), net:CIDR (one of that subnet)
or net:default. A container is a Docker name or ID, netns:/path, or pid:N.`

func newAttachCmd(a *app) *cobra.Command {
	var in struct {
		Container        string   `json:"container"`
		Addrs            []string `json:"addrs"`
		WithoutDNS       bool     `json:"withoutDNS"`
		RewriteHosts     bool     `json:"rewriteHosts"`
		NoMulticastRoute bool     `json:"noMulticastRoute"`
	}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "attach [flags] [addr…] container",
		Short: "Give a container an interface, an address and a name on the mesh",
		Long: `Gives a running container the interface ethwe, an address and a name, and prints
its addresses. Without an address it gets one of the default subnet. Attaching
it again gives the same. It gets them back after each restart, until it is
detached or removed. A bare namespace, netns:/path or pid:N, has no name: give
it one with weft dns-add. What pid:N was given ends with that process, also if
others live on in its namespace.

` + addrForms,
		Example: `  weft attach web
  weft attach net:10.32.2.0/24 ip:10.32.3.7/24 web
  weft attach netns:/run/netns/blue && weft dns-add netns:/run/netns/blue -h blue.weft.local`,
		Args: args(1, -1, "addresses, if any, and then a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if in.Addrs, in.Container, err = parseAttach(cmd, args); err != nil {
				return err
			}
			var raw json.RawMessage
			if err := a.blocking(cmd.Context(), func(ctx context.Context) error {
				return a.client().Do(ctx, "POST", "/attach", in, &raw)
			}); err != nil {
				return err
			}
			return a.printAddresses(raw, asJSON)
		},
	}
	cmd.Flags().BoolVar(&in.WithoutDNS, "without-dns", false, "register no name")
	cmd.Flags().BoolVar(&in.RewriteHosts, "rewrite-hosts", false, "put the address into the container's /etc/hosts")
	cmd.Flags().BoolVar(&in.NoMulticastRoute, "no-multicast-route", false, "send no multicast over the mesh")
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

func newDetachCmd(a *app) *cobra.Command {
	var in struct {
		Container string   `json:"container"`
		Addrs     []string `json:"addrs"`
	}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "detach [addr…] container",
		Short: "Take a container's addresses away",
		Long: `Takes addresses of a container away, with the names on them, and prints them.
Without an address it loses the one of the default subnet.

` + addrForms,
		Example: `  weft detach web
  weft detach net:10.32.2.0/24 web`,
		Args: args(1, -1, "addresses, if any, and then a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if in.Addrs, in.Container, err = parseAttach(cmd, args); err != nil {
				return err
			}
			var raw json.RawMessage
			if err := a.client().Do(cmd.Context(), "POST", "/detach", in, &raw); err != nil {
				return err
			}
			return a.printAddresses(raw, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

// parseAttach splits `[addr…] container`. The addresses are checked here so that
// a slip in one is a usage error, and sent as they were typed.
func parseAttach(cmd *cobra.Command, args []string) (addrs []string, container string, err error) {
	addrs, last := append([]string{}, args[:len(args)-1]...), args[len(args)-1]
	if likeAddr(last) {
		return nil, "", misplaced(cmd, args)
	}
	for _, s := range addrs {
		if _, err := ipam.ParseAddrArg(s); err != nil {
			return nil, "", usage(cmd, "%w", err)
		}
	}
	if container, err = parseContainer(last); err != nil {
		return nil, "", usage(cmd, "%w", err)
	}
	return addrs, container, nil
}

// dotted is what somebody means as an IPv4 address, right or wrong.
var dotted = regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}(/[0-9]*)?$`)

// likeAddr tells whether an argument is meant as an address, be it a wrong one.
func likeAddr(s string) bool {
	if strings.HasPrefix(s, "ip:") || strings.HasPrefix(s, "net:") || dotted.MatchString(s) {
		return true
	}
	_, addrErr := netip.ParseAddr(s)
	_, prefixErr := netip.ParsePrefix(s)
	return addrErr == nil || prefixErr == nil
}

// misplaced explains arguments of which the last is no container: either it is
// elsewhere, or there is none. What else is wrong with the addresses comes along.
func misplaced(cmd *cobra.Command, args []string) error {
	container, text := "CONTAINER", "no container was named"
	var addrs []string
	for _, s := range args {
		if !likeAddr(s) {
			container, text = s, fmt.Sprintf("%s stands before an address", s)
			continue
		}
		meant := s
		if a, err := netip.ParseAddr(s); err == nil {
			meant = fmt.Sprintf("%v/%d", a, usualBits(a))
			text += "; and an address needs its prefix length: " + meant
		} else if _, err := ipam.ParseAddrArg(s); err != nil {
			if p, perr := netip.ParsePrefix(s); perr == nil && p == p.Masked() {
				meant = "net:" + s
				text += fmt.Sprintf("; and %s is a subnet: did you mean %s?", s, meant)
			} else {
				text += "; and " + err.Error()
			}
		}
		addrs = append(addrs, meant)
	}
	return usageHint(cmd, fmt.Sprintf("the container comes last: weft %s %s %s", cmd.Name(), strings.Join(addrs, " "), container), "%s", text)
}

// usualBits is the prefix length that was most likely left out.
func usualBits(a netip.Addr) int {
	switch {
	case router.DefaultRange.Contains(a):
		return router.DefaultRange.Bits()
	case a.Is4():
		return 24
	}
	return 64
}

// parseContainer checks a <container>, and makes the path of a namespace
// absolute, since the router works in another directory.
func parseContainer(s string) (string, error) {
	if path, ok := strings.CutPrefix(s, "netns:"); ok {
		if path == "" {
			return "", fmt.Errorf("container %q: a path is wanted after netns:, as in netns:/run/netns/blue", s)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("container %q: %w", s, err)
		}
		return "netns:" + abs, nil
	}
	if pid, ok := strings.CutPrefix(s, "pid:"); ok {
		if n, err := strconv.ParseUint(pid, 10, 31); err != nil || n == 0 {
			return "", fmt.Errorf("container %q: a process ID is wanted after pid:, as in pid:4711", s)
		}
		return s, nil
	}
	if s == "" || strings.ContainsAny(s, "/: \t\n") {
		return "", fmt.Errorf("container %q: a Docker name or ID, netns:/path or pid:N is wanted", s)
	}
	return s, nil
}

// printAddresses prints the addresses that an operation has answered, on one line.
func (a *app) printAddresses(raw json.RawMessage, asJSON bool) error {
	a.warn(raw)
	if asJSON {
		return a.printJSON(raw)
	}
	var out struct {
		Addresses []string `json:"addresses"`
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			return fmt.Errorf("read response: %w", err)
		}
	}
	return a.printWords(out.Addresses)
}
