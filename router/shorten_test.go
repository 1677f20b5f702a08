package router

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

// Three hosts decide a base; one that did not vote for it makes its log shorter. Whoever comes anew sees the same by that log alone, also
// when the others have left and their logs are gone.
func TestShortLogsProveThemselves(t *testing.T) {
	s := mesh.NewSecret()
	a, b, c := newSigner(t, s), newSigner(t, s), newSigner(t, s)
	whole := pfx("10.32.0.0/12")
	logs := map[peer.ID][]mesh.Entry{}
	hosts := map[peer.ID]mesh.Host{}
	for _, x := range []*signer{a, b, c} {
		hosts[x.id.ID()] = mesh.Host{ID: x.id.ID(), Record: mesh.Record{Identity: x.id.Public()}, Liveness: mesh.Alive}
	}
	r := &Router{id: c.id, member: membership{Secret: s}}
	booksOf := func(x peer.ID, logs map[peer.ID][]mesh.Entry) *books {
		st := &mesh.State{Self: x, Founding: mesh.Founding{Founder: a.id.ID(), Nonce: 7, Range: whole, Subnet: whole}, Logs: logs}
		for _, id := range slices.SortedFunc(maps.Keys(hosts), peer.ID.Compare) {
			st.Hosts = append(st.Hosts, hosts[id])
		}
		bk := &books{st: st, folded: fold(st, s.MeshID(), new(grantCache))}
		bk.ledger = ipam.NewLedger(ipam.Owner(x), ipam.Owner(a.id.ID()), whole, bk.folded.Facts)
		return bk
	}
	write := func(x *signer, payload []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		logs[x.id.ID()] = append(logs[x.id.ID()], x.entry(t, mesh.KindGrant, payload))
	}
	talk := func(baseAt int, who ...*signer) {
		t.Helper()
		for range 30 {
			for _, x := range who {
				bk := booksOf(x.id.ID(), logs)
				e := ipam.Env{Alive: func(ipam.Owner) bool { return true }, Dead: func(ipam.Owner) bool { return false }, Gone: func(ipam.Owner) bool { return false }, Start: true, BaseAt: baseAt}
				for _, h := range bk.st.Hosts {
					e.Hosts = append(e.Hosts, ipam.Owner(h.ID))
				}
				for _, f := range bk.ledger.Next(e) {
					p, err := encodeFact(f)
					write(x, p, err)
				}
			}
		}
	}
	p, err := encodeGrant(ipam.Seed(whole, ipam.Owner(a.id.ID())))
	write(a, p, err)
	give := func(from, to *signer, prefix string, version uint32) {
		t.Helper()
		g := ipam.Grant{Prefix: pfx(prefix), From: ipam.Owner(from.id.ID()), To: ipam.Owner(to.id.ID()), Version: version}
		p, err := encodeGrant(g)
		write(from, p, err)
		write(to, encodeCarried(from.id.Public(), logs[from.id.ID()][len(logs[from.id.ID()])-1]), nil)
	}
	give(a, b, "10.40.0.0/13", 2)
	talk(0, a, b)
	for v := uint32(3); v < 3+worthIt; v += 2 { // to and fro
		give(b, c, "10.44.0.0/14", v)
		give(c, b, "10.44.0.0/14", v+1)
	}
	give(b, c, "10.46.0.0/15", 3+worthIt)
	if es := booksOf(c.id.ID(), logs).ledger.Electors(); len(es) != 2 {
		t.Fatalf("electors %v", es)
	}
	talk(1, a, b)
	bk := booksOf(c.id.ID(), logs)
	if bk.ledger.Base() == nil {
		t.Fatal("no base")
	}
	want := fmt.Sprint(bk.ledger.Ring().Parts(), bk.ledger.Electors())
	r.books.Store(bk)
	if ps := r.proofs(bk, []netip.Prefix{pfx("10.44.0.0/14")}, peer.ID{9}, peer.ID{}); len(ps) > 2 { // the last gift, and its acceptance
		t.Errorf("%d copies prove what the base says", len(ps))
	}
	ds, ok := lacks(bk)
	if !ok || len(ds) < 3 { // two votes and the base, at least
		t.Fatalf("%d copies, %v", len(ds), ok)
	}
	for _, d := range ds {
		write(c, d.Payload, nil)
	}
	bk = booksOf(c.id.ID(), logs)
	if ds, ok := lacks(bk); !ok || len(ds) > 0 {
		t.Errorf("%d copies again, %v", len(ds), ok)
	}
	kept := slices.DeleteFunc(slices.Clone(logs[c.id.ID()]), func(e mesh.Entry) bool {
		src, err := parseFact(c.id.ID(), e, s.MeshID())
		return err == nil && bk.ledger.Obsolete(src.Fact)
	})
	if n := len(logs[c.id.ID()]); len(kept) > len(ds)+4 || len(kept) >= n {
		t.Errorf("%d of %d entries are kept, %d copies", len(kept), n, len(ds))
	}
	logs[c.id.ID()] = kept
	alone := map[peer.ID][]mesh.Entry{c.id.ID(): kept}
	for what, ls := range map[string]map[peer.ID][]mesh.Entry{"all logs": logs, "its log alone": alone} {
		n := booksOf(peer.ID{9}, ls).ledger
		if got := fmt.Sprint(n.Ring().Parts(), n.Electors()); got != want {
			t.Errorf("a newcomer that has %s sees %s, want %s", what, got, want)
		}
	}
	delete(hosts, a.id.ID())
	delete(logs, c.id.ID())
	bk = booksOf(b.id.ID(), logs)
	r.books.Store(bk)
	if _, ok := lacks(bk); ok {
		t.Error("a vote can be copied without the key of who signed it")
	}
}
