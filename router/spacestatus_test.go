package router

import (
	"context"
	"slices"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// gives has r's log say that a host has given some of its own to another.
func (f *founder) gives(r *Router, to peer.ID, prefix string) {
	f.t.Helper()
	p, err := encodeGrant(ipam.Grant{Prefix: pfx(prefix), From: ipam.Owner(f.id.ID()), To: ipam.Owner(to), Version: 2})
	f.said(r, p, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.spaceNowLocked(); err != nil {
		f.t.Fatal(err)
	}
}

// What `weft status` says of addresses, once the ring has begun.
func TestStatusOfSpace(t *testing.T) {
	const (
		part, all = "10.40.0.0/13", "10.32.0.0/12"
		away      = "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
		full      = "waiting for IP(s) to become available"
	)
	for _, c := range []struct {
		what                       string
		given                      string // to another host
		near, third                bool   // that one is in reach; and so is one that owns nothing
		observer, waiting, priming bool
		want                       string
	}{
		{what: "it has a part", given: part, near: true, want: "ready"},
		{what: "it has a part, and all others are away", given: part, want: "ready"},
		{what: "it has none yet", given: all, near: true, want: "priming"},
		{what: "an observer has none", given: all, near: true, observer: true, want: "idle"},
		{what: "an observer has a part", given: part, near: true, observer: true, want: "ready"},
		{what: "an observer is primed", given: all, near: true, observer: true, priming: true, want: "priming"},
		{what: "somebody waits here", given: all, near: true, waiting: true, want: full},
		{what: "somebody waits at an observer", given: all, near: true, observer: true, waiting: true, want: full},
		{what: "somebody waits, and whoever owns anything is away", given: all, waiting: true, want: away},
		{what: "and who is in reach owns nothing", given: all, third: true, waiting: true, want: away},
		{what: "somebody waits where there is a part, and all others are away", given: part, waiting: true, want: full},
	} {
		f := newFounder(t)
		r := f.start()
		f.seeded(r)
		f.gives(r, peer.ID{9}, c.given)
		r.beginning.observer = c.observer
		r.waitsForSpace(boolInt(c.waiting), boolInt(c.priming))
		st := *r.mesh.State()
		st.Hosts = append(slices.Clone(st.Hosts), mesh.Host{ID: peer.ID{9}, Liveness: mesh.Failed}, mesh.Host{ID: peer.ID{8}, Liveness: mesh.Failed})
		for i := range st.Hosts {
			if id := st.Hosts[i].ID; id == (peer.ID{9}) && c.near || id == (peer.ID{8}) && c.third {
				st.Hosts[i].Liveness = mesh.Alive
			}
		}
		if got := r.ipamReport(&st, nil).Status; got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Who has three quarters of a subnet is asked first three times out of four; who has none of it, and this host itself, never.
func TestDonorsAreWeighted(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	f.seeded(r)
	much, little := peer.ID{1}, peer.ID{2}
	for to, prefixes := range map[peer.ID][]string{much: {"10.40.0.0/15", "10.44.0.0/16"}, little: {"10.45.0.0/16"}} {
		for _, p := range prefixes {
			f.gives(r, to, p)
		}
	}
	first := map[peer.ID]int{}
	const n = 4000
	for range n {
		ids, err := r.donors(want{wholeRange, true})
		if err != nil || len(ids) != 2 || slices.Contains(ids, f.id.ID()) {
			t.Fatalf("asked are %v (%v)", ids, err)
		}
		first[ids[0]]++
	}
	if got := first[much]; got < n*70/100 || got > n*80/100 { // seven standard deviations
		t.Errorf("who has three quarters comes first %d times of %d", got, n)
	}
	for subnet, whom := range map[string][]peer.ID{"10.44.7.0/24": {much}, "10.45.0.0/16": {little}, "10.32.0.0/24": nil} {
		if ids, err := r.donors(want{pfx(subnet), true}); err != nil || !slices.Equal(ids, whom) {
			t.Errorf("asked for space in %s are %v (%v), want %v", subnet, ids, err, whom)
		}
	}
}

// Half of a single address is nothing: who needs it asks for that very address, and who needs none does not.
func TestTheLastAddressIsAskedForByName(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	f.seeded(r)
	one, two := peer.ID{1}, peer.ID{2}
	for to, prefixes := range map[peer.ID][]string{one: {"10.45.0.9/32", "10.46.0.0/32"}, two: {"10.45.0.16/31"}} {
		for _, p := range prefixes {
			f.gives(r, to, p)
		}
	}
	for _, c := range []struct {
		id           peer.ID
		subnet       string
		needed, idle string
	}{
		{one, "10.45.0.0/24", "10.45.0.9/32", "10.45.0.0/24"},
		{one, "10.45.0.0/16", "10.45.0.9/32", "10.45.0.0/16"},
		{one, "10.32.0.0/12", "10.32.0.0/12", "10.32.0.0/12"}, // there are two
		{one, "10.46.0.0/24", "10.46.0.0/24", "10.46.0.0/24"}, // nobody can have the first of a subnet
		{two, "10.45.0.0/24", "10.45.0.0/24", "10.45.0.0/24"},
		{two, "10.45.0.16/32", "10.45.0.16/32", "10.45.0.16/32"},
	} {
		for needed, want := range map[bool]string{true: c.needed, false: c.idle} {
			if got := r.asksFor(c.id, wantIn(c.subnet, needed)); got != pfx(want) {
				t.Errorf("%v is asked for space in %s, needed %v, by asking for %v, want %s", c.id, c.subnet, needed, got, want)
			}
		}
	}
}

func wantIn(subnet string, needed bool) want { return want{pfx(subnet), needed} }

// An attach whose client hangs up ends, over the socket as here, and nothing is kept for it.
func TestAttachHangsUpOverTheAPI(t *testing.T) {
	h := newRealHost(t)
	h.mu.Lock()
	ring, _ := ipam.NewRing(wholeRange, []ipam.Grant{ipam.Seed(wholeRange, ipam.Owner(peer.ID{9}))})
	h.alloc.SetRing(ring)
	h.mu.Unlock()
	h.asks.may, h.asks.call = h.mayAsk, h.askOne
	client := serve(t, h.Router)
	key := "netns:" + pidNetNS(h.process())
	impatient, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { // on another thread, not in this host: it must not come to making anything
		ended <- client.Do(impatient, "POST", "/attach", attachRequest{Container: key}, nil)
	}()
	until(t, "the attach waits", func() bool { return h.waiting() == 1 })
	hangUp()
	if err := <-ended; err == nil {
		t.Error("it is attached")
	}
	until(t, "nobody waits", func() bool { return h.waiting() == 0 })
	h.share()
	h.passes.wake()
	if as := h.holds(key); len(as) > 0 || h.isAttached(key) {
		t.Errorf("who hung up has %v", as)
	}
	h.really("")
}
