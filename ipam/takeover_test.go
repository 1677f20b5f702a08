package ipam

import (
	"net/netip"
	"slices"
	"testing"
)

// threeOwners is a mesh whose founder has given parts to two others.
func threeOwners(t *testing.T, n int) *table {
	w := newTable(t, n, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	w.give(host(1), host(2), "10.0.0.128/25")
	w.talk()
	w.give(host(2), host(3), "10.0.0.192/26")
	w.talk()
	if l := w.ledger(host(1)); len(l.Electors()) != 3 {
		t.Fatalf("electors are %v", l.Electors())
	}
	return w
}

func (w *table) rmpeer(by, dead int) {
	w.take[host(by)] = Value{Op: OpTake, Hosts: []Owner{host(dead), host(by)}}
}

func TestTakeover(t *testing.T) {
	w := threeOwners(t, 3)
	w.rmpeer(1, 3)
	w.talk()
	if len(w.ledger(host(1)).Takeovers()) != 0 {
		t.Fatal("a living host was taken over")
	}
	w.dead[host(3)] = true
	w.rmpeer(2, 3) // and the other operator does the same
	w.talk()
	l := w.ledger(host(1))
	if len(l.Takeovers()) != 1 || len(l.Electors()) != 2 {
		t.Fatalf("takeovers %v, electors %v", l.Takeovers(), l.Electors())
	}
	w.want("the dead host's part", letter(l.Ring().Owner(netip.MustParseAddr("10.0.0.200"))), letter(l.Takeovers()[0].To))
	// It comes back, knows what it has lost, and gets a new part that counts.
	w.dead[host(3)] = false
	w.want("usable at its return", w.usable(host(3)), "C[] ")
	if _, lost := w.ledger(host(3)).Lost(); !lost {
		t.Error("it does not know what it has lost")
	}
	w.talk()
	w.give(host(1), host(3), "10.0.0.64/26")
	w.talk()
	w.want("usable", w.usable(host(3)), "C[10.0.0.64/26] ")
	if e := w.ledger(host(2)).Electors(); len(e) != 3 {
		t.Errorf("it decides nothing any more: %v", e)
	}
}

func TestTakeoverNeedsAMajority(t *testing.T) {
	w := threeOwners(t, 3)
	w.dead[host(3)], w.dead[host(2)] = true, true
	w.rmpeer(1, 3)
	for range 5 {
		w.facts = append(w.facts, w.ledger(host(1)).Next(w.env(host(1)))...)
	}
	if n := len(w.ledger(host(1)).Takeovers()); n > 0 {
		t.Fatal("one of three has taken over")
	}
	w.facts = append(w.facts, w.ledger(host(1)).Force(host(3)))
	w.take = map[Owner]Value{}
	w.talk()
	w.want("by force", w.usable(host(1)), "A[10.0.0.0/25 10.0.0.192/26] ")
}

// What was refused stays refused: a ballot that a majority promises later than anybody wishes it takes over nobody.
func TestTakeoverThatNobodyWishesAnyMore(t *testing.T) {
	for _, back := range []bool{false, true} {
		w := threeOwners(t, 4)
		w.dead[host(2)], w.dead[host(3)] = true, true
		w.rmpeer(1, 3)
		w.facts = append(w.facts, w.ledger(host(1)).Next(w.env(host(1)))...) // A prepares, and finds no majority
		delete(w.take, host(1))
		w.dead[host(2)], w.dead[host(3)] = false, !back
		w.talk()
		if ts := w.ledger(host(1)).Takeovers(); len(ts) > 0 {
			t.Fatalf("C back: %v; taken over: %v", back, ts)
		}
		// The old ballot is in nobody's way.
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		w.rmpeer(2, 3)
		w.dead[host(3)] = true
		w.talk()
		w.want("usable", w.usable(host(1), host(2), host(4)), "A[10.0.0.0/26] B[10.0.0.128/25] D[10.0.0.64/26] ")
		if n := len(w.ledger(host(1)).Electors()); n != 3 {
			t.Errorf("C back: %v; %d electors", back, n)
		}
	}
}

// A proposer that is cut off in the middle, and comes back when the host that it wanted to take over has long done so, too.
func TestTakeoverOfOneThatIsBack(t *testing.T) {
	for _, proposed := range []bool{false, true} {
		w := threeOwners(t, 4)
		w.dead[host(3)] = true
		w.rmpeer(1, 3)
		say := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
		say(1) // prepares
		say(2) // promises
		if proposed {
			say(1) // accepts, and is the only one that knows
			if v := w.ledger(host(1)).open.latest[host(1)]; v.Value.Op != OpTake {
				t.Fatalf("A has not proposed: %+v", v)
			}
		}
		w.dead[host(3)] = false
		w.talk() // the operator still waits, or not
		delete(w.take, host(1))
		w.talk()
		if ts := w.ledger(host(1)).Takeovers(); len(ts) > 0 {
			t.Fatalf("proposed: %v; a living host was taken over: %v", proposed, ts)
		}
		w.want("usable", w.usable(w.hosts...), "A[10.0.0.0/25] B[10.0.0.128/26] C[10.0.0.192/26] D[] ")
		// What one has accepted binds nobody when all have spoken.
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		if n := len(w.ledger(host(2)).Electors()); n != 4 {
			t.Errorf("proposed: %v; nothing can be decided any more: %d electors", proposed, n)
		}
	}
}

// What may have been decided by hosts that are out of reach is carried through, although its host lives again: else nothing could be
// decided before they are back, which may be never.
func TestTakeoverThatMayBeDecided(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(3)] = true
	w.rmpeer(1, 3)
	for _, i := range []int{1, 2, 1} {
		w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...)
	}
	second := w.ledger(host(2)).Next(w.env(host(2))) // accepts, so that it is decided, and is cut off before anybody hears of it
	delete(w.take, host(1))
	w.dead[host(3)], w.dead[host(2)] = false, true
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	want := func() {
		t.Helper()
		if l := w.ledger(host(1)); len(l.Takeovers()) != 1 || l.Takeovers()[0].From != host(3) {
			t.Fatalf("takeovers %v, electors %v", l.Takeovers(), l.Electors())
		}
	}
	want()
	n := len(w.facts)
	for range 5 {
		w.talk()
	}
	if len(w.facts) != n {
		t.Error("they fill their logs with ballots")
	}
	w.facts, w.dead[host(2)] = append(w.facts, second...), false
	w.talk()
	want()
	if l := w.ledger(host(1)); !slices.Contains(l.Electors(), host(4)) {
		t.Errorf("electors %v", l.Electors())
	}
}

// A takeover that one elector has accepted, of a host that is back: it is not carried through before all in reach have been asked, one of
// whom is a moment late. If that one stays silent, it is in the end.
func TestCarriedThroughLast(t *testing.T) {
	for _, silent := range []bool{false, true} {
		w := threeOwners(t, 4)
		say := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
		w.dead[host(3)] = true
		w.rmpeer(1, 3)
		say(1) // prepares
		say(2) // promises
		say(1) // accepts, and is the only one that knows
		if v := w.ledger(host(1)).open.latest[host(1)]; v.Value.Op != OpTake {
			t.Fatal("not proposed")
		}
		delete(w.take, host(1))
		w.dead[host(3)] = false
		g := w.give(host(1), host(4), "10.0.0.64/26")
		w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
		say(4)
		for range 4 {
			say(1)
			say(2)
		}
		if ts := w.ledger(host(1)).Takeovers(); len(ts) > 0 {
			t.Fatalf("carried through before the third could say anything: %v", ts)
		}
		for range 4 * asks {
			say(1)
			say(2)
			if !silent {
				say(3)
			}
		}
		if n := len(w.ledger(host(1)).Takeovers()); silent != (n == 1) {
			t.Errorf("silent: %v; %d takeovers", silent, n)
		}
		w.talk()
		if n := len(w.ledger(host(1)).Electors()); !silent && n != 4 {
			t.Errorf("%d electors", n)
		}
	}
}

// The dead host has given a part away that the others do not know of: to one that they wait for, or to one that has not taken it.
func TestTakeoverWaitsForTheUnheard(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(4)] = true // out of reach, not dead, and no elector
	g := w.give(host(3), host(4), "10.0.0.224/27")
	w.facts = w.facts[:len(w.facts)-1] // nobody hears of it
	w.dead[host(3)] = true
	w.rmpeer(1, 3)
	w.talk()
	w.want("before the fourth has spoken", w.usable(host(1)), "A[10.0.0.0/25] ")
	if u := w.ledger(host(1)).Unheard(w.ledger(host(1)).Takeovers()[0], w.env(host(1))); !slices.Equal(u, []Owner{host(4)}) {
		t.Errorf("unheard: %v", u)
	}
	w.dead[host(3)] = false
	w.want("the dead host, if it came back now", w.usable(host(3)), "C[] ")
	if gs := append(w.ledger(host(3)).Donate(host(2), none, netip.Prefix{}), w.ledger(host(3)).HandOver(host(2))...); len(gs) > 0 {
		t.Errorf("it gives away what it has lost: %v", gs)
	}
	w.dead[host(3)] = true
	before := slices.Clone(w.facts)
	// It has taken the part in time: it keeps it.
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
	w.dead[host(4)] = false
	w.talk()
	w.want("it has taken it", w.usable(host(1), host(4)), "A[10.0.0.0/25 10.0.0.192/27] D[10.0.0.224/27] ")
	// It has not: it may not any more.
	w.facts = append(before, Fact{By: host(3), Kind: FactGrant, Grant: g})
	if l := w.ledger(host(4)); l.MayAccept(g) || len(l.Waiting()) > 0 {
		t.Error("what the dead host gave may be taken after its takeover is known")
	}
	// Until the takeover is carried out, all see the same ring, also whoever may not use its part.
	w.want("usable in between", w.usable(host(1), host(4)), "A[10.0.0.0/25] D[] ")
	for _, h := range w.hosts {
		w.want("the ring as "+letter(h)+" sees it", show(w.ledger(h).Ring()), show(w.ledger(host(2)).Ring()))
	}
	w.talk()
	w.want("it has not taken it", w.usable(host(1), host(4)), "A[10.0.0.0/25 10.0.0.192/26] D[] ")
	// It is dead itself, and taken over: nobody waits for it.
	w.facts = before
	w.dead[host(4)] = true
	w.facts = append(w.facts, w.ledger(host(2)).Force(host(4)))
	w.talk()
	w.want("it is dead", w.usable(host(1)), "A[10.0.0.0/25 10.0.0.192/26] ")
	// What it says after that does not change whose the part is.
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
	w.dead[host(4)] = false
	w.talk()
	w.want("it came back", w.usable(host(1), host(2), host(4)), "A[10.0.0.0/25 10.0.0.192/26] B[10.0.0.128/26] D[] ")
}

// A host that came back while it was being taken over has to say that it knows, before anybody uses what it had.
func TestTakeoverOfOneThatReturns(t *testing.T) {
	w := threeOwners(t, 3)
	w.dead[host(3)] = true
	w.rmpeer(1, 3)
	for range 20 {
		for _, h := range w.hosts[:2] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
		if len(w.ledger(host(1)).Takeovers()) > 0 {
			break
		}
	}
	w.dead[host(3)] = false // and it has not heard of it yet
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool {
		return f.Kind == FactSeen || f.Kind == FactTook || f.Kind == FactAccept && f.Grant.Takeover()
	})
	for range 5 {
		for _, h := range w.hosts[:2] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	w.want("before it knows", w.usable(host(1), host(2)), "A[10.0.0.0/25] B[10.0.0.128/26] ")
	// It is in reach of the second only, by which it gives space away, maybe; the first takes it for dead still.
	for range 5 {
		for _, h := range w.hosts[:2] {
			w.dead[host(3)] = h == host(1)
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	w.want("before all who see it have heard that it knows", w.usable(host(1), host(2)), "A[10.0.0.0/25] B[10.0.0.128/26] ")
	w.dead[host(3)] = false
	w.talk()
	w.want("when it knows", w.usable(host(1), host(3)), "A[10.0.0.0/25 10.0.0.192/26] C[] ")
}

// A taker that dies before it has taken anything leaves it to whoever takes over from it.
func TestTakeoverOfATaker(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(4)], w.dead[host(3)] = true, true
	w.rmpeer(2, 3)
	w.talk() // decided, and not in force: the fourth is unheard
	w.dead[host(4)], w.dead[host(2)] = false, true
	w.facts = append(w.facts, w.ledger(host(1)).Force(host(2)))
	w.talk()
	w.want("all that is dead", w.usable(host(1)), "A[10.0.0.0/24] ")
	// Nobody waits for what it was to take.
	w.baseAt = 1
	w.talk()
	if l := w.ledger(host(1)); l.Base() == nil || slices.ContainsFunc(l.Takeovers(), l.Pending) {
		t.Errorf("base %v, takeovers %v", l.Base(), l.Takeovers())
	}
}

// giftOfTheDead is a mesh in which D has given E something, both are dead, and A has taken over from the one, B from the other. Only the
// first or the second of the two takers knows of the gift, and if taken, that it was taken; late are the facts that the others lack.
func giftOfTheDead(t *testing.T, knows int, taken, giverFirst bool) (w *table, late []Fact) {
	w = threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk()
	g := w.give(host(4), host(5), "10.0.0.96/27")
	late = []Fact{w.facts[len(w.facts)-1], {By: host(5), Kind: FactAccept, Grant: g}}
	w.facts = w.facts[:len(w.facts)-1]
	heard := late
	if !taken {
		heard = late[:1]
	}
	w.dead[host(4)], w.dead[host(5)] = true, true
	first, second := 4, 5
	if !giverFirst {
		first, second = 5, 4
	}
	say := func() bool {
		n := len(w.facts)
		for i, h := range w.hosts[:3] {
			l := w.ledger(h)
			if i+1 == knows {
				l = NewLedger(h, host(1), w.whole, append(slices.Clone(w.facts), heard...))
			}
			w.facts = append(w.facts, l.Next(w.env(h))...)
		}
		return len(w.facts) > n
	}
	w.rmpeer(1, first)
	for len(w.ledger(host(1)).Takeovers()) == 0 && say() {
	}
	delete(w.take, host(1))
	w.rmpeer(2, second)
	for range 60 {
		if !say() {
			break
		}
	}
	if l := w.ledger(host(1)); len(l.Takeovers()) != 2 || l.Pending(l.takeovers[0]) || l.Pending(l.takeovers[1]) {
		t.Fatalf("takeovers %v", l.Takeovers())
	}
	return w, late
}

// Two dead hosts have given each other something, and their takers know of different parts of that: nobody takes it twice, and in the end
// somebody has it, whoever knows more and whoever comes first.
func TestTakeoversThatKnowDifferently(t *testing.T) {
	for i := range 16 {
		knows, taken, giverFirst, back := i&1+1, i&2 > 0, i&4 > 0, i&8 > 0
		w, late := giftOfTheDead(t, knows, taken, giverFirst)
		w.dead[host(4)], w.dead[host(5)] = !back, !back
		w.facts = append(w.facts, late...)
		w.talk()
		users := ""
		for _, h := range w.hosts {
			if slices.ContainsFunc(w.ledger(h).Usable(), func(p netip.Prefix) bool { return p.Overlaps(pfx("10.0.0.96/27")) }) {
				users += letter(h)
			}
		}
		l := w.ledger(host(1))
		if users != "A" && users != "B" || users != letter(l.Ring().Owner(netip.MustParseAddr("10.0.0.96"))) || len(l.Conflicts()) > 0 {
			t.Errorf("the taker %d knows of it (taken: %v), giver first %v, back %v: the gift is used by %q\n%s", knows, taken, giverFirst, back, users, show(l.Ring()))
		}
		if !back && (l.Mortal(host(4)) || l.Mortal(host(5))) {
			t.Errorf("the taker %d knows of it (taken: %v), giver first %v: what has nothing left can be taken over", knows, taken, giverFirst)
		}
	}
}

// What is left over waits for those who are out of reach, too: one of them may have it.
func TestLeftOversWaitForTheUnheard(t *testing.T) {
	w, late := giftOfTheDead(t, 1, true, true)
	w.hosts = append(w.hosts, host(6)) // whom the taker has not known of
	w.dead[host(6)] = true
	w.facts = append(w.facts, late...)
	w.talk()
	w.want("before", w.usable(host(1), host(2), host(6)), "A[10.0.0.0/27 10.0.0.64/27] B[10.0.0.32/27 10.0.0.128/26] F[] ")
	w.facts = append(w.facts, Fact{By: host(6), Kind: FactAccept, Grant: Grant{Prefix: pfx("10.0.0.112/28"), From: host(5), To: host(6), Version: 4}})
	w.dead[host(6)] = false
	w.talk()
	w.want("after", w.usable(host(1), host(2), host(6)), "A[10.0.0.0/27 10.0.0.64/27] B[10.0.0.32/27 10.0.0.96/28 10.0.0.128/26] F[10.0.0.112/28] ")
}

// If who would take what is left over has gone, the dead host is taken over once more.
func TestTakeoverOfWhatIsLeftOver(t *testing.T) {
	w, late := giftOfTheDead(t, 1, true, true)
	w.gone[host(2)] = true
	w.facts = append(w.facts, late...)
	w.talk()
	if l := w.ledger(host(1)); !l.Mortal(host(5)) || l.Mortal(host(4)) {
		t.Errorf("may be taken over: the one that owns the rest %v, the one that owns nothing %v", l.Mortal(host(5)), l.Mortal(host(4)))
	}
	w.take[host(1)] = Value{Op: OpTake, Hosts: []Owner{host(5), host(1)}}
	for len(w.ledger(host(1)).Takeovers()) < 3 {
		n := len(w.facts)
		for _, h := range []Owner{host(1), host(3)} {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
		if len(w.facts) == n {
			t.Fatal("it is not decided")
		}
	}
	w.talk()
	w.want("usable", w.usable(host(1), host(3)), "A[10.0.0.0/27 10.0.0.64/26] C[10.0.0.192/26] ")
}

// A forced takeover does not wait for what its taker has taken over before, and does not do away with it either.
func TestForceWhileATakeoverWaits(t *testing.T) {
	for _, dies := range []bool{false, true} {
		w := threeOwners(t, 5)
		w.give(host(1), host(4), "10.0.0.64/26")
		w.talk()
		w.dead[host(5)], w.dead[host(3)] = true, true
		w.rmpeer(1, 3)
		w.talk() // decided; the fifth is unheard
		w.dead[host(4)] = true
		w.facts = append(w.facts, w.ledger(host(1)).Force(host(4)))
		w.talk()
		w.want("by force", w.usable(host(1), host(2)), "A[10.0.0.0/25] B[10.0.0.128/26] ")
		if l := w.ledger(host(1)); !l.Pending(l.takeovers[0]) || l.Pending(l.takeovers[1]) {
			t.Errorf("pending: the first %v, the forced one %v", l.Pending(l.takeovers[0]), l.Pending(l.takeovers[1]))
		}
		w.dead[host(5)] = false
		if !dies {
			w.talk()
			w.want("when the fifth knows", w.usable(host(1), host(2)), "A[10.0.0.0/25 10.0.0.192/26] B[10.0.0.128/26] ")
			continue
		}
		// Whoever takes over from it has what it had, and what it was still to have.
		w.dead[host(1)] = true
		w.facts = append(w.facts, w.ledger(host(2)).Force(host(1)))
		w.talk()
		w.want("the heir", w.usable(host(2)), "B[10.0.0.0/24] ")
	}
}

// Takeovers come into force one after the other: what two dead hosts have given each other is not taken twice.
func TestTakeoversInTurn(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.give(host(1), host(5), "10.0.0.32/27")
	w.talk() // five electors
	// The fourth gives the fifth something that only the second hears of, later; both die.
	g := w.give(host(4), host(5), "10.0.0.96/27")
	late := []Fact{w.facts[len(w.facts)-1], {By: host(5), Kind: FactAccept, Grant: g}}
	w.facts = w.facts[:len(w.facts)-1]
	w.dead[host(4)] = true
	w.dead[host(5)] = true
	w.rmpeer(1, 4)
	w.talk()
	w.rmpeer(2, 5)
	// The first takes its part without knowing of the gift; the second, who knows, must not have taken that before.
	second := func() *Ledger {
		return NewLedger(host(2), host(1), w.whole, append(slices.Clone(w.facts), late...))
	}
	for range 60 {
		n := len(w.facts)
		for _, h := range w.hosts[:3] {
			l := w.ledger(h)
			if h == host(2) {
				l = second()
			}
			fs := l.Next(w.env(h))
			if h == host(1) { // whose turn it is, and who is slow
				fs = slices.DeleteFunc(fs, func(f Fact) bool { return f.Kind == FactTook || f.Kind == FactAccept })
			}
			if h == host(2) && slices.ContainsFunc(fs, func(f Fact) bool { return f.Kind == FactTook }) {
				t.Fatal("the second has not waited for its turn")
			}
			w.facts = append(w.facts, fs...)
		}
		if len(w.facts) == n {
			break
		}
	}
	if n := len(second().Takeovers()); n != 2 {
		t.Fatalf("%d takeovers are decided", n)
	}
	w.talk()
	w.facts = append(w.facts, late...)
	w.talk()
	w.want("usable", w.usable(host(1), host(2)), "A[10.0.0.0/27 10.0.0.64/26] B[10.0.0.32/27 10.0.0.128/26] ")
}

// A ballot that a majority promises late proposes nothing that its own proposer would not agree to any more.
func TestProposalThatIsOutOfDate(t *testing.T) {
	w := threeOwners(t, 4)
	say := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
	g := w.give(host(1), host(4), "10.0.0.64/26")
	w.facts = append(w.facts, Fact{By: host(4), Kind: FactAccept, Grant: g})
	say(4) // stands
	say(1) // prepares
	say(2) // promises
	w.gone[host(4)] = true
	say(1)
	if v := w.ledger(host(1)).open.latest[host(1)]; v.Intent.Op != OpAdd || v.Value.Op != 0 {
		t.Errorf("it has departed, and becomes an elector: %+v", v)
	}
}

// What a host was given before it was taken over, and has not accepted, may be somebody else's when it comes back.
func TestGiftToOneThatIsTakenOver(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(4)] = true
	g := w.give(host(1), host(4), "10.0.0.64/26")
	w.rmpeer(2, 4)
	w.talk()
	w.dead[host(4)] = false
	if l := w.ledger(host(4)); len(l.Takeovers()) != 1 || l.MayAccept(g) || len(l.Waiting()) > 0 {
		t.Errorf("takeovers %v; may accept it: %v; waits for %v", l.Takeovers(), l.MayAccept(g), l.Waiting())
	}
	w.talk()
	w.want("usable", w.usable(w.hosts...), "A[10.0.0.0/26] B[10.0.0.64/26 10.0.0.128/26] C[10.0.0.192/26] D[] ")
}

// Who takes over two hosts takes what the one had and then, knowing that, what the other had.
func TestTwoTakeoversByOne(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	w.dead[host(4)], w.dead[host(5)] = true, true
	w.give(host(4), host(5), "10.0.0.96/27") // which it has not accepted
	for _, h := range []int{4, 5} {
		w.facts = append(w.facts, w.ledger(host(1)).Force(host(h)))
	}
	var taken []netip.Prefix
	for range 6 {
		for _, f := range w.ledger(host(1)).Next(w.env(host(1))) {
			if w.facts = append(w.facts, f); f.Kind == FactAccept {
				if slices.ContainsFunc(taken, f.Grant.Prefix.Overlaps) {
					t.Errorf("takes %v once more, of %s", f.Grant.Prefix, letter(f.Grant.From))
				}
				taken = append(taken, f.Grant.Prefix)
			}
		}
	}
	w.want("usable", w.usable(host(1)), "A[10.0.0.0/25] ")
}

// A host that was taken over, has come back and got something new, and is taken over by force while its first takeover waits: each taker
// gets what was of its time.
func TestTakenOverTwice(t *testing.T) {
	w := threeOwners(t, 5)
	w.give(host(1), host(4), "10.0.0.64/26")
	w.talk()
	w.dead[host(4)], w.dead[host(5)] = true, true
	w.rmpeer(2, 4)
	w.talk() // decided; the fifth is unheard
	w.dead[host(4)] = false
	w.talk()
	w.give(host(1), host(4), "10.0.0.32/27")
	w.talk()
	w.want("it is back", w.usable(host(1), host(2), host(4)), "A[10.0.0.0/27] B[10.0.0.128/26] D[10.0.0.32/27] ")
	w.dead[host(4)] = true
	w.facts = append(w.facts, w.ledger(host(1)).Force(host(4)))
	w.talk()
	w.want("by force", w.usable(host(1), host(2), host(4)), "A[10.0.0.0/26] B[10.0.0.128/26] D[] ")
	w.dead[host(5)] = false
	w.talk()
	w.want("when the fifth knows", w.usable(host(1), host(2), host(4)), "A[10.0.0.0/26] B[10.0.0.64/26 10.0.0.128/26] D[] ")
}
