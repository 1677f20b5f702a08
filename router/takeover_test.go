package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// What an elector decides stays for ever: a member can not have it decide about hosts
// that never were, nor about itself.
func TestTakeoversOfNobody(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.taking, r.lastAlive, r.began = map[peer.ID]wish{}, map[peer.ID]time.Time{}, time.Now().Add(-2*deadAfter)
	for _, dead := range []peer.ID{{9}, f.id.ID()} {
		if _, err := r.handle(t.Context(), peer.ID{7}, methodTake, dead[:]); err == nil || !strings.Contains(err.Error(), "no other host") {
			t.Errorf("%v: %v", dead, err)
		}
	}
	if len(r.taking) > 0 {
		t.Errorf("wishes: %v", r.taking)
	}
}

func TestWhichTakeoverIsProposed(t *testing.T) {
	now := time.Now()
	self, other := peer.ID{1}, peer.ID{7}
	b := &books{st: &mesh.State{Self: self}}
	r := &Router{taking: map[peer.ID]wish{
		{2}: {to: other, since: now.Add(-time.Minute)},
		{3}: {to: other, since: now},
		{4}: {since: now}, // the operator's
		{5}: {since: now.Add(time.Second)},
		{6}: {since: now.Add(-time.Hour)},
	}}
	alive := map[ipam.Owner]bool{{6}: true} // it can not be taken over
	for _, want := range []struct{ dead, to peer.ID }{{peer.ID{4}, self}, {peer.ID{5}, self}, {peer.ID{2}, other}, {peer.ID{3}, other}} {
		for range 20 {
			v := r.wishLocked(b, func(o ipam.Owner) bool { return !alive[o] })
			if len(v.Hosts) != 2 || v.Op != ipam.OpTake || peer.ID(v.Hosts[0]) != want.dead || peer.ID(v.Hosts[1]) != want.to {
				t.Fatalf("%v, want %v", v, want)
			}
		}
		delete(r.taking, want.dead)
	}
	if v := r.wishLocked(b, func(o ipam.Owner) bool { return !alive[o] }); v.Op != 0 {
		t.Errorf("proposed at last: %v", v)
	}
}

// A takeover that others do not agree to keeps no other waiting; the ballot under way is for what it began with.
func TestTakeoversAreProposedByTurns(t *testing.T) {
	now := time.Now()
	self := peer.ID{1}
	b := &books{st: &mesh.State{Self: self}}
	r := &Router{taking: map[peer.ID]wish{{2}: {since: now}, {3}: {since: now.Add(time.Second)}, {4}: {to: peer.ID{7}, since: now}}}
	got := ""
	for range 6 {
		v := r.wishLocked(b, func(ipam.Owner) bool { return true })
		r.triedLocked(v)
		r.nextBallot = time.Now().Add(time.Hour)
		for range 20 {
			if again := r.wishLocked(b, func(ipam.Owner) bool { return true }); !slices.Equal(again.Hosts, v.Hosts) {
				t.Fatalf("during the ballot for %v the wish is %v", v, again)
			}
		}
		r.nextBallot = time.Time{}
		got += fmt.Sprint(v.Hosts[0][0])
	}
	if got != "232323" {
		t.Errorf("ballots are for %s", got)
	}
	r.nextBallot = time.Now().Add(time.Hour) // … for 3, which is decided
	if v := r.wishLocked(b, func(o ipam.Owner) bool { return o != ipam.Owner{3} }); v.Hosts[0] != (ipam.Owner{2}) {
		t.Errorf("then %v", v)
	}
}

func TestWhyNobodyProposes(t *testing.T) {
	for want, refusals := range map[string][]string{
		"nobody proposes that x(host4) is dead: no host that may decide is in reach; try: `weft status peers` shows who is in reach": nil,
		"nobody proposes that x(host4) is dead: y(host1): x(host4) was seen here 30s ago; z(host2): 8 takeovers are wished already; try: try again in a minute: weft rmpeer " +
			peer.ID{4}.String(): {"y(host1): x(host4) was seen here 30s ago", "z(host2): 8 takeovers are wished already"},
	} {
		if got := describe(notProposed(peer.ID{4}, "x(host4)", refusals)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func sortHosts(hs []mesh.Host) {
	slices.SortFunc(hs, func(a, b mesh.Host) int { return a.ID.Compare(b.ID) })
}

// Wishes of others that are decided take no place, and who asks is told who refuses what.
func TestWishesOfOthersHaveBounds(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.taking, r.began = map[peer.ID]wish{}, time.Now().Add(-2*deadAfter)
	st := r.mesh.State()
	for i := range byte(maxWishes + 2) {
		st.Hosts = append(st.Hosts, mesh.Host{ID: peer.ID{i + 1}, Liveness: mesh.Failed})
	}
	sortHosts(st.Hosts)
	self := ipam.Owner(r.id.ID())
	facts := []ipam.Fact{{By: self, Kind: ipam.FactGrant, Grant: ipam.Seed(wholeRange, self)}}
	set := func() {
		b := &books{st: st, folded: folded{Gone: map[peer.ID]bool{}, Facts: facts}}
		b.ledger = ipam.NewLedger(self, self, wholeRange, facts)
		r.books.Store(b)
	}
	set()
	asker := peer.ID{99}
	ask := func(dead byte) error {
		d := peer.ID{dead}
		return r.proposeFor(asker, d[:])
	}
	for i := range byte(maxWishes) {
		if err := ask(i + 1); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := ask(maxWishes + 1); err == nil || !strings.Contains(err.Error(), "8 takeovers are wished already") {
		t.Errorf("one too many: %v", err)
	}
	v := ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{{1}, ipam.Owner(asker)}}
	ballot := ipam.Ballot{Round: 1, By: self}
	facts = append(facts, ipam.Fact{By: self, Kind: ipam.FactVote, Vote: ipam.Vote{Instance: 1, Promised: ballot, Intent: v, Accepted: ballot, Value: v}})
	set()
	if err := ask(maxWishes + 1); err != nil {
		t.Errorf("when one is decided: %v", err)
	}
	if err := ask(1); err == nil || !strings.Contains(err.Error(), "was taken over already") {
		t.Errorf("what is decided: %v", err)
	}
}

func TestMajority(t *testing.T) {
	es := []ipam.Owner{{1}, {2}, {3}, {4}}
	for n, want := range map[int]bool{0: false, 2: false, 3: true, 4: true} {
		if got := majority(es, func(o ipam.Owner) bool { return int(o[0]) <= n }); got != want {
			t.Errorf("%d of 4: %v", n, got)
		}
	}
}

// A host that this router has not seen since its start was not seen: all that is
// known is for how long the router runs.
func TestTooSoonToTakeForDead(t *testing.T) {
	for _, c := range []struct {
		away      time.Duration
		seen      bool
		want, not string
	}{
		{5 * time.Second, true, "host3 was seen 5s ago, and is taken for dead after 1m0s", "has run"},
		{5 * time.Second, false, "host3 is not known to have been out of reach for 1m0s: the router of this host has run for 5s", "was seen"},
	} {
		err := tooSoon("host3", "host3", c.away, c.seen)
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.not) {
			t.Errorf("%v", err)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Tip != "try again in 55s: weft rmpeer host3" {
			t.Errorf("%#v", err)
		}
	}
}
