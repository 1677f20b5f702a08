package ipam

import (
	"slices"
	"testing"
)

// aside runs talk with what one host does not hear of put aside, and the rest dead to it.
func (w *table) aside(alone Owner, heard int, f func()) {
	rest := slices.Clone(w.facts[heard:])
	dead := w.dead
	w.facts, w.dead = slices.Clone(w.facts[:heard]), map[Owner]bool{}
	for _, h := range w.hosts {
		w.dead[h] = h != alone
	}
	f()
	w.facts, w.dead = append(w.facts, rest...), dead
}

// What was taken by force stays taken, whatever a majority decides meanwhile about others.
func TestForceBesideADecision(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk() // A to D are electors
	heard := len(w.facts)
	w.give(host(1), host(5), "10.0.0.32/27")
	w.dead[host(3)] = true // cut off
	w.talk()               // A, B and D make E an elector, and D dies
	if n := len(w.ledger(host(1)).Electors()); n != 5 {
		t.Fatalf("%d electors", n)
	}
	w.dead[host(4)] = true
	w.aside(host(3), heard, func() {
		w.facts = append(w.facts, w.ledger(host(3)).Force(host(4)))
		w.talk()
		w.want("by force", w.usable(host(3)), "C[10.0.0.64/26 10.0.0.192/26] ")
		w.give(host(3), host(2), "10.0.0.64/27") // what it has given of that stays given, too
	})
	w.dead[host(3)] = false
	w.talk()
	w.want("healed", w.usable(w.hosts...), "A[10.0.0.0/27] B[10.0.0.64/27 10.0.0.128/26] C[10.0.0.96/27 10.0.0.192/26] D[] E[10.0.0.32/27] ")
	for _, h := range w.hosts {
		if l := w.ledger(h); len(l.Takeovers()) != 1 || len(l.Conflicts()) > 0 || len(l.Overruled()) > 0 {
			t.Errorf("%s: takeovers %v, conflicts %v, overruled %v", letter(h), l.Takeovers(), l.Conflicts(), l.Overruled())
		}
	}
	// The dead host does not count for a majority for ever.
	if es := w.ledger(host(1)).Electors(); len(es) != 4 || slices.Contains(es, host(4)) {
		t.Errorf("electors %v", es)
	}
	// It comes back, and knows.
	w.dead[host(4)] = false
	w.talk()
	w.want("at its return", w.usable(host(4)), "D[] ")
	w.give(host(1), host(4), "10.0.0.0/28")
	w.talk()
	w.want("usable", w.usable(host(1), host(4)), "A[10.0.0.16/28] D[10.0.0.0/28] ")
	if es := w.ledger(host(1)).Electors(); len(es) != 5 {
		t.Errorf("electors %v", es)
	}
}

// Two operators force two hosts, on two sides: both count. Of the same host, one does, and the other one is told.
func TestForcedTwice(t *testing.T) {
	for _, same := range []bool{false, true} {
		w := threeOwners(t, 4)
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		heard := len(w.facts)
		w.dead[host(1)], w.dead[host(4)] = true, true
		second := host(1)
		if same {
			second = host(4)
		}
		w.facts = append(w.facts, w.ledger(host(2)).Force(host(4)))
		w.dead[host(3)] = true
		w.talk()
		w.aside(host(3), heard, func() {
			w.facts = append(w.facts, w.ledger(host(3)).Force(second))
			w.talk()
		})
		w.dead[host(3)] = false
		w.talk()
		over := w.ledger(host(3)).Overruled()
		if same {
			w.want("usable", w.usable(host(2), host(3)), "B[10.0.0.64/26 10.0.0.128/26] C[10.0.0.192/26] ")
			if len(over) != 1 || over[0].From != host(4) {
				t.Errorf("overruled: %v", over)
			}
			continue
		}
		w.want("usable", w.usable(host(2), host(3)), "B[10.0.0.64/26 10.0.0.128/26] C[10.0.0.0/26 10.0.0.192/26] ")
		if len(over) > 0 || len(w.ledger(host(1)).Takeovers()) != 2 {
			t.Errorf("overruled: %v of %v", over, w.ledger(host(1)).Takeovers())
		}
	}
}

// A majority has decided to take over the same host. If it has not come into force, whoever takes leaves what it finds taken; else that
// counts, and who was quicker by force is told.
func TestForceGivesWayToADecision(t *testing.T) {
	for _, inForce := range []bool{false, true} {
		w := threeOwners(t, 5)
		w.give(host(1), host(4), "10.0.0.64/26")
		w.give(host(1), host(5), "10.0.0.32/27")
		w.talk()
		heard := len(w.facts)
		w.dead[host(4)], w.dead[host(3)] = true, true
		w.rmpeer(1, 4)
		w.talk() // decided; the third is to be heard
		if inForce {
			w.facts = append(w.facts, w.ledger(host(1)).Force(host(3)))
			w.talk()
		}
		w.aside(host(3), heard, func() {
			w.facts = append(w.facts, w.ledger(host(3)).Force(host(4)))
			w.talk()
		})
		w.dead[host(3)] = false
		w.talk()
		over := w.ledger(host(3)).Overruled()
		if !inForce {
			w.want("usable", w.usable(host(1), host(3), host(4)), "A[10.0.0.0/27] C[10.0.0.64/26 10.0.0.192/26] D[] ")
			if len(over) > 0 {
				t.Errorf("overruled: %v", over)
			}
			continue
		}
		w.want("usable", w.usable(host(1), host(3), host(4)), "A[10.0.0.0/27 10.0.0.64/26 10.0.0.192/26] C[] D[] ")
		if len(over) != 1 || over[0].From != host(4) {
			t.Errorf("overruled: %v", over)
		}
	}
}

// Two takeovers by force can have one ID. Who has heard of the one has not heard of the other.
func TestForcedInOneInstance(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	heard := len(w.facts)
	w.dead[host(4)], w.dead[host(3)] = true, true
	w.facts = append(w.facts, w.ledger(host(2)).Force(host(4)))
	w.talk()
	w.dead[host(5)] = true // who has heard of this one
	w.aside(host(3), heard, func() {
		w.facts = append(w.facts, w.ledger(host(3)).Force(host(5)))
		w.talk()
	})
	ts := w.ledger(host(1)).Takeovers()
	if len(ts) != 2 || ts[0].ID != ts[1].ID {
		t.Fatalf("takeovers: %v", ts)
	}
	l, e := w.ledger(host(1)), w.env(host(1))
	if l.sees(host(5), ts[1]) || !l.idle(e, host(5)) || slices.Contains(l.Unheard(ts[0], e), host(5)) {
		t.Errorf("sees its own %v, idle %v, unheard %v", l.sees(host(5), ts[1]), l.idle(e, host(5)), l.Unheard(ts[0], e))
	}
	w.dead[host(3)] = false
	w.talk()
	w.want("healed", w.usable(w.hosts...), "A[10.0.0.0/27] B[10.0.0.64/26 10.0.0.128/26] C[10.0.0.32/27 10.0.0.192/26] D[] E[] ")
	if l := w.ledger(host(1)); len(l.Electors()) != 3 || l.Mortal(host(5)) {
		t.Errorf("electors %v, E is mortal: %v", l.Electors(), l.Mortal(host(5)))
	}
}

// Who forces a takeover and then says no more is in nobody's way: others are taken over, and a base is decided.
func TestForceThatIsNotCarriedOut(t *testing.T) {
	w := threeOwners(t, 4)
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactForce, Vote: Vote{Instance: 1, Value: Value{Op: OpTake, Hosts: []Owner{host(99), host(4)}}}})
	w.gone[host(4)], w.dead[host(3)] = true, true
	for len(w.ledger(host(1)).Takeovers()) < 2 {
		w.rmpeer(1, 3)
		for _, h := range w.hosts[:2] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	w.talk()
	l := w.ledger(host(1))
	if ts := l.Takeovers(); len(ts) != 2 || !l.Pending(ts[0]) || l.Pending(ts[1]) {
		t.Fatalf("takeovers %v", ts)
	}
	w.want("usable", w.usable(host(1), host(2)), "A[10.0.0.0/25 10.0.0.192/26] B[10.0.0.128/26] ")
	w.baseAt = 1
	w.talk()
	if w.ledger(host(1)).Base() == nil {
		t.Error("no base is decided")
	}
}

// A base that is decided while a takeover by force is known, and not yet that its taker has carried it out, does not do away with it.
func TestBaseBesideAForce(t *testing.T) {
	w := threeOwners(t, 4)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	w.dead[host(3)] = true
	w.facts = append(w.facts, w.ledger(host(4)).Force(host(3)))
	said := w.ledger(host(4)).Next(w.env(host(4))) // of which the others do not hear
	if len(said) != 2 || said[1].Kind != FactTook {
		t.Fatalf("the taker says %v", said)
	}
	w.dead[host(4)], w.baseAt = true, 1
	w.talk()
	b := w.ledger(host(1)).Base()
	if b == nil || len(b.Takeovers) > 0 || !slices.Contains(b.Parts, Part{Prefix: pfx("10.0.0.192/26"), Owner: host(3), Version: 3}) {
		t.Fatalf("the base is %+v", b)
	}
	full := append(slices.Clone(w.facts), said...)
	w.facts = append(w.without(), said...)
	for _, h := range w.hosts {
		w.want("the ring", show(w.ledger(h).Ring()), show(NewLedger(h, host(1), w.whole, full).Ring()))
	}
	w.dead[host(4)] = false
	w.talk()
	w.want("usable", w.usable(w.hosts...), "A[10.0.0.0/26] B[10.0.0.128/26] C[] D[10.0.0.64/26 10.0.0.192/26] ")
	if b := w.ledger(host(1)).Base(); len(b.Takeovers) != 1 {
		t.Errorf("it is in no base: %v", b.Takeovers)
	}
}

// Who has forced a takeover, and hears of others before it has carried that out, carries it out first: nobody waits for it any more when
// it has said that it knows of the others.
func TestForceIsCarriedOutBeforeOthersAreSeen(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	heard := len(w.facts)
	w.dead[host(4)], w.dead[host(2)] = true, true
	w.rmpeer(1, 4)
	w.talk() // decided by A, C and E; B is to be heard
	if n := len(w.ledger(host(1)).Takeovers()); n != 1 {
		t.Fatalf("%d takeovers", n)
	}
	w.aside(host(2), heard, func() {
		w.facts = append(w.facts, w.ledger(host(2)).Force(host(5)))
	})
	w.dead[host(2)], w.dead[host(5)] = false, true
	said := w.ledger(host(2)).Next(w.env(host(2)))
	if !slices.ContainsFunc(said, func(f Fact) bool { return f.Kind == FactTook }) || slices.ContainsFunc(said, func(f Fact) bool { return f.Kind == FactSeen }) {
		t.Errorf("it says %v", said)
	}
	w.talk()
	w.want("usable", w.usable(w.hosts...), "A[10.0.0.0/27 10.0.0.64/26] B[10.0.0.32/27 10.0.0.128/26] C[10.0.0.192/26] D[] E[] ")
}

// Nor does it keep what is left over from whom it would else be.
func TestLeftOversBesideAForceThatIsNotCarriedOut(t *testing.T) {
	w, late := giftOfTheDead(t, 1, true, true)
	w.dead[host(99)] = true
	w.facts = append(w.facts, Fact{By: host(6), Kind: FactForce, Vote: Vote{Instance: w.ledger(host(1)).Instance(), Value: Value{Op: OpTake, Hosts: []Owner{host(99), host(6)}}}})
	w.facts = append(w.facts, late...)
	w.talk()
	w.want("usable", w.usable(host(1), host(2)), "A[10.0.0.0/27 10.0.0.64/27] B[10.0.0.32/27 10.0.0.96/27 10.0.0.128/26] ")
}

// A host that lives was taken over by force, by one that had not heard what it was given meanwhile. The taker has that, too, once all have
// said that they know: but for what the host had given on, and was taken in time.
func TestForceOfOneThatLives(t *testing.T) {
	for name, c := range map[string]struct {
		accepted bool
		on       []string // what it has given on to D, which took the first
		want     string
	}{
		"not accepted":                         {false, nil, "A[10.0.0.0/26] B[10.0.0.64/26 10.0.0.128/25] C[] D[] "},
		"accepted":                             {true, nil, "A[10.0.0.0/26] B[10.0.0.64/26 10.0.0.128/25] C[] D[] "},
		"a part is given on":                   {true, []string{"10.0.0.64/27"}, "A[10.0.0.0/26] B[10.0.0.96/27 10.0.0.128/25] C[] D[10.0.0.64/27] "},
		"all is given, a part of it not taken": {true, []string{"10.0.0.64/27", "10.0.0.96/27"}, "A[10.0.0.0/26] B[10.0.0.96/27 10.0.0.128/25] C[] D[10.0.0.64/27] "},
	} {
		w := threeOwners(t, 4)
		heard := len(w.facts)
		w.give(host(1), host(3), "10.0.0.64/26")
		if c.accepted {
			w.talk()
		}
		for i, p := range c.on {
			if w.give(host(3), host(4), p); i == 0 {
				w.talk()
			}
		}
		w.aside(host(2), heard, func() {
			w.facts = append(w.facts, w.ledger(host(2)).Force(host(3)))
			w.talk()
			w.want("by force", w.usable(host(2)), "B[10.0.0.128/25] ")
		})
		w.dead[host(4)] = true
		w.talk()
		w.want(name+", while one is to be heard", w.usable(host(1), host(2), host(3)), "A[10.0.0.0/26] B[10.0.0.128/25] C[] ")
		w.dead[host(4)] = false
		w.baseAt = 1
		w.talk()
		w.want(name+", healed", w.usable(w.hosts...), c.want)
		if w.ledger(host(1)).Base() == nil {
			t.Errorf("%s: no base is decided", name)
		}
		w.give(host(2), host(3), "10.0.0.112/28") // it is as good as any
		w.talk()
		w.want(name+", given back", w.usable(host(3)), "C[10.0.0.112/28] ")
	}
}

// What a taker by force has left waits for whoever has not heard of that takeover, whatever later one it has heard of.
func TestLeftOversOfForceWaitForTheUnheard(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	heard := len(w.facts)
	w.give(host(1), host(3), "10.0.0.64/26")
	w.talk()
	g := w.give(host(3), host(4), "10.0.0.64/27")
	w.aside(host(2), heard, func() {
		w.facts = append(w.facts, w.ledger(host(2)).Force(host(3)))
		w.talk()
	})
	w.dead[host(4)] = true // it is out of reach of those who know
	w.talk()
	w.dead[host(5)] = true
	for len(w.ledger(host(1)).Takeovers()) < 2 {
		w.rmpeer(1, 5)
		for _, h := range w.hosts[:3] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	delete(w.take, host(1))
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactSeen, Count: w.ledger(host(1)).Takeovers()[1].ID})
	w.talk()
	w.want("before", w.usable(host(1), host(2), host(3)), "A[10.0.0.0/26] B[10.0.0.128/25] C[] ")
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
	w.dead[host(4)] = false
	w.talk()
	w.want("after", w.usable(w.hosts[:4]...), "A[10.0.0.0/26 10.0.0.96/27] B[10.0.0.128/25] C[] D[10.0.0.64/27] ")
}

// A second takeover by force does not wait either: what the first has left is not its own to take before all are heard.
func TestForceLeavesWhatForceHasLeft(t *testing.T) {
	w := threeOwners(t, 4)
	heard := len(w.facts)
	w.give(host(1), host(3), "10.0.0.64/26")
	w.talk()
	w.aside(host(2), heard, func() {
		w.facts = append(w.facts, w.ledger(host(2)).Force(host(3)))
		w.talk()
	})
	w.dead[host(4)] = true
	w.talk() // C knows; D does not
	w.give(host(1), host(3), "10.0.0.32/27")
	w.talk()
	w.want("it lives", w.usable(host(3)), "C[10.0.0.32/27] ")
	w.dead[host(3)] = true
	heard = len(w.facts)
	w.dead[host(1)], w.dead[host(4)] = true, false
	w.talk() // all that the first knows of have spoken
	w.dead[host(1)] = false
	w.aside(host(1), heard, func() {
		w.facts = append(w.facts, w.ledger(host(1)).Force(host(3)))
		w.talk()
		w.want("by force", w.usable(host(1)), "A[10.0.0.0/26] ")
	})
	w.talk()
	w.want("healed", w.usable(w.hosts...), "A[10.0.0.0/26] B[10.0.0.64/26 10.0.0.128/25] C[] D[] ")
}

// A has forced all others of the council, which have decided something that it has not heard of, and has decided and forced more since.
// Then the votes of the dead come late, and what A took for decided is open again. What it has taken stays taken, and it can go on.
func TestForceBehindTheOpenInstance(t *testing.T) {
	w := threeOwners(t, 5)
	heard := len(w.facts)
	w.dead[host(1)], w.dead[host(4)] = true, true
	w.give(host(2), host(5), "10.0.0.160/27")
	w.talk() // B and C make E an elector
	late := slices.Clone(w.facts[heard:])
	w.facts = slices.Clone(w.facts[:heard])
	w.dead = map[Owner]bool{host(2): true, host(3): true, host(5): true}
	force := func(h int) {
		w.facts = append(w.facts, w.ledger(host(1)).Force(host(h)))
		w.talk()
	}
	force(2)
	force(3)
	force(5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk() // A makes D an elector
	w.dead[host(4)] = true
	force(4)
	w.want("before", w.usable(host(1)), "A[10.0.0.0/24] ")
	at := w.ledger(host(1)).Instance()
	w.facts = append(w.facts, late...)
	l := w.ledger(host(1))
	if l.Instance() >= at-1 || len(l.Takeovers()) != 4 {
		t.Errorf("instance %d of %d, takeovers %v", l.Instance(), at, l.Takeovers())
	}
	w.want("after", w.usable(host(1)), "A[10.0.0.0/24] ")
	w.dead[host(3)] = false // its disk was found
	w.give(host(1), host(3), "10.0.0.192/26")
	w.talk()
	w.want("the one that is back", w.usable(host(1), host(3)), "A[10.0.0.0/25 10.0.0.128/26] C[10.0.0.192/26] ")
	// B decides again with A, and is dead: it can be taken over once more.
	if !l.Mortal(host(2)) || l.Mortal(host(5)) {
		t.Errorf("mortal: B %v, E %v", l.Mortal(host(2)), l.Mortal(host(5)))
	}
	force(2)
	if es := w.ledger(host(1)).Electors(); len(es) != 2 || es[1] != host(3) {
		t.Errorf("electors %v", es)
	}
	w.want("at last", w.usable(w.hosts...), "A[10.0.0.0/25 10.0.0.128/26] B[] C[10.0.0.192/26] D[] E[] ")
}

// One that is further behind is another's doing, or too late. Its author is told.
func TestForceFarBehindTheOpenInstance(t *testing.T) {
	for _, far := range []bool{false, true} {
		w := threeOwners(t, 4)
		w.dead[host(3)] = true
		at := w.ledger(host(1)).Instance() + ahead
		if far {
			at++
		}
		w.facts = append(w.facts, Fact{By: host(1), Kind: FactForce, Vote: Vote{Instance: at, Value: Value{Op: OpTake, Hosts: []Owner{host(3), host(1)}}}})
		w.talk()
		l := w.ledger(host(1))
		if counts := len(l.Takeovers()) > 0; counts == far || far != (len(l.Overruled()) == 1) {
			t.Errorf("far %v: takeovers %v, overruled %v", far, l.Takeovers(), l.Overruled())
		}
		// What follows such a takeover counts, and what would need another one does not.
		g := Grant{Prefix: pfx("10.0.0.192/26"), From: host(1), To: host(4), Version: 2*at*takeoverStep + 1}
		if w.ledger(host(4)).MayAccept(g) == far {
			t.Errorf("far %v: version %d may be accepted: %v", far, g.Version, far)
		}
		if g.Version = 2*(at+2)*takeoverStep + 1; w.ledger(host(4)).MayAccept(g) {
			t.Errorf("far %v: version %d may be accepted", far, g.Version)
		}
		// What others give each other is not above it: it can be taken over by the next decision.
		w.dead[host(4)] = false
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		w.dead[host(4)] = true
		for !slices.ContainsFunc(w.ledger(host(2)).Takeovers(), func(t Takeover) bool { return t.From == host(4) }) {
			w.rmpeer(2, 4)
			for _, h := range w.hosts[:2] {
				w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
			}
		}
		w.talk()
		if !slices.ContainsFunc(w.ledger(host(2)).Usable(), pfx("10.0.0.64/26").Overlaps) {
			t.Errorf("far %v: usable %v", far, w.usable(host(1), host(2)))
		}
	}
}

// Who takes over by force is taken over by force in the same instance. What it has brought in stays its own; what it has not is left over.
func TestForceOfWhoForces(t *testing.T) {
	for _, c := range []struct {
		dead int
		took bool
		want string
	}{
		{4, true, "A[10.0.0.0/26] B[10.0.0.64/26] C[10.0.0.128/25] D[] "},
		{4, false, "A[10.0.0.0/26] B[10.0.0.64/26] C[10.0.0.128/25] D[] "}, // B's takeover is the last
		{1, true, "A[] B[10.0.0.0/26] C[10.0.0.128/25] D[10.0.0.64/26] "},
		{1, false, "A[] B[] C[10.0.0.0/26 10.0.0.128/25] D[10.0.0.64/26] "},
	} {
		w := threeOwners(t, 4)
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		heard := len(w.facts)
		w.dead[host(c.dead)] = true
		w.aside(host(2), heard, func() {
			w.facts = append(w.facts, w.ledger(host(2)).Force(host(c.dead)))
			if c.took {
				w.talk()
			}
		})
		forced := slices.Clone(w.facts[heard:])
		w.facts = w.facts[:heard]
		w.aside(host(3), heard, func() {
			w.facts = append(w.facts, w.ledger(host(3)).Force(host(2)))
			w.talk()
		})
		w.facts = append(w.facts, forced...)
		w.baseAt = 1
		w.talk()
		w.want("usable", w.usable(w.hosts...), c.want)
		if w.ledger(host(3)).Base() == nil {
			t.Errorf("%d is dead, took %v: no base is decided", c.dead, c.took)
		}
	}
}

// The last taker can be the host that was forced itself, or one that it has given all to that was left; neither may accept that any more.
func TestLeftOversAreOfWhoWasToHaveThem(t *testing.T) {
	for taker, want := range map[int]string{
		3: "A[10.0.0.0/27] B[10.0.0.128/25] C[10.0.0.32/27 10.0.0.64/26] D[] E[] ",
		4: "A[10.0.0.0/27] B[10.0.0.128/25] C[] D[10.0.0.32/27 10.0.0.64/26] E[] ",
	} {
		w := threeOwners(t, 5)
		w.give(host(1), host(5), "10.0.0.32/27")
		w.talk()
		heard := len(w.facts)
		w.give(host(1), host(3), "10.0.0.64/26")
		if taker == 4 {
			w.talk()
			w.give(host(3), host(4), "10.0.0.64/26")
		}
		w.aside(host(2), heard, func() {
			w.facts = append(w.facts, w.ledger(host(2)).Force(host(3)))
			w.talk()
		})
		w.dead[host(5)] = true // so that what is left over waits
		for len(w.ledger(host(1)).Takeovers()) < 2 {
			w.take[host(1)] = Value{Op: OpTake, Hosts: []Owner{host(5), host(taker)}}
			for _, h := range w.hosts[:4] {
				w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
			}
		}
		w.talk()
		w.want("usable", w.usable(w.hosts...), want)
	}
}
