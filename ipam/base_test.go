package ipam

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"
)

// without are the facts that are left when every log has become shorter, and the copies that go with it.
func (w *table) without() []Fact {
	l := w.ledger(host(1))
	return slices.DeleteFunc(slices.Clone(w.facts), func(f Fact) bool { return l.Obsolete(f) && !l.Needs(f) })
}

// A base stands for what was said before it: whoever has heard of nothing else sees the same, and goes on from there.
func TestBase(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	w.dead[host(4)] = true
	w.rmpeer(2, 4)
	w.talk()
	g := w.give(host(1), host(5), "10.0.0.32/27") // not accepted yet
	w.dead[host(5)], w.baseAt = true, 1
	w.talk()
	w.baseAt = 0
	full := w.ledger(host(3))
	if full.Base() == nil {
		t.Fatal("no base is decided")
	}
	before := len(w.facts)
	short := w.without()
	if len(short) > before/2 {
		t.Errorf("%d of %d facts are needed", len(short), before)
	}
	w.facts = short
	l := w.ledger(host(3))
	w.want("the ring", show(l.Ring()), show(full.Ring()))
	if !slices.Equal(l.Electors(), full.Electors()) || !slices.Equal(l.Takeovers(), full.Takeovers()) || l.Instance() != full.Instance() {
		t.Errorf("electors %v, takeovers %v, instance %d; want %v, %v, %d", l.Electors(), l.Takeovers(), l.Instance(), full.Electors(), full.Takeovers(), full.Instance())
	}
	w.dead[host(5)] = false
	if got := w.ledger(host(5)).Waiting(); !slices.Equal(got, []Grant{g}) {
		t.Errorf("what was given and not accepted is lost: %v", got)
	}
	w.talk()
	w.want("after it", w.usable(w.hosts...), "A[10.0.0.0/27] B[10.0.0.64/26 10.0.0.128/26] C[10.0.0.192/26] D[] E[10.0.0.32/27] ")
	w.dead[host(4)] = false
	if _, lost := w.ledger(host(4)).Lost(); !lost {
		t.Error("the dead host comes back, and does not know")
	}
	// And again, with a council in which the founder is in the minority.
	w.talk()
	w.gone[host(1)] = true
	w.hosts = w.hosts[1:]
	w.talk()
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	ring := show(w.ledger(host(2)).Ring())
	if b := w.ledger(host(2)).Base(); b == nil || b.Instance <= full.Base().Instance || slices.Contains(b.Electors, host(1)) {
		t.Fatalf("the second base is %v", b)
	}
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool {
		l := w.ledger(host(2))
		return l.Obsolete(f) && !l.Needs(f)
	})
	w.want("the ring after the second base", show(w.ledger(host(2)).Ring()), ring)
}

// A base that no known council vouches for is none, nor is one that differs from what its digest says.
func TestMadeUpBases(t *testing.T) {
	w := threeOwners(t, 4)
	ring := show(w.ledger(host(1)).Ring())
	for name, electors := range map[string][]Owner{"a stranger's": {host(4)}, "of one elector of three": {host(2)}, "of one of two": {host(2), host(4)}} {
		b := &Base{Instance: 50, Electors: electors, Parts: []Part{{Prefix: w.whole, Owner: host(4), Version: 9}}}
		wire := b.encode(4)
		d := Digest(sha256.Sum256(wire))
		ballot := Ballot{Round: 1, By: electors[0]}
		facts := slices.Clone(w.facts)
		for _, by := range electors {
			v := Vote{Instance: 50, Promised: ballot, Accepted: ballot, Value: Value{Op: OpBase, Hosts: electors, Digest: d}}
			if by == ballot.By {
				v.Intent = v.Value
			}
			facts = append(append(facts, Fact{By: by, Kind: FactVote, Vote: v}), chunks(by, d, wire)...)
		}
		if l := NewLedger(host(3), host(1), w.whole, facts); l.Base() != nil || show(l.Ring()) != ring {
			t.Errorf("%s: the ring is\n%s", name, show(l.Ring()))
		}
	}
	w.baseAt = 1
	w.talk()
	if w.ledger(host(1)).Base() == nil {
		t.Fatal("no base")
	}
	for i, f := range w.facts { // who keeps it can not change it
		if f.Kind == FactBase {
			c := bytes.Clone(f.Chunk.Bytes)
			c[len(c)-1]++
			w.facts[i].Chunk.Bytes = c
		}
	}
	l := w.ledger(host(1))
	if l.Base() != nil {
		t.Error("a changed base counts")
	}
	w.want("the ring without it", show(l.Ring()), ring)
}

// A base of a large ring comes in pieces, in any order, more than once.
func TestBaseInPieces(t *testing.T) {
	b := &Base{Instance: 3, Electors: []Owner{host(1)}}
	for i := range 1000 {
		b.Parts = append(b.Parts, Part{Prefix: pfx("10.0.0.0/30"), Owner: host(i + 1), Version: 2})
	}
	wire := b.encode(4)
	d := Digest(sha256.Sum256(wire))
	fs := chunks(host(1), d, wire)
	for _, f := range fs {
		p, err := f.AppendBinary(nil)
		if err != nil || len(p) > 800 {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
	}
	slices.Reverse(fs)
	k := keptBase{host(1), d}
	wrong := fs[1].Chunk
	wrong.Bytes = []byte("made up")
	l := &Ledger{chunks: map[keptBase][]Chunk{{host(9), d}: {fs[0].Chunk, wrong}}}
	for _, f := range fs[1:] {
		l.chunks[k] = append(l.chunks[k], f.Chunk, f.Chunk)
	}
	if l.baseOf(d) != nil {
		t.Error("a base with a piece missing")
	}
	l.chunks[k] = append(l.chunks[k], fs[0].Chunk)
	if got := l.baseOf(d); got == nil || !slices.Equal(got.Parts, b.Parts) {
		t.Error("not the same")
	}
}

func FuzzBase(f *testing.F) {
	b := &Base{Instance: 3, Electors: []Owner{host(1), host(2)}, Takeovers: []Takeover{{From: host(3), To: host(1), ID: 5}}, Parts: []Part{{Prefix: pfx("10.0.0.0/24"), Owner: host(1), Version: 7}}}
	f.Add(b.encode(4))
	b.Parts[0].Prefix = pfx("fd00::/64")
	f.Add(b.encode(6))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := parseBase(in)
		if err != nil {
			return
		}
		if out := b.encode(in[5+1+10*len(b.Electors)+4+24*len(b.Takeovers)]); !bytes.Equal(out, in) {
			t.Errorf("%x came back as %x", in, out)
		}
	})
}

// shortened is what is left when these hosts make their logs shorter, and nobody else does.
func (w *table) shortened(hosts ...Owner) {
	full := slices.Clone(w.facts)
	for _, h := range hosts {
		l := NewLedger(h, host(1), w.whole, full)
		w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return f.By == h && l.Obsolete(f) && !l.Needs(f) })
	}
}

// What was accepted, and is in the base, is not accepted again because the giver's log still tells of it.
func TestNothingIsAcceptedAgain(t *testing.T) {
	w := threeOwners(t, 4)
	for range 4 {
		w.give(host(1), host(2), "10.0.0.0/26")
		w.talk()
		w.give(host(2), host(1), "10.0.0.0/26")
		w.talk()
	}
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	ring := show(w.ledger(host(2)).Ring())
	w.shortened(host(2))
	n := len(w.facts)
	if gs := w.ledger(host(2)).Waiting(); len(gs) > 0 {
		t.Errorf("waits for %v", gs)
	}
	w.talk()
	if len(w.facts) != n {
		t.Errorf("%d facts more", len(w.facts)-n)
	}
	w.want("the ring", show(w.ledger(host(3)).Ring()), ring)
}

// A council that force has split off has a base decided: it undoes nothing that a majority has decided on the other side.
func TestBaseOfASplitCouncil(t *testing.T) {
	w := threeOwners(t, 4)
	heard := len(w.facts)
	w.dead[host(1)] = true
	w.rmpeer(2, 1)
	w.talk() // decided: A's space is B's
	w.aside(host(1), heard, func() {
		for _, h := range []Owner{host(2), host(3)} {
			w.facts = append(w.facts, w.ledger(host(1)).Force(h))
			w.talk()
		}
		w.baseAt = 1
		w.talk()
		w.baseAt = 0
		if w.ledger(host(1)).Base() == nil {
			t.Fatal("no base there")
		}
	})
	l := w.ledger(host(2))
	if _, lost := w.ledger(host(1)).Lost(); l.Base() != nil || !lost || !slices.ContainsFunc(l.Takeovers(), func(t Takeover) bool { return t.From == host(1) && !t.Forced }) {
		t.Errorf("base %v, takeovers %v, A knows: %v", l.Base(), l.Takeovers(), lost)
	}
}

// The vote of whoever proposed the base is not here: others' are enough.
func TestBaseWithoutItsProposer(t *testing.T) {
	w := threeOwners(t, 4)
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	l := w.ledger(host(3))
	s := l.steps[l.base.Instance]
	votes := func(f Fact) bool {
		return f.Kind == FactVote && f.Vote.Instance == l.base.Instance && f.Vote.Accepted == s.ballot
	}
	for _, h := range l.Electors() {
		if !slices.ContainsFunc(w.facts, func(f Fact) bool { return f.By == h && votes(f) }) {
			w.facts = append(w.facts, Fact{By: h, Kind: FactVote, Vote: Vote{Instance: l.base.Instance, Promised: s.ballot, Accepted: s.ballot, Value: s.value}})
		}
	}
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return f.By == s.ballot.By && votes(f) })
	if w.ledger(host(3)).Base() == nil {
		t.Fatal("no base")
	}
	w.facts = w.without()
	if w.ledger(host(4)).Base() == nil {
		t.Error("no base when logs are shorter")
	}
}

// A member that is no elector writes as much as it may: it changes nothing, costs no base, and no time to speak of.
func TestBasesOfARogue(t *testing.T) {
	w := threeOwners(t, 4)
	w.baseAt = 1
	w.talk()
	w.baseAt = 64
	l := w.ledger(host(1))
	ring, at := show(l.Ring()), l.Base().Instance
	for i := range uint32(2000) {
		v := Value{Op: OpBase, Hosts: []Owner{host(4)}, Digest: Digest{byte(i), byte(i >> 8)}}
		b := Ballot{Round: i + 1, By: host(4)}
		w.facts = append(w.facts, Fact{By: host(4), Kind: FactVote, Vote: Vote{Instance: at + i%50, Promised: b, Intent: v, Accepted: b, Value: v}},
			Fact{By: host(4), Kind: FactBase, Chunk: Chunk{Of: l.baseValue.Digest, Index: uint16(i), Count: 2000, Bytes: []byte("made up")}})
	}
	slices.Reverse(w.facts)
	w.talk()
	l = w.ledger(host(1))
	if l.Base() == nil || l.Base().Instance != at {
		t.Errorf("the base is %v", l.Base())
	}
	w.want("the ring", show(l.Ring()), ring)
}

// A base that one elector has accepted, when another one that may have done so dies and the state has moved on: it was so once, and is
// carried through, or nothing would be decided any more. One that was never so is not, whatever an elector claims.
func TestBaseIsCarriedThrough(t *testing.T) {
	for _, madeUp := range []bool{false, true} {
		w := threeOwners(t, 4)
		w.baseAt = 1
		say := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
		say(1) // prepares
		say(2) // promises
		say(1) // accepts, and is the only one that knows
		l := w.ledger(host(1))
		at := l.Instance()
		v := l.open.latest[host(1)]
		if v.Value.Op != OpBase {
			t.Fatal("not proposed")
		}
		if madeUp { // what it accepted gives it everything
			b := &Base{Instance: at, Electors: l.Electors(), Parts: []Part{{Prefix: w.whole, Owner: host(1), Version: 9}}}
			wire := b.encode(4)
			d := Digest(sha256.Sum256(wire))
			w.facts = append(w.facts, chunks(host(1), d, wire)...)
			for i, f := range w.facts {
				if f.Kind == FactVote && f.By == host(1) && f.Vote.Value.Op == OpBase {
					w.facts[i].Vote.Value.Digest = d
				}
			}
		}
		w.baseAt = 0
		w.dead[host(2)] = true
		g := w.give(host(1), host(4), "10.0.0.64/26")
		w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
		for range 3 * asks {
			for _, i := range []int{1, 3, 4} {
				say(i)
			}
		}
		l = w.ledger(host(3))
		if madeUp {
			if l.Base() != nil {
				t.Error("a made-up base is carried through")
			}
			continue
		}
		if l.Base() == nil || l.Instance() <= at+1 || !slices.Contains(l.Electors(), host(4)) {
			t.Errorf("base %v, instance %d, electors %v", l.Base(), l.Instance(), l.Electors())
		}
		w.want("usable", w.usable(host(1), host(3), host(4)), "A[10.0.0.0/26] C[10.0.0.192/26] D[10.0.0.64/26] ")
	}
}

// The council that decided a base is known by what was decided behind an earlier one, of which nobody has the pieces any more.
func TestBaseBehindABase(t *testing.T) {
	w := newTable(t, 4, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	w.give(host(1), host(2), "10.0.0.128/25")
	w.talk()
	w.baseAt = 1
	w.talk()
	first := w.ledger(host(2)).Base()
	w.baseAt = 0
	w.give(host(1), host(3), "10.0.0.64/26")
	w.give(host(1), host(4), "10.0.0.32/27")
	w.talk()
	w.dead[host(1)], w.baseAt = true, 1
	w.talk()
	l := w.ledger(host(3))
	if first == nil || l.Base() == nil || l.Base().Instance == first.Instance || l.voucher <= first.Instance {
		t.Fatalf("bases %v and %v, voucher %d", first, l.Base(), l.voucher)
	}
	ring := show(l.Ring())
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return l.Obsolete(f) && !l.Needs(f) })
	if b := w.ledger(host(4)).Base(); b == nil || b.Instance != l.Base().Instance {
		t.Fatalf("the base is %v", b)
	}
	w.want("the ring", show(w.ledger(host(4)).Ring()), ring)
}

// While a takeover waits for who may know more, no base is decided, though the dead host has nothing as far as anybody knows.
func TestBaseWaitsForTakeovers(t *testing.T) {
	w := threeOwners(t, 5)
	w.dead[host(4)], w.dead[host(5)] = true, true
	w.rmpeer(1, 4)
	w.talk() // decided; the fifth is unheard
	w.baseAt = 1
	w.talk()
	if l := w.ledger(host(1)); len(l.Takeovers()) != 1 || l.Base() != nil {
		t.Fatalf("takeovers %v, base %v", l.Takeovers(), l.Base())
	}
	w.dead[host(5)] = false
	w.talk()
	if w.ledger(host(1)).Base() == nil {
		t.Error("no base when all have been heard")
	}
}

// When logs have become shorter, it is still known who has heard of which takeover by force: nobody says anything again.
func TestShortLogsTellWhoHasHeard(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	w.dead[host(4)] = true
	w.facts = append(w.facts, w.ledger(host(2)).Force(host(4)))
	w.talk()
	w.dead[host(5)] = true
	for range 10 {
		w.rmpeer(1, 5)
		for _, h := range w.hosts[:3] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	delete(w.take, host(1))
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	if l := w.ledger(host(1)); l.Base() == nil || len(l.Takeovers()) != 2 {
		t.Fatalf("base %v, takeovers %v", l.Base(), l.Takeovers())
	}
	w.facts = w.without()
	n := len(w.facts)
	w.talk()
	if len(w.facts) != n {
		t.Errorf("it is said again: %+v", w.facts[n:])
	}
}

// Votes tell of a base behind decisions that are not here, and nobody has its pieces: it is gone on from what is here.
func TestBaseThatCanNotBeReached(t *testing.T) {
	w := threeOwners(t, 4)
	w.baseAt = 1
	w.talk()
	l := w.ledger(host(4))
	if l.Base() == nil {
		t.Fatal("no base")
	}
	last := l.Base().Instance - 1 // of which the votes are not here
	council := l.councils[last]
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool {
		return f.Kind == FactBase || f.Kind == FactVote && f.Vote.Instance == last
	})
	if l := w.ledger(host(4)); l.Instance() != last || !slices.Equal(l.Electors(), council) || len(l.steps) != int(last)-1 {
		t.Errorf("instance %d, electors %v; want %d, %v", l.Instance(), l.Electors(), last, council)
	}
}
