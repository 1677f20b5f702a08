package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/mesh"
	"weft/router"
)

// peerArgs are <peer> arguments: host[:port], or join tokens, which also say
// where to knock.
type peerArgs struct {
	Targets []string // in the order given, a token's endpoints in its place
	Tokens  []string // as typed
	Mesh    mesh.MeshID
}

const tokenPrefix = "weft1-"

// parsePeers reads <peer> arguments.
func parsePeers(args []string) (peerArgs, error) {
	var p peerArgs
	for _, arg := range args {
		if len(arg) >= len(tokenPrefix) && strings.EqualFold(arg[:len(tokenPrefix)], tokenPrefix) {
			if err := p.addToken(arg); err != nil {
				return peerArgs{}, err
			}
			continue
		}
		if err := checkTarget(arg); err != nil {
			return peerArgs{}, err
		}
		p.addTarget(arg)
	}
	return p, nil
}

func (p *peerArgs) addTarget(t string) {
	if !slices.Contains(p.Targets, t) {
		p.Targets = append(p.Targets, t)
	}
}

func (p *peerArgs) addToken(text string) error {
	t, err := mesh.ParseToken(text)
	if err != nil {
		return err
	}
	if id := t.Secret.MeshID(); len(p.Tokens) > 0 && id != p.Mesh {
		return fmt.Errorf("the join tokens are of two meshes, %v and %v", p.Mesh, id)
	} else {
		p.Mesh = id
	}
	p.Tokens = append(p.Tokens, text)
	for _, e := range t.Endpoints {
		p.addTarget(e)
	}
	return nil
}

// checkTarget says what is wrong with host[:port], so far as that can be known
// without asking DNS.
func checkTarget(s string) error {
	if strings.Contains(s, "://") {
		return fmt.Errorf("peer %q is a URL; host[:port] or a join token is wanted", s)
	}
	if isAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")) {
		return nil // without a port; IPv6 with or without brackets
	}
	host := s
	if strings.Contains(s, ":") {
		h, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("peer %q is not host[:port]", s)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("peer %q: the port must be a number from 1 to 65535", s)
		}
		host = h
	}
	if isAddr(host) {
		return nil
	}
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, notInHostname) {
		return fmt.Errorf("peer %q is neither host[:port] nor a join token", s)
	}
	return nil
}

// isAddr tells whether s is an IP address. Zones are free text to netip.
func isAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && !strings.ContainsFunc(a.Zone(), notInHostname)
}

func notInHostname(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

func newConnectCmd(a *app) *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use:   "connect [--replace] peer…",
		Short: "Add peers to keep contact with",
		Long: `Adds targets: hosts that this one connects to and keeps contact with. A peer is
host[:port], or a join token of this mesh. With --replace they become the only
targets.`,
		Example: `  weft connect 192.168.48.12
  weft connect --replace host2.example host3.example:6783`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !replace {
				return usage(cmd, "weft connect takes one or more peers")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePeers(args)
			if err != nil {
				return usage(cmd, "%w", err)
			}
			if err := a.sameMesh(cmd.Context(), p); err != nil {
				return err
			}
			in := struct {
				Targets []string `json:"targets"`
				Replace bool     `json:"replace"`
			}{p.targets(), replace}
			return a.client().Do(cmd.Context(), "POST", "/connect", in, nil)
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "forget all other targets")
	return a.socketFlags(cmd)
}

func newForgetCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget peer…",
		Short: "Stop trying to reach peers",
		Long: `Removes targets. A tunnel that is up stays up for as long as the peer is in the
mesh: forgetting only ends the attempts to reach it.`,
		Example: "  weft forget 192.168.48.13",
		Args:    args(1, -1, "one or more peers"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePeers(args)
			if err != nil {
				return usage(cmd, "%w", err)
			}
			in := struct {
				Targets []string `json:"targets"`
			}{p.targets()}
			return a.client().Do(cmd.Context(), "POST", "/forget", in, nil)
		},
	}
	return a.socketFlags(cmd)
}

// targets is never nil: null is no JSON list.
func (p peerArgs) targets() []string { return append([]string{}, p.Targets...) }

// sameMesh refuses a token of another mesh: its hosts would refuse this one.
func (a *app) sameMesh(ctx context.Context, p peerArgs) error {
	if len(p.Tokens) == 0 {
		return nil
	}
	if len(p.Targets) == 0 {
		return errors.New("the join token names no host to connect to")
	}
	var r router.Report
	if err := a.client().Do(ctx, "GET", "/report", nil, &r); err != nil {
		return err
	}
	if r.Router.Mesh != p.Mesh.String() {
		return fail("to move this host to the other mesh: weft reset, then weft launch with that token",
			"the join token is of mesh %v, and this host is in mesh %s", p.Mesh, r.Router.Mesh)
	}
	return nil
}
