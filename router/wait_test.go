package router

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/host"
	"weft/internal/statedb"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// newcomer is a router that does not run and has not joined its mesh.
func newcomer(t *testing.T) *Router {
	t.Helper()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	db, err := statedb.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	r := &Router{id: id, log: log, attached: map[string]*attachment{}, member: membership{Secret: mesh.NewSecret()}, o: Options{RunDir: t.TempDir()}}
	if r.db, _, err = openMarked(db, r.o.RunDir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if r.host, err = host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName, Log: log}); err != nil {
		t.Fatal(err)
	}
	if r.mesh, err = mesh.New(mesh.Options{Identity: id, Secret: r.member.Secret, Store: r.db, Tunnel: &r.tunnels,
		Endpoints: func() []netip.AddrPort { return nil }, Log: log}); err != nil {
		t.Fatal(err)
	}
	r.asks.order = func(want) ([]peer.ID, error) { return nil, nil }
	return r
}

// join has it learn the range, which is not shared out yet.
func join(t *testing.T, r *Router) {
	t.Helper()
	f := mesh.Founding{Founder: peer.ID{9}, Nonce: 1, Range: wholeRange, Subnet: wholeRange}
	if err := r.mesh.SetFounding(f); err != nil {
		t.Fatal(err)
	}
	r.restoreAllocations(f)
	r.passes.wake()
}

// share gives a host the whole range.
func share(r *Router, to peer.ID) {
	r.mu.Lock()
	ring, _ := ipam.NewRing(wholeRange, []ipam.Grant{ipam.Seed(wholeRange, ipam.Owner(to))})
	r.alloc.SetRing(ring)
	r.mu.Unlock()
	r.passes.wake()
}

// joined is a router that can give out every address of the range.
func joined(t *testing.T) *Router {
	t.Helper()
	r := newcomer(t)
	join(t, r)
	share(r, r.id.ID())
	return r
}

// holds are the addresses that a container has, for the allocator.
func (r *Router) holds(key string) []ipam.Allocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alloc == nil {
		return nil
	}
	return r.alloc.Lookup(key)
}

func (r *Router) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allocating
}

// call runs something that may wait; done says whether it has ended, and how.
func call(f func() error) (done func() (bool, error)) {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	return func() (bool, error) {
		synctest.Wait()
		select {
		case err := <-ended:
			return true, err
		default:
			return false, nil
		}
	}
}

func TestClaimWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newcomer(t)
		claim := func(ctx context.Context, key, addr string) func() (bool, error) {
			return call(func() error {
				_, _, err := r.obtain(ctx, key, ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx(addr)})
				return err
			})
		}
		waits := func(what string, done func() (bool, error)) {
			t.Helper()
			if ended, err := done(); ended {
				t.Errorf("%s: it has ended with %v", what, err)
			}
		}
		given := func(what, key, addr string, done func() (bool, error)) {
			t.Helper()
			if ended, err := done(); !ended || err != nil {
				t.Errorf("%s: ended %v, with %v", what, ended, err)
			}
			if got := r.holds(key); len(got) != 1 || got[0].Addr != pfx(addr) {
				t.Errorf("%s: %s has %v", what, key, got)
			}
		}
		impatient, hangUp := context.WithCancel(t.Context())
		within, outside := claim(t.Context(), "within", "10.32.0.9/12"), claim(t.Context(), "outside", "198.51.100.9/30")
		hungUp := claim(impatient, "hung up", "10.32.0.10/12")
		for _, done := range []func() (bool, error){within, outside, hungUp} {
			waits("a host that has not joined", done)
		}
		if s := r.ipamReport(r.mesh.State(), nil).Status; s != "awaiting the founder of the mesh" || r.waiting() != 3 {
			t.Errorf("%d are counted as waiting, for %q", r.waiting(), s)
		}
		hangUp()
		if ended, err := hungUp(); !ended || !errors.Is(err, context.Canceled) || r.waiting() != 2 {
			t.Errorf("after its caller hung up: ended %v with %v, and %d wait", ended, err, r.waiting())
		}
		join(t, r)
		given("out of the range, which is known", "outside", "198.51.100.9/30", outside)
		waits("a range that is not shared out", within)
		r.mu.Lock()
		r.alloc.Suspend(true)
		r.mu.Unlock()
		share(r, r.id.ID())
		waits("a state that is not proven", within)
		r.mu.Lock()
		r.alloc.Suspend(false)
		r.mu.Unlock()
		r.passes.wake()
		given("whose address it is", "within", "10.32.0.9/12", within)
		if r.waiting() != 0 || len(r.holds("hung up")) != 0 {
			t.Errorf("%d wait, and who hung up has %v", r.waiting(), r.holds("hung up"))
		}
	})
}

// A free address that another host owns is asked of that host, by its name.
func TestClaimAsksTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		claim := func(addr string) func() (bool, error) {
			return call(func() error {
				_, _, err := r.obtain(t.Context(), "c", ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx(addr)})
				return err
			})
		}
		away := true
		refused := func(addr string, texts ...string) {
			t.Helper()
			done := claim(addr)
			ended, err := done()
			if away && ended {
				t.Errorf("%s: the owner is not waited for: %v", addr, err)
			}
			if away {
				time.Sleep(ownerPatience + askEvery)
				ended, err = done()
			}
			if !ended || err == nil {
				t.Fatalf("%s: ended %v with %v", addr, ended, err)
			}
			for _, text := range texts {
				if !strings.Contains(describe(err), text) {
					t.Errorf("%s: %q lacks %q", addr, describe(err), text)
				}
			}
			if got := r.holds("c"); len(got) != 0 {
				t.Errorf("%s is refused, and c has %v", addr, got)
			}
		}
		r.asks.may, r.asks.call = r.mayAsk, r.askOne
		refused("10.32.0.11/12", "address 10.32.0.11 belongs to "+peer.ID{9}.String(), "out of reach", "net:10.32.0.0/12")

		away = false
		var asked []string
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(_ context.Context, id peer.ID, w want) (bool, error) {
			subnet := w.subnet
			asked = append(asked, id.String()+" "+subnet.String())
			switch subnet.Addr().String() {
			case "10.32.0.12":
				return false, nil
			case "10.32.0.13":
				return false, errRingLogFull
			}
			ring, _ := ipam.NewRing(wholeRange, []ipam.Grant{ipam.Seed(wholeRange, ipam.Owner{9}),
				{Prefix: subnet, From: ipam.Owner{9}, To: ipam.Owner(r.id.ID()), Version: 2}})
			r.mu.Lock()
			r.alloc.SetRing(ring)
			r.mu.Unlock()
			return true, nil
		}
		refused("10.32.0.12/12", "which does not give it")
		refused("10.32.0.13/12", "could not be asked", errRingLogFull.Error())
		refused("10.32.0.0/12", "the subnet's own")
		if ended, err := claim("10.32.0.11/12")(); !ended || err != nil {
			t.Errorf("ended %v with %v", ended, err)
		}
		if got := r.holds("c"); len(got) != 1 || got[0].Addr != pfx("10.32.0.11/12") {
			t.Errorf("c has %v", got)
		}
		var want []string
		for _, a := range []string{"12", "13", "11"} {
			want = append(want, peer.ID{9}.String()+" 10.32.0."+a+"/32")
		}
		if !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

// A reset ends what waits, also on a host that has never joined.
func TestResetEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newcomer(t)
		for _, arg := range []ipam.AddrArg{{Kind: ipam.ArgDefault}, {Kind: ipam.ArgIP, Prefix: pfx("10.32.0.9/12")}} {
			done := call(func() error {
				_, _, err := r.obtain(t.Context(), "c", arg)
				return err
			})
			if ended, err := done(); ended {
				t.Fatalf("it has ended with %v", err)
			}
			r.mu.Lock()
			r.resetting = true
			r.mu.Unlock()
			r.passes.wake()
			if ended, err := done(); !ended || !errors.Is(err, errResetting) {
				t.Errorf("ended %v with %v", ended, err)
			}
			r.mu.Lock()
			r.resetting = false
			r.mu.Unlock()
		}
	})
}
