package router

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// The founder gives to b, b to c; then the logs of the founder and of b go. What
// c has kept proves to a host that has seen nothing else what c owns.
func TestChainOutlivesItsGivers(t *testing.T) {
	s := mesh.NewSecret()
	a, b, c, d := newSigner(t, s), newSigner(t, s), newSigner(t, s), newSigner(t, s)
	whole := netip.MustParsePrefix("10.32.0.0/12")
	half, quarter := netip.MustParsePrefix("10.40.0.0/13"), netip.MustParsePrefix("10.44.0.0/14")
	founding := mesh.Founding{Founder: a.id.ID(), Nonce: 7, Range: whole, Subnet: whole}
	logs := map[peer.ID][]mesh.Entry{}
	hosts := func() (hs []mesh.Host) {
		for _, x := range []*signer{a, b, c, d} {
			hs = append(hs, mesh.Host{ID: x.id.ID(), Record: mesh.Record{Identity: x.id.Public()}})
		}
		for i := range hs { // sorted, as in a State
			for j := i; j > 0 && hs[j].ID.Compare(hs[j-1].ID) < 0; j-- {
				hs[j], hs[j-1] = hs[j-1], hs[j]
			}
		}
		return hs
	}
	r := &Router{member: membership{Secret: s}}
	booksOf := func(x *signer) *books {
		st := &mesh.State{Self: x.id.ID(), Founding: founding, Hosts: hosts(), Logs: logs}
		bk := &books{st: st, folded: fold(st, s.MeshID(), new(grantCache))}
		bk.ledger = ipam.NewLedger(ipam.Owner(x.id.ID()), ipam.Owner(a.id.ID()), whole, bk.folded.Facts)
		return bk
	}
	give := func(from, to *signer, p netip.Prefix, version uint32) gift {
		t.Helper()
		e := from.grant(t, ipam.Grant{Prefix: p, From: ipam.Owner(from.id.ID()), To: ipam.Owner(to.id.ID()), Version: version})
		logs[from.id.ID()] = append(logs[from.id.ID()], e)
		g := gift{Grants: []mesh.Entry{e}, Proofs: r.proofs(booksOf(from), []netip.Prefix{p}, to.id.ID(), peer.ID{})}
		got, err := parseGift(g.encode())
		if err != nil || len(got.Grants) != 1 || len(got.Proofs) != len(g.Proofs) {
			t.Fatalf("the gift came back as %d grants and %d proofs: %v", len(got.Grants), len(got.Proofs), err)
		}
		return got
	}
	take := func(to, from *signer, g gift) {
		t.Helper()
		ds, err := r.acceptance(booksOf(to), from.id.Public(), g, peer.ID{})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range ds {
			logs[to.id.ID()] = append(logs[to.id.ID()], to.entry(t, x.Kind, x.Payload))
		}
		if again, err := r.acceptance(booksOf(to), from.id.Public(), g, peer.ID{}); err != nil || len(again) != 0 {
			t.Errorf("accepting again writes %d entries, %v", len(again), err)
		}
	}
	logs[a.id.ID()] = []mesh.Entry{a.grant(t, ipam.Seed(whole, ipam.Owner(a.id.ID())))}
	take(b, a, give(a, b, half, 2))
	g := give(b, c, quarter, 3)
	if owned := booksOf(c).ledger.Usable(); len(owned) != 0 {
		t.Errorf("c uses %v before it has accepted it", owned)
	}
	take(c, b, g)
	delete(logs, a.id.ID())
	delete(logs, b.id.ID())
	for _, x := range []*signer{c, d} {
		if owned := booksOf(x).ledger.Ring().Owned(ipam.Owner(c.id.ID())); len(owned) != 1 || owned[0] != quarter {
			t.Errorf("c owns %v, want %v", owned, quarter)
		}
	}
	// Nobody accepts in another's name, nor makes up a link of the chain.
	if _, err := r.acceptance(booksOf(d), b.id.Public(), g, peer.ID{}); err == nil {
		t.Error("d has accepted what was made to c")
	}
	forged := gift{Grants: g.Grants, Proofs: [][]byte{encodeKept(a.id.Public(), d.grant(t, ipam.Seed(whole, ipam.Owner(d.id.ID()))))}}
	if _, err := r.acceptance(booksOf(c), b.id.Public(), forged, peer.ID{}); err == nil {
		t.Error("a forged copy was kept")
	}
	// Nor does anybody fill another's log with what is true and of no use.
	g = give(c, d, netip.MustParsePrefix("10.44.0.0/16"), 4)
	stranger := newSigner(t, s)
	strange := stranger.grant(t, ipam.Grant{Prefix: quarter, From: ipam.Owner(stranger.id.ID()), To: ipam.Owner(c.id.ID()), Version: 9})
	elsewhere := d.grant(t, ipam.Grant{Prefix: netip.MustParsePrefix("10.32.0.0/24"), From: ipam.Owner(d.id.ID()), To: ipam.Owner(b.id.ID()), Version: 9})
	junk := g
	junk.Proofs = append(slices.Clone(g.Proofs), encodeKept(stranger.id.Public(), strange))
	if _, err := r.acceptance(booksOf(d), c.id.Public(), junk, peer.ID{}); !errors.Is(err, errNotHeard) {
		t.Errorf("what nobody's log has: %v", err)
	}
	logs[d.id.ID()] = append(logs[d.id.ID()], elsewhere)
	want, err := r.acceptance(booksOf(d), c.id.Public(), g, peer.ID{})
	if err != nil {
		t.Fatal(err)
	}
	junk.Proofs = append(slices.Clone(g.Proofs), encodeKept(d.id.Public(), elsewhere))
	if got, err := r.acceptance(booksOf(d), c.id.Public(), junk, peer.ID{}); err != nil || len(got) != len(want) {
		t.Errorf("with what has nothing to do with it, %d entries instead of %d: %v", len(got), len(want), err)
	}
	for len(logs[d.id.ID()]) < fullToTake {
		logs[d.id.ID()] = append(logs[d.id.ID()], elsewhere)
	}
	if _, err := r.acceptance(booksOf(d), c.id.Public(), g, peer.ID{}); !errors.Is(err, errRingLogFull) {
		t.Errorf("a log that is half full: %v", err)
	}
}

// The founder decides, alone, that b decides with it; both decide that the founder
// no longer does, and that b takes over from d. Then the founder is reset without a word to
// anybody, and a day later its log goes.
func TestDecisionsOutliveTheirElectors(t *testing.T) {
	s := mesh.NewSecret()
	a, b, c, d := newSigner(t, s), newSigner(t, s), newSigner(t, s), newSigner(t, s)
	owner := func(x *signer) ipam.Owner { return ipam.Owner(x.id.ID()) }
	whole := netip.MustParsePrefix("10.32.0.0/12")
	logs := map[peer.ID][]mesh.Entry{}
	var hosts []mesh.Host
	for _, x := range []*signer{a, b, c, d} {
		hosts = append(hosts, mesh.Host{ID: x.id.ID(), Record: mesh.Record{Identity: x.id.Public()}})
	}
	slices.SortFunc(hosts, func(x, y mesh.Host) int { return x.ID.Compare(y.ID) })
	r := &Router{member: membership{Secret: s}}
	booksOf := func(x *signer) *books {
		st := &mesh.State{Self: x.id.ID(), Founding: mesh.Founding{Founder: a.id.ID(), Nonce: 7, Range: whole, Subnet: whole}, Hosts: hosts, Logs: logs}
		bk := &books{st: st, folded: fold(st, s.MeshID(), new(grantCache))}
		bk.ledger = ipam.NewLedger(owner(x), owner(a), whole, bk.folded.Facts)
		return bk
	}
	write := func(x *signer, kind mesh.Kind, payload []byte) {
		logs[x.id.ID()] = append(logs[x.id.ID()], x.entry(t, kind, payload))
	}
	vote := func(x *signer, v ipam.Vote) {
		t.Helper()
		p, err := encodeFact(ipam.Fact{By: owner(x), Kind: ipam.FactVote, Vote: v})
		if err != nil {
			t.Fatal(err)
		}
		write(x, mesh.KindGrant, p)
	}
	decide := func(instance uint32, v ipam.Value, by ...*signer) {
		t.Helper()
		ballot := ipam.Ballot{Round: 1, By: owner(by[0])}
		for _, x := range by {
			vt := ipam.Vote{Instance: instance, Promised: ballot}
			if x == by[0] {
				vt.Intent = v
			}
			vote(x, vt)
			vt.Accepted, vt.Value = ballot, v
			vote(x, vt)
		}
	}
	logs[a.id.ID()] = []mesh.Entry{a.grant(t, ipam.Seed(whole, owner(a)))}
	decide(1, ipam.Value{Op: ipam.OpAdd, Hosts: []ipam.Owner{owner(b)}}, a)
	decide(2, ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{owner(d), owner(b)}}, a, b)
	decide(3, ipam.Value{Op: ipam.OpDrop, Hosts: []ipam.Owner{owner(a)}}, b, a)
	vote(a, ipam.Vote{Instance: 9, Promised: ipam.Ballot{Round: 9, By: owner(a)}, Intent: ipam.Value{Op: ipam.OpDrop, Hosts: []ipam.Owner{owner(b)}}}) // of nobody's concern
	want := booksOf(c).ledger
	if !slices.Equal(want.Electors(), []ipam.Owner{owner(b)}) || len(want.Takeovers()) != 1 {
		t.Fatalf("electors %v, takeovers %v", want.Electors(), want.Takeovers())
	}
	env := func(x *signer) (*books, ipam.Env) {
		bk := booksOf(x)
		return bk, ipam.Env{Alive: func(ipam.Owner) bool { return true }, Gone: func(o ipam.Owner) bool { return bk.folded.Gone[peer.ID(o)] }}
	}
	if ds := r.inherit(env(b)); len(ds) > 0 {
		t.Errorf("%d copies of the log of a host that is there", len(ds))
	}
	write(a, mesh.KindDepart, nil)
	if ds := r.inherit(env(c)); len(ds) > 0 {
		t.Errorf("who decides nothing keeps %d copies, while somebody does", len(ds))
	}
	ds := r.inherit(env(b))
	if len(ds) != 3 { // the vote of each instance that accepts something
		t.Errorf("%d copies", len(ds))
	}
	for _, x := range ds {
		write(b, x.Kind, x.Payload)
	}
	if again := r.inherit(env(b)); len(again) > 0 {
		t.Errorf("%d copies again", len(again))
	}
	same := func(when string) {
		t.Helper()
		got := booksOf(c).ledger
		if !slices.Equal(got.Electors(), want.Electors()) || !slices.Equal(got.Takeovers(), want.Takeovers()) || got.Instance() != want.Instance() {
			t.Errorf("%s: electors %v, takeovers %v, want %v and %v", when, got.Electors(), got.Takeovers(), want.Electors(), want.Takeovers())
		}
	}
	delete(logs, a.id.ID())
	same("A's log is removed")
	// Another one is the elector then, and what B has kept of A's is kept again when B leaves.
	decide(4, ipam.Value{Op: ipam.OpAdd, Hosts: []ipam.Owner{owner(c)}}, b)
	decide(5, ipam.Value{Op: ipam.OpDrop, Hosts: []ipam.Owner{owner(b)}}, b, c)
	want = booksOf(c).ledger
	write(b, mesh.KindDepart, nil)
	for _, x := range r.inherit(env(c)) {
		write(c, x.Kind, x.Payload)
	}
	delete(logs, b.id.ID())
	same("B's log is removed, too")
}

func TestFactsInOtherForms(t *testing.T) {
	s := mesh.NewSecret()
	a := newSigner(t, s)
	self := ipam.Owner(a.id.ID())
	stand, err := encodeFact(ipam.Fact{By: self, Kind: ipam.FactStand, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	if src, err := parseFact(a.id.ID(), a.entry(t, mesh.KindGrant, stand), s.MeshID()); err != nil || src.Fact.Kind != ipam.FactStand || src.Fact.By != self {
		t.Errorf("%+v, %v", src.Fact, err)
	}
	// A grant has a form of its own: here it could come without a proof.
	g := ipam.Fact{By: self, Kind: ipam.FactAccept, Grant: ipam.Grant{Prefix: netip.MustParsePrefix("10.40.0.0/13"), From: ipam.Owner{1}, To: self, Version: 2}}
	b, err := encodeFact(g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseFact(a.id.ID(), a.entry(t, mesh.KindGrant, b), s.MeshID()); err == nil {
		t.Error("a grant was accepted without its giver's entry")
	}
	kept := encodeKept(a.id.Public(), a.entry(t, mesh.KindGrant, stand))
	if src, err := parseFact(peer.ID{9}, mesh.Entry{Payload: kept}, s.MeshID()); err != nil || src.Fact.By != self || src.Key == nil {
		t.Errorf("a kept copy: %+v, %v", src, err)
	}
	twice := encodeKept(a.id.Public(), a.entry(t, mesh.KindGrant, kept))
	if _, err := parseFact(peer.ID{9}, mesh.Entry{Payload: twice}, s.MeshID()); err == nil {
		t.Error("a copy of a copy was taken")
	}
}

func FuzzParseSource(f *testing.F) {
	s := mesh.NewSecret()
	a := newSigner(f, s)
	stand, _ := encodeFact(ipam.Fact{By: ipam.Owner(a.id.ID()), Kind: ipam.FactStand, Count: 1})
	f.Add(stand)
	f.Add(encodeKept(a.id.Public(), a.entry(f, mesh.KindGrant, stand)))
	f.Fuzz(func(t *testing.T, b []byte) {
		src, err := parseFact(peer.ID{9}, mesh.Entry{Author: peer.ID{9}, Payload: b}, s.MeshID())
		if by := peer.ID(src.Fact.By); err == nil && by != a.id.ID() && by != (peer.ID{9}) {
			t.Errorf("a fact by %v, who signed nothing", by)
		}
	})
}

func FuzzParseGift(f *testing.F) {
	a := newSigner(f, mesh.NewSecret())
	f.Add(gift{Grants: []mesh.Entry{a.entry(f, mesh.KindGrant, []byte("x"))}, Proofs: [][]byte{{1, 2}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := parseGift(b); err == nil && string(g.encode()) != string(b) {
			t.Errorf("%x came back different", b)
		}
	})
}
