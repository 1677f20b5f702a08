package ipam

import (
	"slices"
	"testing"
)

// What a council decided that force had split off is undone by votes that come late: who carried it out, and uses what it brought, is told.
func TestUndoneDecisionIsTold(t *testing.T) {
	w := threeOwners(t, 6)
	heard := len(w.facts)
	w.dead[host(1)], w.dead[host(4)], w.dead[host(6)] = true, true, true
	w.give(host(2), host(5), "10.0.0.160/27")
	w.talk() // B and C make E an elector
	late := slices.Clone(w.facts[heard:])
	w.facts = slices.Clone(w.facts[:heard])
	w.dead = map[Owner]bool{host(2): true, host(3): true, host(5): true}
	for _, h := range []int{2, 3, 5} {
		w.facts = append(w.facts, w.ledger(host(1)).Force(host(h)))
		w.talk()
	}
	w.give(host(1), host(4), "10.0.0.64/27")
	w.give(host(1), host(6), "10.0.0.96/27")
	w.talk() // A makes D and F electors
	w.want("before", w.usable(host(1), host(4), host(6)), "A[10.0.0.0/26 10.0.0.128/25] D[10.0.0.64/27] F[10.0.0.96/27] ")
	w.dead[host(6)] = true
	w.take[host(4)] = Value{Op: OpTake, Hosts: []Owner{host(6), host(4)}}
	for range 30 {
		for _, h := range []Owner{host(1), host(4)} {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	w.take = map[Owner]Value{}
	w.want("taken", w.usable(host(1), host(4), host(6)), "A[10.0.0.0/26 10.0.0.128/25] D[10.0.0.64/26] F[] ")
	w.facts = append(w.facts, late...)
	w.want("after", w.usable(host(4), host(6)), "D[10.0.0.64/27] F[10.0.0.96/27] ")
	l := w.ledger(host(4))
	if got := l.Overruled(); len(got) != 1 || got[0].From != host(6) || got[0].To != host(4) || got[0].Forced {
		t.Errorf("D is told of %v", got)
	}
	for _, h := range []Owner{host(1), host(6)} {
		if got := w.ledger(h).Overruled(); len(got) > 0 {
			t.Errorf("%v is told of %v", h, got)
		}
	}
}

// As the third case of TestForceLeavesGiftsToTheLiving, but the forcer is reset before it has heard that all know: what is left over, and
// whose matter that was, can be seen, and removing that host brings it back.
func TestForcerLeavesBeforeItGleans(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(2)] = true
	w.give(host(2), host(1), "10.0.0.128/26")
	w.facts = append(w.facts, w.ledger(host(4)).Force(host(2)))
	for range 3 {
		w.facts = append(w.facts, w.ledger(host(4)).Next(w.env(host(4)))...)
	}
	w.gone[host(4)] = true // it owns nothing and is reset
	w.talk()
	if ps, taker := w.ledger(host(1)).LeftOver(); len(ps) != 1 || ps[0] != pfx("10.0.0.128/26") || taker != host(4) {
		t.Errorf("left over: %v, for %v", ps, taker)
	}
	w.rmpeer(3, 4)
	for range 30 { // talk takes the takeover of before for it
		for _, h := range []Owner{host(1), host(3)} {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	w.want("D is removed", w.usable(host(1), host(3)), "A[10.0.0.0/25] C[10.0.0.128/25] ")
	if ps, taker := w.ledger(host(1)).LeftOver(); len(ps) > 0 || !taker.IsZero() {
		t.Errorf("left over: %v, for %v", ps, taker)
	}
}
