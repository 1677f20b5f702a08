package router

import (
	"slices"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

func TestWhoSeeds(t *testing.T) {
	st := &mesh.State{Hosts: []mesh.Host{
		{ID: peer.ID{1}, Record: mesh.Record{Nickname: "host1"}}, {ID: peer.ID{2}, Record: mesh.Record{Nickname: "host2"}},
		{ID: peer.ID{3}, Record: mesh.Record{Nickname: "twin"}}, {ID: peer.ID{4}, Record: mesh.Record{Nickname: "twin"}},
	}}
	id := func(i byte) string { return peer.ID{i}.String() }
	for _, c := range []struct {
		seeds   []string
		known   []ipam.Owner
		missing []string
	}{
		{[]string{"host2", "host1"}, []ipam.Owner{{1}, {2}}, nil},
		{[]string{"host1", "host9"}, []ipam.Owner{{1}}, []string{"host9"}},
		{[]string{"host1", "twin"}, []ipam.Owner{{1}}, []string{"one of the 2 hosts that are called twin: launch anew with peer IDs"}},
		{[]string{"host1", id(3), id(4)}, []ipam.Owner{{1}, {3}, {4}}, nil},
		{[]string{"host1", id(1)}, []ipam.Owner{{1}}, []string{"another host than " + id(1) + ", which is host1 as well: launch anew"}},
	} {
		known, missing := beginning{seeds: c.seeds}.owners(st)
		if !slices.Equal(known, c.known) || !slices.Equal(missing, c.missing) {
			t.Errorf("%v: %v, missing %q", c.seeds, known, missing)
		}
	}
}

// A founder that has lost whom it was to name says so, and others say who is to name them.
func TestNobodyIsNamed(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	p, err := encodeFact(ipam.Fact{By: ipam.Owner(f.id.ID()), Kind: ipam.FactInit, First: 2, Named: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindGrant, Payload: p}); err != nil {
		t.Fatal(err)
	}
	const await = "awaiting the hosts that are to seed the range"
	status := func(want string) {
		t.Helper()
		if s := r.ipamReport(r.mesh.State(), nil).Status; s != await+want {
			t.Errorf("status %q, want %q", s, await+want)
		}
	}
	status(" - launch this host with --ipalloc-init seed=HOST,… to name them")
	r.beginning.seeds = []string{"host1", "host2"}
	status(": host1, host2")
	st := *r.mesh.State()
	st.Self = peer.ID{1}
	if s := r.ipamReport(&st, nil).Status; s != await+", which "+r.show(&st, ipam.Owner(f.id.ID()))+" names" {
		t.Errorf("another host's status: %q", s)
	}
}

// Each ballot is an entry for ever: who is not answered has tried 40 times in a day at most.
func TestBallotsInVain(t *testing.T) {
	n := 0
	for at := time.Duration(0); at < 24*time.Hour; n++ {
		at += ballotWait(n)
	}
	if n > 40 {
		t.Errorf("%d ballots in a day", n)
	}
	if w := ballotWait(0); w > 2*time.Second {
		t.Errorf("the first one is tried again after %v", w)
	}
}

// A host that asks for space of a ring that has not begun is heard: somebody waits.
func TestWhoWaitsIsHeard(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.taking, r.lastAlive, r.wasAlive = map[peer.ID]wish{}, map[peer.ID]time.Time{}, map[peer.ID]bool{}
	p, err := encodeFact(ipam.Fact{By: ipam.Owner(f.id.ID()), Kind: ipam.FactInit, First: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindGrant, Payload: p}); err != nil {
		t.Fatal(err)
	}
	wanted := func() bool {
		b, err := r.booksNow()
		if err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.envLocked(b).Wanted
	}
	if wanted() {
		t.Error("nobody waits")
	}
	if ids, err := r.donors(want{wholeRange, true}); err != nil || !slices.Equal(ids, []peer.ID{f.id.ID()}) {
		t.Errorf("asked are %v (%v)", ids, err)
	}
	if b, err := r.handle(t.Context(), peer.ID{7}, methodAsk, encodePrefix(wholeRange)); err != nil || len(b) > 0 {
		t.Errorf("it is given %x, %v", b, err)
	}
	if !wanted() {
		t.Error("a host that waits is not heard")
	}
}
