package router

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
	"weft/ipam"
	"weft/peer"
)

// lives starts a router whose mesh runs, on a host of net, until the test ends. It is for bubbles.
func (f *founder) lives(net *simnet.Net, addr netip.Addr) *Router {
	f.t.Helper()
	f.network = net.Host(addr.String(), addr, peer.ControlAddr(f.member.Secret.MeshID().Control(), f.id.ID()))
	r := f.start()
	r.wanted.Store(&announced{})
	r.mesh.SetBase(r.base)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.mesh.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
		time.Sleep(time.Minute) // of the bubble: memberlist's probes end by themselves
	})
	<-r.mesh.Ready()
	return r
}

// A host that has not heard from another yet, and sleeps: what it was told before is not the latest, and what it is told then is.
func TestAsleepWhileUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := simnet.New(1)
		founder := newFounder(t)
		first, at := founder.lives(net, netip.MustParseAddr("192.168.1.1")), "192.168.1.1:6783"
		other := newFounder(t)
		other.member = membership{Secret: founder.member.Secret}
		r := other.lives(net, netip.MustParseAddr("192.168.1.2"))
		asleep := time.Duration(0)
		r.db.now = func() time.Duration { return sinceBoot() + asleep }
		if !r.isUnproven() {
			t.Fatal("it needs nobody's word")
		}
		if err := r.mesh.Connect([]string{at}, false); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			if r.mesh.State().Heard {
				break
			}
			time.Sleep(time.Second)
		}
		if !r.mesh.State().Heard || len(first.mesh.State().Hosts) != 2 {
			t.Fatalf("it has not heard from the founder, which knows %d hosts", len(first.mesh.State().Hosts))
		}
		asleep = markAge + time.Second
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.proveState(ctx) }()
		synctest.Wait()
		if !r.isUnproven() || r.mesh.State().Heard {
			t.Error("after the sleep, what it was told before proves its state")
		}
		if r.unprovenBy != stateNew {
			t.Errorf("unproven by %q", r.unprovenBy)
		}
		time.Sleep(time.Minute)
		if r.isUnproven() {
			t.Error("nothing proves its state")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A router that lives has its log become shorter by itself, once, and goes on.
func TestALivingRouterBecomesShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFounder(t)
		r := f.lives(simnet.New(1), netip.MustParseAddr("192.168.1.1"))
		synctest.Wait()
		self := ipam.Owner(f.id.ID())
		version := uint32(1)
		visit := func(n int) {
			t.Helper()
			for range n {
				v := newSigner(t, f.member.Secret)
				g := ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: self, To: ipam.Owner(v.id.ID()), Version: version + 1}
				p, err := encodeGrant(g)
				f.said(r, p, err)
				back := ipam.Grant{Prefix: g.Prefix, From: g.To, To: self, Version: version + 2}
				f.said(r, encodeCarried(v.id.Public(), v.grant(t, back)), nil)
				version += 2
			}
		}
		epoch := func() uint64 { return r.mesh.State().Logs[f.id.ID()][0].Epoch }
		pass := func(n int) {
			t.Helper()
			for range n {
				for _, err := range r.deliberate() {
					t.Fatal(err)
				}
				r.nextBallot = time.Time{}
				synctest.Wait()
			}
		}
		visit(longLog)
		before := epoch()
		pass(20)
		if n := saidOfRing(r.mesh.State()); n > 16 || epoch() == before {
			t.Errorf("%d entries about the ring, in a new epoch: %v", n, epoch() != before)
		}
		shorter := epoch()
		visit(longLog)
		pass(20)
		if n := saidOfRing(r.mesh.State()); n < longLog || epoch() != shorter {
			t.Errorf("within the pause: %d entries, in a new epoch: %v", n, epoch() != shorter)
		}
		time.Sleep(shortenPause)
		pass(3)
		if n := saidOfRing(r.mesh.State()); n > 16 || epoch() == shorter {
			t.Errorf("after the pause: %d entries, in a new epoch: %v", n, epoch() != shorter)
		}
	})
}
