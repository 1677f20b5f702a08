package router

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/api"
	"weft/ipam"
	"weft/peer"
)

// holdCall is POST or PUT /ip/{id}.
func holdCall(ctx context.Context, r *Router, id string, arg ipam.AddrArg) func() (bool, error) {
	return call(func() error {
		_, err := r.hold(ctx, id, arg)
		return err
	})
}

// freed is DELETE /ip/{id}[/{ip}], which has to end at once.
func freed(t *testing.T, r *Router, id, ip, want string) {
	t.Helper()
	got := ""
	addr, _ := netip.ParseAddr(ip)
	done := call(func() (err error) {
		got, err = r.freeHeld(t.Context(), id, addr)
		return err
	})
	if ended, err := done(); !ended || err != nil || got != want {
		t.Fatalf("free %s %s: ended %v with %q, %v", id, ip, ended, got, err)
	}
}

func TestFreeingAnIDEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		nine := ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx("10.32.0.9/12")}
		if ended, err := holdCall(ctx, r, "x", nine)(); !ended || err != nil {
			t.Fatalf("ended %v with %v", ended, err)
		}
		share(r, peer.ID{9}) // which is out of reach
		x := holdCall(ctx, r, "x", ipam.AddrArg{Kind: ipam.ArgNet, Prefix: partOfIt})
		y := holdCall(ctx, r, "y", ipam.AddrArg{Kind: ipam.ArgDefault})
		for _, done := range []func() (bool, error){x, y} {
			if ended, err := done(); ended {
				t.Fatalf("with no space, it has ended with %v", err)
			}
		}
		freed(t, r, "x", "10.32.0.9", "1\n")
		if ended, err := x(); ended {
			t.Fatalf("another address of the ID was freed: ended with %v", err)
		}
		freed(t, r, "x", "", "0\n")
		if ended, err := x(); !ended || !errors.Is(err, errFreed) {
			t.Errorf("ended %v with %v", ended, err)
		}
		if _, err := r.freeHeld(t.Context(), "x", netip.Addr{}); err == nil {
			t.Error("what holds nothing and waits for nothing was freed")
		}
		if ended, err := y(); ended || r.waiting() != 1 {
			t.Errorf("of another ID: ended %v with %v, and %d wait", ended, err, r.waiting())
		}
		cancel()
		if ended, err := y(); !ended || !errors.Is(err, context.Canceled) || len(r.holding) != 0 {
			t.Errorf("after its caller hung up: ended %v with %v, and %d are under way", ended, err, len(r.holding))
		}
	})
}

// A host that slept after it had obtained an address gives it to nobody before it knows
// whose it is by now; then the call goes on.
func TestSleepBeforeAnAddressIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFounder(t)
		f.member.Targets = []string{"host2"} // it may have taken this one for dead
		r := f.start()
		r.attached = map[string]*attachment{}
		r.alone()
		f.seeded(r)
		var asleep atomic.Int64
		r.db.now = func() time.Duration { return sinceBoot() + time.Duration(asleep.Load()) }
		key := heldPrefix + "x"
		unlock, err := r.ops.lock(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		hold := holdCall(t.Context(), r, "x", ipam.AddrArg{Kind: ipam.ArgDefault})
		if ended, err := hold(); ended || len(r.holds(key)) != 1 {
			t.Fatalf("ended %v with %v, and it has %v", ended, err, r.holds(key))
		}
		asleep.Store(int64(2 * markAge))
		unlock()
		if ended, err := hold(); ended || len(r.holds(key)) != 0 || !r.isUnproven() {
			t.Fatalf("after the sleep: ended %v with %v, and it has %v", ended, err, r.holds(key))
		}
		r.alone()
		time.Sleep(2 * askEvery)
		if ended, err := hold(); !ended || err != nil || len(r.holds(key)) != 1 {
			t.Errorf("ended %v with %v, and it has %v", ended, err, r.holds(key))
		}
	})
}

// An address that was freed is for whoever had it, for half a minute.
func TestAFreedAddressIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		ctx, cancel := context.WithCancel(t.Context())
		watched := call(func() error { return r.watchNamespaces(ctx) })
		gets := func(id, want string) {
			t.Helper()
			got, err := r.hold(t.Context(), id, ipam.AddrArg{Kind: ipam.ArgDefault})
			if err != nil || got != want+"\n" {
				t.Errorf("%s gets %q, %v; want %s", id, got, err, want)
			}
		}
		gets("x", "10.32.0.1/12")
		freed(t, r, "x", "", "1\n")
		time.Sleep(ipam.Hold - time.Second)
		gets("y", "10.32.0.2/12")
		gets("x", "10.32.0.1/12")
		freed(t, r, "x", "", "1\n")
		time.Sleep(ipam.Hold - time.Second)
		gets("z", "10.32.0.3/12")
		time.Sleep(2 * time.Second)
		gets("late", "10.32.0.1/12")
		cancel()
		if ended, err := watched(); !ended || err != nil {
			t.Errorf("ended %v, %v", ended, err)
		}
	})
}

// A claim that waits is ended by freeing its address alone, too.
func TestFreeingAnAddressEndsItsClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newcomer(t)
		claim := holdCall(t.Context(), r, "x", ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx("10.32.0.9/12")})
		if ended, err := claim(); ended {
			t.Fatalf("ended with %v", err)
		}
		freed(t, r, "x", "10.32.0.9", "0\n")
		if ended, err := claim(); !ended || !errors.Is(err, errFreed) {
			t.Errorf("ended %v with %v", ended, err)
		}
	})
}

// Between obtaining an address and locking its ID, the ID may be freed, or the host
// be reset: then nothing is held.
func TestAHeldAddressThatIsNoLonger(t *testing.T) {
	for what, between := range map[string]struct {
		do   func(*testing.T, *Router) func() (bool, error)
		want error
	}{
		"freed": {func(t *testing.T, r *Router) func() (bool, error) {
			return call(func() error { _, err := r.freeHeld(t.Context(), "x", netip.Addr{}); return err })
		}, errFreed},
		"reset": {func(_ *testing.T, r *Router) func() (bool, error) {
			r.mu.Lock()
			r.resetting = true
			r.mu.Unlock()
			return func() (bool, error) { return true, nil }
		}, errResetting},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := joined(t)
			key := heldPrefix + "x"
			unlock, err := r.ops.lock(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			hold := holdCall(t.Context(), r, "x", ipam.AddrArg{Kind: ipam.ArgDefault})
			if ended, err := hold(); ended || len(r.holds(key)) != 1 {
				t.Fatalf("%s: ended %v with %v, and it has %v", what, ended, err, r.holds(key))
			}
			done := between.do(t, r)
			synctest.Wait()
			unlock()
			if ended, err := hold(); !ended || !errors.Is(err, between.want) {
				t.Errorf("%s: ended %v with %v", what, ended, err)
			}
			if ended, err := done(); !ended || err != nil {
				t.Errorf("%s: ended %v with %v", what, ended, err)
			}
			if r.attached[key] != nil || len(r.holds(key)) != 0 {
				t.Errorf("%s: attached as %+v, and it has %v", what, r.attached[key], r.holds(key))
			}
		})
	}
}

// The /ip verbs as programs use them, over the socket.
func TestHeldAddressesOverTheAPI(t *testing.T) {
	r := joined(t)
	client := serve(t, r)
	for _, step := range []struct {
		method, path, want string
		code               int
	}{
		{"GET", "/ip/x", "", 404},
		{"PUT", "/ip/x/10.32.0.9/12", "10.32.0.9/12\n", 0},
		{"PUT", "/ip/y/10.32.0.9/12", "", 409},
		{"POST", "/ip/x", "10.32.0.9/12\n", 0}, // which it has in this subnet
		{"POST", "/ip/y", "10.32.0.1/12\n", 0},
		{"POST", "/ip/x/10.33.0.0/16", "10.33.0.1/16\n", 0},
		{"GET", "/ip/x", "10.32.0.9/12\n10.33.0.1/16\n", 0},
		{"GET", "/ip/x/10.33.0.0/16", "10.33.0.1/16\n", 0},
		{"GET", "/ip/x/10.34.0.0/16", "", 404},
		{"GET", "/ip/x/garbage/16", "", 400},
		{"DELETE", "/ip/x/10.32.0.77", "", 404},
		{"DELETE", "/ip/x/garbage", "", 400},
		{"DELETE", "/ip/x/10.32.0.9/33", "", 400},
		{"DELETE", "/ip/x/10.32.0.9/12", "1\n", 0},
		{"GET", "/ip/x", "10.33.0.1/16\n", 0},
		{"PUT", "/ip/x/10.33.0.1/24", "10.33.0.1/24\n", 0}, // which it has, with another length
		{"GET", "/ip/x", "10.33.0.1/24\n", 0},
		{"POST", "/ip/x/10.33.0.0/24", "10.33.0.1/24\n", 0},
		{"POST", "/ip/x/10.33.0.0/16", "10.33.0.2/16\n", 0},
		{"DELETE", "/ip/x/10.33.0.2", "1\n", 0},
		{"DELETE", "/ip/x", "1\n", 0},
		{"DELETE", "/ip/x", "", 404},
		{"GET", "/ip/y", "10.32.0.1/12\n", 0},
	} {
		var got string
		err := client.Do(t.Context(), step.method, step.path, nil, &got)
		e, _ := errors.AsType[*api.Error](err)
		if step.code == 0 && (err != nil || got != step.want) || step.code != 0 && (e == nil || e.Code != step.code) {
			t.Errorf("%s %s: %q, %v", step.method, step.path, got, err)
		}
	}
	// A caller that hangs up ends its call, and so does a DELETE.
	share(r, peer.ID{9})
	impatient, hangUp := context.WithCancel(t.Context())
	wait := make(chan error, 2)
	go func() { wait <- client.Do(impatient, "POST", "/ip/z", nil, nil) }()
	until(t, "the POST waits", func() bool { return r.waiting() == 1 })
	hangUp()
	<-wait
	until(t, "nobody waits", func() bool { return r.waiting() == 0 })
	go func() { wait <- client.Do(t.Context(), "POST", "/ip/z", nil, nil) }()
	until(t, "the POST waits", func() bool { return r.waiting() == 1 })
	var got string
	if err := client.Do(t.Context(), "DELETE", "/ip/z", nil, &got); err != nil || got != "0\n" {
		t.Errorf("DELETE of what waits: %q, %v", got, err)
	}
	if err := <-wait; err == nil || !strings.Contains(err.Error(), "the ID was freed") {
		t.Errorf("the POST: %v", err)
	}
}

// serve has a router's API answer, and gives a client of it.
func serve(t *testing.T, r *Router) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "weft.sock")
	server, err := api.New(api.Options{Socket: socket, Routes: r.Routes()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	select {
	case <-server.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return api.NewClient(socket)
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(10 * time.Second); !is(); <-tick.C {
		if time.Now().After(give) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
