package router

import (
	"errors"
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
