package ipam

import (
	"slices"
	"testing"
)

func (w *table) obs(h Owner, leaving bool) Env {
	e := w.env(h)
	e.Observer, e.Leaving = true, leaving
	return e
}

// An observer has taken the only elector by force, and so is the council. Another joins it; the observer departs.
func TestObserverThatForcedLeaves(t *testing.T) {
	w := newTable(t, 3, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	a, b, c := host(1), host(2), host(3)
	// A has stood; B, C are observers until A is lost
	w.facts = append(w.facts, Fact{By: a, Kind: FactStand, Count: 1})
	w.dead[a] = true
	w.facts = append(w.facts, w.ledger(b).Force(a))
	say := func(h Owner, leaving bool) {
		l := w.ledger(h)
		for _, g := range l.Waiting() {
			w.facts = append(w.facts, Fact{By: h, Kind: FactAccept, Grant: g})
		}
		e := w.env(h)
		if h == b {
			e = w.obs(h, leaving)
		}
		w.facts = append(w.facts, l.Next(e)...)
	}
	for range 6 {
		say(b, false)
		say(c, false)
	}
	w.give(b, c, "10.0.0.128/25")
	for range 6 {
		say(b, false)
		say(c, false)
	}
	for range 40 {
		say(b, true)
		say(c, false)
	}
	stuck := slices.Contains(w.ledger(c).Electors(), b)
	// it goes
	for _, g := range w.ledger(b).HandOver(c) {
		w.facts = append(w.facts, Fact{By: b, Kind: FactGrant, Grant: g})
	}
	w.gone[b] = true
	for range 40 {
		say(c, false)
	}
	at := w.ledger(c).Instance()
	w.hosts = append(w.hosts, host(4))
	w.give(c, host(4), "10.0.0.192/26")
	for range 40 {
		say(c, false)
		say(host(4), false)
	}
	l := w.ledger(c)
	if stuck || l.Instance() == at {
		t.Errorf("it does not leave the council (%v), and nothing is decided any more: instance %d, electors %v", stuck, l.Instance(), l.Electors())
	}
}

// An elector votes ahead as far as it may; the others outbid it and decide; their logs are made shorter.
func TestRogueVotesAheadAndLogsBecomeShorter(t *testing.T) {
	for _, round := range []uint32{2, maxJump} {
		w := threeOwners(t, 5)
		a, b, c, d, e := host(1), host(2), host(3), host(4), host(5)
		at := w.ledger(b).Instance()
		w.facts = append(w.facts, Fact{By: c, Kind: FactVote, Vote: Vote{Instance: at, Promised: Ballot{round, c}, Intent: Value{Op: OpTake, Hosts: []Owner{b, c}}}})
		w.give(a, d, "10.0.0.64/26")
		w.talk()
		w.give(d, e, "10.0.0.96/27")
		w.talk()
		w.dead[b] = false
		for _, h := range []Owner{a, b} {
			for _, g := range w.ledger(h).HandOver(d) {
				w.facts = append(w.facts, Fact{By: h, Kind: FactGrant, Grant: g})
			}
			w.talk()
			w.leaving[h] = true
			w.talk()
			w.gone[h] = true
			w.talk()
		}
		w.baseAt = 1
		w.talk()
		w.baseAt = 0
		l := w.ledger(c)
		if l.Base() == nil {
			t.Fatal("no base")
		}
		ring := show(l.Ring())
		w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return l.Obsolete(f) && !l.Needs(f) })
		for _, h := range []Owner{c, d, e, host(6)} {
			n := w.ledger(h)
			if show(n.Ring()) != ring || n.Base() == nil || n.Instance() != l.Instance() {
				t.Errorf("round %d: %s sees, of shorter logs, instance %d of %d, electors %d of %d, base %v, ring\n%s", round, letter(h), n.Instance(), l.Instance(), len(n.Electors()), len(l.Electors()), n.Base() != nil, show(n.Ring()))
			}
		}
	}
}

// An elector has accepted, and forgets it when it promises again: its log tells.
func TestRogueForgetsWhatItAccepted(t *testing.T) {
	w := threeOwners(t, 4)
	a, b, r := host(1), host(2), host(3)
	w.hosts = append(w.hosts, host(5))
	for _, h := range []int{4, 5} {
		w.facts = append(w.facts, Fact{By: host(h), Kind: FactStand, Count: 1})
	}
	w.give(a, host(4), "10.0.0.64/26")
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: w.ledger(host(4)).Waiting()[0]})
	at := w.ledger(a).Instance()
	base := slices.Clone(w.facts)
	ba := Ballot{1, r}
	x := Value{Op: OpAdd, Hosts: []Owner{host(5)}}
	log := []Fact{{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: ba, Intent: x, Accepted: ba, Value: x}}}
	unheard := func(fs []Fact) []Fact { // B has not heard yet that E stands
		return slices.DeleteFunc(slices.Clone(fs), func(f Fact) bool { return f.By == host(5) })
	}
	env := func(h Owner, start bool) Env { e := w.env(h); e.Start = start; return e }
	va := NewLedger(a, a, w.whole, slices.Concat(base, log)).Next(env(a, false))
	la := NewLedger(a, a, w.whole, slices.Concat(base, log, va))
	// A is away, as it is to R; B begins a ballot for something else, which R promises as if it had accepted nothing
	e := env(b, true)
	e.Alive = func(o Owner) bool { return o != a }
	var vb []Fact
	say := func() {
		vb = append(vb, NewLedger(b, a, w.whole, unheard(slices.Concat(base, log, vb))).Next(e)...)
		e.Start = false
	}
	say()
	b2 := vb[len(vb)-1].Vote.Promised
	log = append(log, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b2}})
	say()
	y := vb[len(vb)-1].Vote.Value
	if y.Op == 0 {
		return
	}
	log = append(log, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b2, Accepted: b2, Value: y}})
	lb := NewLedger(b, a, w.whole, slices.Concat(base, log, vb))
	if y := lb.steps[at].value; y.Op != 0 && !y.equal(la.steps[at].value) {
		t.Errorf("A decided %v; B decided %v", la.steps[at].value, y)
	}
}

// An elector that proposes two values at one ballot, one after the other in one log.
func TestRogueHasTwoValuesAtOneBallot(t *testing.T) {
	w := threeOwners(t, 4)
	a, b, r := host(1), host(2), host(3)
	w.hosts = append(w.hosts, host(5))
	for _, h := range []int{4, 5} {
		w.facts = append(w.facts, Fact{By: host(h), Kind: FactStand, Count: 1})
	}
	at := w.ledger(a).Instance()
	ba := Ballot{1, r}
	x, y := Value{Op: OpAdd, Hosts: []Owner{host(4)}}, Value{Op: OpAdd, Hosts: []Owner{host(5)}}
	vote := func(p Ballot, v Value) Fact {
		f := Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: p, Intent: v, Accepted: ba, Value: v}}
		if err := f.check(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := slices.Clone(w.facts)
	env := func(h Owner) Env { e := w.env(h); e.Start = false; return e }
	log := []Fact{vote(ba, x)}
	va := NewLedger(a, a, w.whole, slices.Concat(base, log)).Next(env(a))
	log = append(log, vote(Ballot{2, r}, y))
	vb := NewLedger(b, a, w.whole, slices.Concat(base, log)).Next(env(b))
	la := NewLedger(a, a, w.whole, slices.Concat(base, log, va))
	lb := NewLedger(b, a, w.whole, slices.Concat(base, log, vb))
	if la.steps[at].value.Op != 0 && lb.steps[at].value.Op != 0 && !la.steps[at].value.equal(lb.steps[at].value) {
		t.Errorf("two decisions of one instance")
	}
}
