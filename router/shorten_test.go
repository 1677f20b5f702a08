package router

import (
	"fmt"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// A host that hundreds have visited, each with a part of its space for a while: its log tells of the last ones only, and of the base; it
// owns what it owned.
func TestLogsOfManyVisitors(t *testing.T) {
	f := newFounder(t)
	start := func() *Router {
		r := f.start()
		r.taking, r.lastAlive, r.wasAlive = map[peer.ID]wish{}, map[peer.ID]time.Time{}, map[peer.ID]bool{}
		return r
	}
	r := start()
	self := ipam.Owner(f.id.ID())
	write := func(kind mesh.Kind, payload []byte, err error) {
		t.Helper()
		if err == nil {
			_, err = r.mesh.Append(mesh.Draft{Kind: kind, Payload: payload})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	seed, err := encodeGrant(ipam.Seed(pfx("10.32.0.0/12"), self))
	write(mesh.KindGrant, seed, err)
	version := uint32(1)
	visit := func(n int) {
		t.Helper()
		for range n {
			v := newSigner(t, f.member.Secret)
			g := ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: self, To: ipam.Owner(v.id.ID()), Version: version + 1}
			p, err := encodeGrant(g)
			write(mesh.KindGrant, p, err)
			back := ipam.Grant{Prefix: g.Prefix, From: g.To, To: self, Version: version + 2}
			write(mesh.KindGrant, encodeCarried(v.id.Public(), v.grant(t, back)), nil)
			version += 2
		}
	}
	said := func() int { return saidOfRing(r.mesh.State()) }
	speak := func() {
		t.Helper()
		for range 20 {
			for _, err := range r.deliberate() {
				t.Fatal(err)
			}
			r.nextBallot = time.Time{}
		}
	}
	owned := func() string {
		t.Helper()
		b, err := r.booksNow()
		if err != nil {
			t.Fatal(err)
		}
		return ipam.Owner(f.id.ID()).String() + " " + fmt.Sprint(b.ledger.Ring().Owned(self)) + " " + fmt.Sprint(b.ledger.Usable())
	}
	visit(longLog/2 - 20)
	speak()
	if b, _ := r.booksNow(); b.ledger.Base() != nil {
		t.Error("a short log has a base")
	}
	want := owned()
	for round := range 3 {
		visit(longLog / 2)
		before := said()
		speak()
		b, err := r.booksNow()
		if err != nil || b.ledger.Base() == nil {
			t.Fatalf("no base (%v)", err)
		}
		if got := said(); got < before || got > before+worthIt {
			t.Errorf("round %d: %d entries, then %d: a base is decided once", round, before, got)
		}
		r = f.restart(r, func() {})
		r.taking, r.lastAlive, r.wasAlive = map[peer.ID]wish{}, map[peer.ID]time.Time{}, map[peer.ID]bool{}
		visit(1) // opens the epoch
		if got := said(); got > 16 {
			t.Errorf("round %d: %d entries about the ring after a base", round, got)
		}
		if got := owned(); got != want {
			t.Errorf("round %d: it owns %s, before %s", round, got, want)
		}
	}
}
