package router

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
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
