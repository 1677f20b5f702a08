package router

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/host"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

type noTunnel struct{}

func (noTunnel) Connect(context.Context, mesh.Record, netip.AddrPort, bool) error { return nil }
func (noTunnel) LastReceive(peer.ID) (time.Duration, bool)                        { return 0, false }

// founder is a host that has founded a mesh, whose router is started again and again.
type founder struct {
	t          testing.TB
	state, run string
	id         *peer.Identity
	member     membership
	store      func(mesh.Store) mesh.Store // nil: that of the state file
	containers bool                        // run here: what they have is still to be adopted
	network    mesh.Network                // nil: the mesh is not run
}

func newFounder(t testing.TB) *founder {
	t.Helper()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	whole := pfx("10.32.0.0/12")
	f := &founder{t: t, state: filepath.Join(t.TempDir(), "state.db"), run: t.TempDir(), id: id}
	f.member = membership{Secret: mesh.NewSecret(), Founding: mesh.Founding{Founder: id.ID(), Nonce: 7, Range: whole, Subnet: whole}}
	return f
}

func (f *founder) start() *Router {
	f.t.Helper()
	db, damaged, err := openState(f.state)
	if err != nil {
		f.t.Fatal(err)
	}
	r := &Router{id: f.id, log: slog.New(slog.NewTextHandler(f.t.Output(), nil)), linger: map[nameKey]leaving{}, lastAlive: map[peer.ID]time.Time{}, wasAlive: map[peer.ID]bool{}, poke: make(chan struct{}, 1), damaged: damaged, member: f.member, began: time.Now(), o: Options{RunDir: f.run}}
	if r.db, r.unprovenBy, err = openMarked(db, f.run); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = r.db.Close() })
	var store mesh.Store = r.db
	if f.store != nil {
		store = f.store(store)
	}
	if r.mesh, err = mesh.New(mesh.Options{Identity: f.id, Secret: f.member.Secret, Nickname: "host", Founding: f.member.Founding, Store: store, Tunnel: noTunnel{},
		Endpoints: func() []netip.AddrPort { return nil }, OnChange: func() {}, Obsolete: r.obsolete, Handle: r.handle, Log: r.log, Network: f.network}); err != nil {
		f.t.Fatal(err)
	}
	if r.host, err = host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName, Log: r.log}); err != nil {
		f.t.Fatal(err)
	}
	r.judgeState()
	if !f.containers {
		r.db.settle()
	}
	r.restoreAllocations(f.member.Founding)
	return r
}

// restart changes the state, then has do something to the stopped host.
func (f *founder) restart(r *Router, do func()) *Router {
	f.t.Helper()
	if err := r.db.Apply("x", map[string][]byte{"k": []byte(time.Now().String())}, nil); err != nil {
		f.t.Fatal(err)
	}
	if err := r.db.Close(); err != nil {
		f.t.Fatal(err)
	}
	do()
	return f.start()
}

// A host that knows no other needs nobody's word, unless its own mark contradicts.
func TestAloneAndProven(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	if r.unproven {
		t.Errorf("a founder begins unproven: %s", r.unprovenBy)
	}
	old, err := os.ReadFile(f.state)
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(f.run, markFile)
	if r = f.restart(r, func() {}); r.unproven {
		t.Errorf("after a restart: %s", r.unprovenBy)
	}
	r.db.now = func() time.Duration { return sinceBoot() - 2*markAge }
	r.db.vouch()
	if r = f.restart(r, func() {}); r.unproven {
		t.Errorf("after a while: %s", r.unprovenBy)
	}
	r = f.restart(r, func() {
		if err := os.Remove(mark); err != nil {
			t.Error(err)
		}
	})
	if r.unprovenBy != wasBooted || !r.unproven {
		t.Errorf("after a reboot, which may have been into an old state: unproven %v, %q", r.unproven, r.unprovenBy)
	}
	if _, _, err := r.tryAllocate("c", netip.Prefix{}); !errors.Is(err, ipam.ErrUnproven) {
		t.Errorf("it allocates: %v", err)
	}
	// Names are not answered before it is known whose their addresses are.
	r.attached = map[string]*attachment{"c": {Key: "c", Addrs: []netip.Prefix{pfx("10.32.0.1/12"), pfx("192.0.2.1/24")}, running: true,
		Names: []attachedName{{FQDN: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}, {FQDN: "web.weft.local.", Addr: netip.MustParseAddr("192.0.2.1")}}}}
	names := func() int { return len(r.announce().Names) }
	if n := names(); n != 1 {
		t.Errorf("%d names are announced in doubt, want that out of the range", n)
	}
	r.doubted = time.Now().Add(-2 * holdBack)
	if n := names(); n != 2 {
		t.Errorf("%d names are announced when nobody was heard for long", n)
	}
	r.doubted = time.Now()
	r.alone()
	if n := names(); n != 2 {
		t.Errorf("%d names are announced without doubt", n)
	}
	r = f.restart(r, func() {
		if err := os.WriteFile(f.state, old, 0o600); err != nil {
			t.Error(err)
		}
	})
	if !r.unproven {
		t.Error("a state from before the others joined counts as the latest")
	}
}

// What its mark contradicts is not the latest at the next start either, nor when the same
// copy is put back once more, although the host knows no other; until somebody vouches for it.
func TestContradictionLasts(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	old, err := os.ReadFile(f.state)
	if err != nil {
		t.Fatal(err)
	}
	putBack := func() {
		if err := os.WriteFile(f.state, old, 0o600); err != nil {
			t.Error(err)
		}
	}
	for _, start := range []struct {
		what   string
		before func()
	}{{"an older copy", putBack}, {"the next start", func() {}}, {"the same copy", putBack}, {"after a reboot", func() {
		if err := os.Remove(filepath.Join(f.run, markFile)); err != nil {
			t.Error(err)
		}
	}}} {
		if r = f.restart(r, start.before); !r.unproven || !strings.Contains(r.unprovenBy, "older copy") {
			t.Errorf("%s: unproven %v, %q", start.what, r.unproven, r.unprovenBy)
		}
		r.db.now = func() time.Duration { return sinceBoot() + 2*markAge } // nor after a sleep
		r.mu.Lock()
		r.noticeSleepLocked()
		r.mu.Unlock()
	}
	r.alone()
	if r = f.restart(r, func() {}); r.unproven {
		t.Errorf("after the operator's word: %q", r.unprovenBy)
	}
}

// A router that was stopped, or whose host was suspended, looks again before it gives
// anything out; so does the next start, if it is killed first.
func TestAsleepAndUnproven(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	asleep := -4 * markAge // so that it is over at the end
	r.db.now = func() time.Duration { return sinceBoot() + asleep }
	r.db.vouch()
	asleep += 2 * markAge
	if _, _, err := r.tryAllocate("c", netip.Prefix{}); errors.Is(err, ipam.ErrUnproven) {
		t.Errorf("nobody can have taken it for dead: %v", err)
	}
	f.member.Targets = []string{"host2"} // from now on there is somebody
	r.member = f.member
	asleep += markAge - time.Second
	if err := r.mayTake(); err != nil {
		t.Errorf("after a short sleep: %v", err)
	}
	r.db.touch()
	asleep += markAge + time.Second
	if r = f.restart(r, func() {}); !r.unproven || r.unprovenBy != wasAway {
		t.Errorf("a start after a sleep: unproven %v, %q", r.unproven, r.unprovenBy)
	}
	if err := r.db.Close(); err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string]func(r *Router) error{
		"allocate": func(r *Router) error { _, _, err := r.tryAllocate("c", netip.Prefix{}); return err },
		"take":     func(r *Router) error { return r.mayTake() },
		"give":     gives,
		"vote":     func(r *Router) error { return errors.Join(append(r.deliberate(), suspended(r))...) },
		"prime": func(r *Router) error {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- r.prime(ctx) }()
			until(t, "prime looks", func() bool { return suspended(r) != nil })
			cancel()
			<-ended
			return suspended(r)
		},
		"wire": func(r *Router) error {
			return r.wire(&attachment{Key: "c", NetNS: "/nowhere", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}})
		},
		"keep": func(r *Router) error {
			return r.stillHeldLocked("c", []ipam.Allocation{{Container: "c", Addr: pfx("10.32.0.1/12")}})
		},
	} {
		r := f.start()
		r.alone()
		f.seeded(r)
		if err := gives(r); err != nil {
			t.Errorf("%s: awake, it does not give: %v", what, err)
		}
		asleep := time.Duration(0)
		r.db.now = func() time.Duration { return sinceBoot() + asleep }
		asleep = markAge + time.Second
		if err := try(r); !errors.Is(err, ipam.ErrUnproven) && !errors.Is(err, errUnproven) {
			t.Errorf("%s: %v", what, err)
		}
		if !r.isUnproven() || r.unprovenBy != wasAsleep {
			t.Errorf("%s: unproven %v, %q", what, r.unproven, r.unprovenBy)
		}
		r.db.touch()
		if _, err := os.Stat(filepath.Join(f.run, markFile)); err == nil {
			t.Errorf("%s: the mark vouches on", what)
		}
		if err := r.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// gives says whether r would give space to another host.
func gives(r *Router) error {
	gift, err := r.give(peer.ID{9}, wholeRange)
	if err == nil && gift == nil {
		return ipam.ErrUnproven
	}
	return err
}

func suspended(r *Router) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unproven {
		return ipam.ErrUnproven
	}
	return nil
}

// seeded has r own the range, for its log too.
func (f *founder) seeded(r *Router) {
	f.t.Helper()
	b, err := encodeGrant(ipam.Seed(wholeRange, ipam.Owner(f.id.ID())))
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindGrant, Payload: b}); err != nil {
		f.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.spaceNowLocked(); err != nil {
		f.t.Fatal(err)
	}
}

// While it is not certain what running containers have, nothing is given to anybody, and
// `weft prime` waits.
func TestUnadoptedAndPrimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFounder(t)
		r := f.start()
		f.seeded(r)
		r.mu.Lock()
		r.unadopted = errUnadopted
		r.mu.Unlock()
		if err := gives(r); !errors.Is(err, ipam.ErrUnproven) {
			t.Errorf("it gives space: %v", err)
		}
		primed := call(func() error { return r.prime(t.Context()) })
		allocated := call(func() error { _, _, err := r.allocate(t.Context(), "c", netip.Prefix{}); return err })
		for what, done := range map[string]func() (bool, error){"prime": primed, "attach": allocated} {
			if ended, err := done(); ended {
				t.Errorf("%s does not wait: %v", what, err)
			}
		}
		r.mu.Lock()
		r.unadopted = nil
		r.mu.Unlock()
		r.passes.wake()
		for what, done := range map[string]func() (bool, error){"prime": primed, "attach": allocated} {
			if ended, err := done(); !ended || err != nil {
				t.Errorf("%s: ended %v, %v", what, ended, err)
			}
		}
		if err := gives(r); err != nil {
			t.Errorf("it gives no space: %v", err)
		}
	})
}

// A host that is its whole mesh waits after a reboot, so that one that knows more can meet it.
func TestAloneAfterAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFounder(t)
		r := f.restart(f.start(), func() {
			if err := os.Remove(filepath.Join(f.run, markFile)); err != nil {
				t.Error(err)
			}
		})
		var asleep atomic.Int64
		r.db.now = func() time.Duration { return sinceBoot() + time.Duration(asleep.Load()) }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.proveState(ctx) }()
		time.Sleep(dialIn - time.Second)
		if !r.isUnproven() {
			t.Error("it does not wait")
		}
		asleep.Store(int64(markAge + time.Second)) // nobody can have met it meanwhile
		time.Sleep(dialIn)
		if !r.isUnproven() {
			t.Error("it does not wait anew after a sleep")
		}
		time.Sleep(markEvery + time.Second)
		if r.isUnproven() {
			t.Error("it waits for ever")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
