package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// removedPeer is what the router says of a takeover.
type removedPeer struct {
	Peer     string `json:"peer"`
	Nickname string `json:"nickname,omitempty"`
	IPs      uint64 `json:"ips"`
	Forced   bool   `json:"forced,omitempty"`
}

func newRmpeerCmd(a *app) *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "rmpeer [--force] peer_id…",
		Short: "Take over the address space of dead hosts",
		Long: `Takes over the addresses of hosts that are dead and will not come back. A peer_id is
a nickname or a peer ID. It is refused while the host is alive or was seen within
the last minute, and without a majority of the hosts that own addresses which sees
it failed. Only name a host that does not run any more: one that is merely cut off
goes on using its addresses, which containers of other hosts get as well. So does a
host that joined through it while both were cut off, and of which nobody else knows.
If several are dead, name them all: one may have to wait for another.

With --force this host decides alone, at the operator's risk.`,
		Example: "  weft rmpeer host3",
		Args:    args(1, -1, "the hosts to remove"),
		RunE: func(cmd *cobra.Command, names []string) error {
			var out []removedPeer
			var errs []error
			for _, name := range names {
				if force {
					fmt.Fprintf(a.stderr, "weft: warning: by force nobody else is asked: if %s, or a host that it has given space to, still runs somewhere, its addresses are given to others as well\n", name)
				}
			}
			for _, r := range a.rmpeers(cmd.Context(), names, force) {
				if r.err != nil {
					errs = append(errs, r.err)
					continue
				}
				if out = append(out, r.removedPeer); !asJSON {
					fmt.Fprintf(a.stdout, "%d IPs taken over from %s\n", r.IPs, r.Peer)
				}
			}
			if asJSON && len(out) > 0 {
				errs = append(errs, a.printJSON(out))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "take over without a majority")
	jsonFlag(cmd, &asJSON)
	return a.socketFlags(cmd)
}

type removal struct {
	removedPeer
	err error
}

// rmpeers asks for the takeover of each host, and returns what came of each in their order.
// Those that a majority decides are asked for together, since none may come into force before
// all are decided; a host proposes so many for others at a time, so what was refused is asked
// for once more. By force, which is the last one matters.
func (a *app) rmpeers(ctx context.Context, names []string, force bool) []removal {
	out, rounds := make([]removal, len(names)), min(len(names), 2)
	if !force {
		defer a.afterWhile("weft: waiting for a majority of the hosts that own addresses: half a minute or so\n")()
	}
	var g errgroup.Group
	if force {
		g.SetLimit(1)
		rounds = 1
	}
	for round := range rounds {
		for i, name := range names {
			if round > 0 && out[i].err == nil {
				continue
			}
			g.Go(func() error {
				out[i].removedPeer, out[i].err = a.rmpeer(ctx, name, force)
				return nil
			})
		}
		_ = g.Wait()
	}
	return out
}

func (a *app) rmpeer(ctx context.Context, name string, force bool) (r removedPeer, err error) {
	path := "/peer/" + url.PathEscape(name)
	if force {
		path += "?force=true"
	}
	return r, a.client().Do(ctx, "DELETE", path, nil, &r)
}

// afterWhile prints a text unless stop is called within two seconds. It is not being printed any
// more when stop returns.
func (a *app) afterWhile(text string) (stop func()) {
	printed := make(chan struct{})
	t := time.AfterFunc(2*time.Second, func() {
		defer close(printed)
		fmt.Fprint(a.stderr, text)
	})
	return func() {
		if !t.Stop() {
			<-printed
		}
	}
}
