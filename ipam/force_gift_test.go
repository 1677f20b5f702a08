package ipam

import (
	"slices"
	"testing"
)

// B was reset: it has handed its space to A, which has not written yet that it takes it. F forces B at that moment, everybody in reach.
// A hears of the force only after it has accepted.
func TestForceLeavesGiftsToTheLiving(t *testing.T) {
	for _, c := range []struct {
		name    string
		accepts bool // A does before it hears of the force
		dead    bool // B is dead instead of departed
		want    string
	}{
		{"reset, A takes it", true, false, "A[10.0.0.0/25 10.0.0.128/26] C[10.0.0.192/26] D[] "},
		{"dead, A takes it", true, true, "A[10.0.0.0/25 10.0.0.128/26] C[10.0.0.192/26] D[] "},
		{"reset, A hears first", false, false, "A[10.0.0.0/25] C[10.0.0.192/26] D[10.0.0.128/26] "},
	} {
		w := threeOwners(t, 4)
		if c.dead {
			w.dead[host(2)] = true
		} else {
			w.gone[host(2)] = true
		}
		g := w.give(host(2), host(1), "10.0.0.128/26")
		before := w.facts[:len(w.facts):len(w.facts)]
		w.facts = append(w.facts, w.ledger(host(4)).Force(host(2)))
		for range 3 {
			w.facts = append(w.facts, w.ledger(host(4)).Next(w.env(host(4)))...)
		}
		w.want(c.name+", the forcer", w.usable(host(4)), "D[] ")
		if c.accepts {
			a := NewLedger(host(1), host(1), w.whole, before)
			if len(a.Waiting()) != 1 {
				t.Fatal("A does not wait")
			}
			acc := Fact{By: host(1), Kind: FactAccept, Grant: g}
			t.Log(c.name, "A uses", NewLedger(host(1), host(1), w.whole, append(before, acc)).Usable(), "D uses", w.usable(host(4)))
			w.facts = append(w.facts, acc)
		}
		w.baseAt = 1
		w.talk()
		w.want(c.name, w.usable(host(1), host(3), host(4)), c.want)
		if w.ledger(host(1)).Base() == nil {
			t.Errorf("%s: no base", c.name)
		}
	}
}

// F has forced D and died before it could carry that out; A heard of it, E did not. A takes F over by a decision, and with it what F was
// to take of D. E says that it knows of the decision; what D has given it it may still accept, since it knows of no takeover of D.
func TestNestedForceIsHeardByAll(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	// D (4) gives to E (5), which hears of it late; D and then C (3), which forces D, die.
	g := w.give(host(4), host(5), "10.0.0.64/27")
	gift := w.facts[len(w.facts)-1]
	w.dead[host(4)], w.dead[host(3)] = true, true
	force := w.ledger(host(3)).Force(host(4))
	w.take[host(1)] = Value{Op: OpTake, Hosts: []Owner{host(3), host(1)}}
	without := func() (out []Fact) { // what E knows
		for _, f := range w.facts {
			if f.Kind != FactForce && !(f.Kind == FactGrant && f.Grant == gift.Grant) {
				out = append(out, f)
			}
		}
		return out
	}
	for range 30 {
		if len(w.ledger(host(1)).Takeovers()) > 0 {
			if !slices.ContainsFunc(w.facts, func(f Fact) bool { return f.Kind == FactForce }) {
				w.facts = append(w.facts, force) // A and B hear of it
			}
		}
		for _, h := range []Owner{host(1), host(2), host(5)} {
			l := w.ledger(h)
			if h == host(5) {
				l = NewLedger(h, host(1), w.whole, without())
			}
			w.facts = append(w.facts, l.Next(w.env(h))...)
		}
	}
	// Then D's log comes, before C's, and before what A says last.
	var known []Fact
	for _, f := range w.facts {
		if f.Kind != FactForce && !(f.By == host(1) && (f.Kind == FactTook || f.Kind == FactAccept)) {
			known = append(known, f)
		}
	}
	e := NewLedger(host(5), host(1), w.whole, known)
	if len(e.Waiting()) == 1 {
		e = NewLedger(host(5), host(1), w.whole, append(known, Fact{By: host(5), Kind: FactAccept, Grant: g}))
	}
	a := w.ledger(host(1))
	t.Log("A", a.Takeovers(), a.Usable(), a.electors, "E waits", e.Waiting(), e.Takeovers(), e.Usable(), "unheard", a.Unheard(a.takeovers[len(a.takeovers)-1], w.env(host(1))), show(a.Ring()))
	for _, p := range a.Usable() {
		for _, q := range e.Usable() {
			if p.Overlaps(q) {
				t.Errorf("A uses %v, E %v: takeovers %v", a.Usable(), e.Usable(), a.Takeovers())
			}
		}
	}
	w.facts = append(w.facts, Fact{By: host(5), Kind: FactAccept, Grant: g})
	delete(w.take, host(1))
	w.baseAt = 1
	w.talk()
	w.want("healed", w.usable(host(1), host(2), host(5)), "A[10.0.0.0/27 10.0.0.96/27 10.0.0.192/26] B[10.0.0.128/26] E[10.0.0.32/27 10.0.0.64/27] ")
}

// C is cut off and forces B, then D, and dies before it has carried out the latter. A and B meanwhile decide that C is A's, in the
// instance that C has closed by force. What is D's must be somebody's in the end.
func TestForceBehindItsTakersTakeover(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	heard := len(w.facts)
	w.dead[host(3)] = true
	w.take[host(1)] = Value{Op: OpTake, Hosts: []Owner{host(3), host(1)}}
	w.talk()
	delete(w.take, host(1))
	if n := len(w.ledger(host(1)).Takeovers()); n != 1 {
		t.Fatal("takeovers", n)
	}
	w.aside(host(3), heard, func() {
		w.facts = append(w.facts, w.ledger(host(3)).Force(host(5)))
		w.talk()
		w.facts = append(w.facts, w.ledger(host(3)).Force(host(4)))
	})
	w.dead[host(3)], w.dead[host(4)], w.dead[host(5)] = true, true, true // for good
	w.talk()
	for range 3 {
		for _, d := range []int{3, 4, 5} {
			l, e := w.ledger(host(1)), w.env(host(1))
			v := Value{Op: OpTake, Hosts: []Owner{host(d), host(1)}}
			t.Log(letter(host(d)), "mortal", l.Mortal(host(d)), l.Takeovers(), "instance", l.Instance())
			if !l.Mortal(host(d)) || !e.Dead(host(d)) {
				continue
			}
			n := len(l.Takeovers())
			for k := 0; k < 20 && len(w.ledger(host(1)).Takeovers()) == n; k++ {
				w.take[host(1)] = v
				for _, h := range w.hosts[:2] {
					w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
				}
			}
			delete(w.take, host(1))
			w.talk()
		}
	}
	w.baseAt = 1
	w.talk()
	w.want("all", w.usable(host(1), host(2)), "A[10.0.0.0/25 10.0.0.192/26] B[10.0.0.128/26] ")
	if w.ledger(host(1)).Base() == nil {
		t.Error("no base")
	}
}
