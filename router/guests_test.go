package router

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Strangers are told no and make nobody look; the networks of this host are those of the last event.
func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net atomic.Pointer[[]netip.Prefix] // nil: it can not be found out
		var looks atomic.Int64
		has := func(ps ...netip.Prefix) { net.Store(&ps) }
		has(pfx("172.17.0.0/16"))
		g := newGuests(func() ([]netip.Prefix, error) {
			looks.Add(1)
			if ps := net.Load(); ps != nil {
				return *ps, nil
			}
			return nil, errors.New("interrupted")
		}, slog.New(slog.DiscardHandler))
		g.setMesh([]netip.Prefix{pfx("10.32.0.0/12")})
		allowed := func(when string, want map[string]bool) {
			t.Helper()
			synctest.Wait()
			before := looks.Load()
			for addr, want := range want {
				if got := g.allow(netip.MustParseAddr(addr)); got != want {
					t.Errorf("%s: %s may ask: %v", when, addr, got)
				}
			}
			synctest.Wait()
			if looks.Load() != before {
				t.Errorf("%s: questions made it look", when)
			}
		}
		if err := g.look(); err != nil {
			t.Fatal(err)
		}
		allowed("before it follows", map[string]bool{"10.33.1.1": true, "172.17.0.2": true, "192.0.2.1": false, "10.48.0.1": false, "172.18.0.2": false})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.follow(ctx) }()
		has(pfx("172.18.0.0/16"))
		g.poke()
		allowed("one network made, one removed", map[string]bool{"10.33.1.1": true, "172.17.0.2": false, "172.18.0.2": true})
		net.Store(nil)
		g.poke()
		allowed("nobody can tell", map[string]bool{"172.17.0.2": false, "172.18.0.2": true})
		has()
		time.Sleep(time.Second) // in the bubble
		allowed("and without another event", map[string]bool{"172.18.0.2": false})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
