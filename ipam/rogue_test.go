package ipam

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
)

// An elector does not get rid of others, who live, by proposing it.
func TestRogueDropsTheLiving(t *testing.T) {
	w := threeOwners(t, 4)
	r := host(3)
	at := w.ledger(host(1)).Instance()
	b := Ballot{1, r}
	v := Value{Op: OpDrop, Hosts: []Owner{host(1), host(2)}}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v, Accepted: b, Value: v}})
	for _, i := range []int{1, 2} {
		w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...)
	}
	l := w.ledger(host(1))
	if len(l.Electors()) != 3 {
		t.Errorf("electors %v", l.Electors())
	}
	for k, h := range []int{1, 2} { // what it decides now is a decision to all
		at, v := at+1+uint32(k), Value{Op: OpTake, Hosts: []Owner{host(h), r}}
		w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v, Accepted: b, Value: v}})
	}
	w.talk()
	if l := w.ledger(host(1)); len(l.Takeovers()) > 0 {
		t.Errorf("takeovers %v\n%s", l.Takeovers(), w.usable(w.hosts...))
	}
}

// Nor by saying that it was accepted before, in a ballot for something else that only one of the others has answered yet: that one waits
// for the other, who is in reach. Nor if that one begins a ballot itself, in a round that the rogue has chosen.
func TestRogueSaysThatItWasAccepted(t *testing.T) {
	for _, outbid := range []bool{false, true} {
		w := threeOwners(t, 4)
		r := host(3)
		l := w.ledger(r)
		at, drop := l.Instance(), Value{Op: OpDrop, Hosts: []Owner{host(1), host(2)}}
		good := Value{Op: OpBase, Hosts: l.Electors(), Digest: l.present().digest}
		say := func(v Vote) {
			v.Instance, v.Value = at, drop
			w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: v})
		}
		next := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
		first, second := Ballot{1, r}, Ballot{100, r}
		say(Vote{Promised: first, Intent: drop, Accepted: first})
		say(Vote{Promised: second, Intent: good, Accepted: first})
		if outbid {
			w.baseAt = 1
		}
		next(1)
		next(1)
		mine := w.ledger(host(1)).open.latest[host(1)].Promised
		if (mine.By == r) == outbid {
			t.Fatalf("A has promised %v", mine)
		}
		if outbid {
			say(Vote{Promised: mine, Accepted: first})
		} else {
			say(Vote{Promised: second, Intent: good, Accepted: second})
		}
		next(1)
		next(1)
		l = w.ledger(host(1))
		if v := l.open.latest[host(1)]; v.Value.Op == OpDrop || len(l.Electors()) != 3 {
			t.Errorf("outbid: %v; electors %v, A says %+v", outbid, l.Electors(), v)
		}
		w.baseAt = 0
		w.talk()
		if es := w.ledger(host(1)).Electors(); len(es) != 3 {
			t.Errorf("outbid: %v; electors %v", outbid, es)
		}
	}
}

// Nor has it hosts added that nobody knows, so that no majority is reached any more.
func TestRogueAddsTheUnknown(t *testing.T) {
	w := threeOwners(t, 4)
	r := host(3)
	b := Ballot{1, r}
	v := Value{Op: OpAdd, Hosts: []Owner{host(91), host(92), host(93), host(94)}}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: w.ledger(host(1)).Instance(), Promised: b, Intent: v, Accepted: b, Value: v}})
	for _, i := range []int{1, 2} {
		w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...)
	}
	if l := w.ledger(host(1)); len(l.Electors()) != 3 {
		t.Errorf("electors %v", l.Electors())
	}
}

// Nor is a dead host's space taken for somebody that nobody knows: it would be nobody's for ever.
func TestRogueTakesForTheUnknown(t *testing.T) {
	w := threeOwners(t, 4)
	w.dead[host(4)] = true
	r := host(3)
	b := Ballot{1, r}
	v := Value{Op: OpTake, Hosts: []Owner{host(4), host(91)}}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: w.ledger(host(1)).Instance(), Promised: b, Intent: v, Accepted: b, Value: v}})
	for _, i := range []int{1, 2} {
		w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...)
	}
	if ts := w.ledger(host(1)).Takeovers(); len(ts) > 0 {
		t.Errorf("takeovers %v", ts)
	}
}

// An elector that has not voted in a decided instance changes nothing by something else at the ballot that decided it.
func TestRogueVotesAgainstADecision(t *testing.T) {
	w := threeOwners(t, 4)
	r := host(3)
	w.give(host(1), host(4), "10.0.0.64/26")
	at := w.ledger(host(1)).Instance()
	w.dead[r] = true // says nothing meanwhile
	w.talk()         // A and B make D an elector
	w.dead[r] = false
	l := w.ledger(host(1))
	s := l.steps[at]
	if s.value.Op != OpAdd || l.Instance() != at+1 {
		t.Fatalf("%+v", s)
	}
	before := show(l.Ring())
	v := Value{Op: OpTake, Hosts: []Owner{host(1), r}}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: s.ballot, Accepted: s.ballot, Value: v}})
	l = w.ledger(host(1))
	if !l.steps[at].value.equal(s.value) || len(l.Takeovers()) > 0 {
		t.Errorf("what was decided, %+v, is %+v; takeovers %v", s.value, l.steps[at].value, l.Takeovers())
	}
	w.talk()
	if got := show(w.ledger(host(2)).Ring()); got != before {
		t.Errorf("the ring is\n%s A may use %v", got, w.ledger(host(1)).Usable())
	}
}

// An elector that proposes a base with the right digest, and itself as the council behind it, does not become that: it would make up
// the next base alone.
func TestRogueNamesItselfInABase(t *testing.T) {
	w := threeOwners(t, 4)
	r := host(3) // the rogue elector
	ring := show(w.ledger(host(1)).Ring())
	l := w.ledger(r)
	at := l.Instance()
	p := l.present()
	v := Value{Op: OpBase, Hosts: []Owner{r}, Digest: p.digest}
	b := Ballot{1, r}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v}})
	say := func(i int) { w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...) }
	say(1)
	say(2)
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v, Accepted: b, Value: v}})
	say(1)
	say(2)
	if w.ledger(host(1)).Instance() != at+1 {
		return // refused: well
	}
	made := &Base{Instance: at + 5, Electors: []Owner{r}, Parts: []Part{{Prefix: w.whole, Owner: r, Version: 9}}}
	wire := made.encode(4)
	d := Digest(sha256.Sum256(wire))
	v = Value{Op: OpBase, Hosts: []Owner{r}, Digest: d}
	w.facts = append(append(w.facts, chunks(r, d, wire)...), Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at + 5, Promised: b, Intent: v, Accepted: b, Value: v}})
	for i := 1; i <= 4; i++ {
		if got := show(w.ledger(host(i)).Ring()); got != ring {
			t.Errorf("%d sees\n%s", i, got)
		}
	}
}

// A base that tells what was so before the one that all rests on is not carried through, though each part was so once.
func TestRogueGoesBackBehindABase(t *testing.T) {
	w := newTable(t, 4, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	w.leaving[host(4)] = true // D does not stand for the council: electors A, B, C
	w.give(host(1), host(2), "10.0.0.128/25")
	w.talk()
	w.give(host(2), host(3), "10.0.0.192/26")
	w.talk()
	// D gets some of C's... C owns .192/26; C gives .192/27 to D, which takes it and becomes an elector.
	w.give(host(3), host(4), "10.0.0.192/27")
	w.talk()
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	l := w.ledger(host(1))
	if l.Base() == nil {
		t.Fatal("no base")
	}
	ring := show(l.Ring())
	// C keeps that it once accepted .192/26; all others, and C for the rest, have shortened their logs.
	keep := func(f Fact) bool {
		return f.By == host(3) && f.Kind == FactAccept || f.By == host(2) && f.Kind == FactGrant
	}
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return l.Obsolete(f) && !l.Needs(f) && !keep(f) })
	l = w.ledger(host(1))
	w.want("shortened", show(l.Ring()), ring)
	at, es := l.Instance(), l.Electors()
	t.Logf("electors %d, instance %d\n%s", len(es), at, ring)
	var parts []Part
	for _, p := range l.Base().Parts {
		if p.Owner == host(4) {
			p.Owner, p.Version = host(3), 3
		}
		parts = append(parts, p)
	}
	b := &Base{Instance: at, Electors: es, Takeovers: l.Base().Takeovers, Parts: parts}
	wire := b.encode(4)
	d := Digest(sha256.Sum256(wire))
	v := Value{Op: OpBase, Hosts: es, Digest: d}
	ba := Ballot{1, host(3)}
	w.facts = append(append(w.facts, chunks(host(3), d, wire)...), Fact{By: host(3), Kind: FactVote, Vote: Vote{Instance: at, Promised: ba, Intent: v, Accepted: ba, Value: v}})
	w.dead[host(2)] = true
	w.take = map[Owner]Value{host(1): {Op: OpTake, Hosts: []Owner{host(2), host(1)}}}
	for range 3 * asks {
		for _, i := range []int{1, 4} {
			w.facts = append(w.facts, w.ledger(host(i)).Next(w.env(host(i)))...)
		}
		// C promises whatever
		lc := w.ledger(host(3))
		w.facts = append(w.facts, lc.Next(w.env(host(3)))...)
	}
	for _, i := range []int{1, 3, 4} {
		l := w.ledger(host(i))
		t.Logf("%d: instance %d, usable %v", i, l.Instance(), l.Usable())
	}
	if got := w.ledger(host(4)).Usable(); len(got) == 0 {
		t.Errorf("D has lost what it had; the ring is\n%s", show(w.ledger(host(4)).Ring()))
	}
}

// Nor is one that gives addresses that were given twice to the other one.
func TestRogueChoosesTheOtherTaker(t *testing.T) {
	w := threeOwners(t, 5)
	g := w.give(host(3), host(4), "10.0.0.192/27")
	w.talk()
	g.To = host(5)
	w.facts = append(w.facts, Fact{By: host(3), Kind: FactGrant, Grant: g}, Fact{By: host(5), Kind: FactAccept, Grant: g})
	w.baseAt = 1
	w.talk()
	w.baseAt = 0
	l := w.ledger(host(1))
	for _, taker := range []Owner{host(4), host(5)} {
		b := &Base{Instance: l.Instance(), Electors: l.Electors(), Takeovers: l.Base().Takeovers, Parts: slices.Clone(l.Base().Parts)}
		for i, p := range b.Parts {
			if p.Owner == host(4) {
				b.Parts[i].Owner = taker
			}
		}
		wire := b.encode(4)
		d := Digest(sha256.Sum256(wire))
		w.facts = append(w.facts, chunks(host(3), d, wire)...)
		if got := w.ledger(host(1)).truthful(Value{Op: OpBase, Hosts: b.Electors, Digest: d}); got != (taker == host(4)) {
			t.Errorf("%s has it: %v", letter(taker), got)
		}
	}
}

// A vote of the highest round that there is leaves the others their ballots.
func TestRogueVotesInTheLastRound(t *testing.T) {
	w := threeOwners(t, 4)
	r := host(3)
	at := w.ledger(host(1)).Instance()
	b := Ballot{1<<32 - 1, r}
	v := Value{Op: OpAdd, Hosts: []Owner{r}}
	w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v}})
	w.hosts = w.hosts[:2:2]
	w.hosts = append(w.hosts, host(4))
	w.give(host(1), host(4), "10.0.0.64/26")
	for range 50 {
		for _, i := range []int{1, 2, 4} {
			for _, g := range w.ledger(host(i)).Waiting() {
				w.facts = append(w.facts, Fact{By: host(i), Kind: FactAccept, Grant: g})
			}
			for _, f := range w.ledger(host(i)).Next(w.env(host(i))) {
				if _, err := f.AppendBinary(nil); err != nil {
					t.Errorf("can not be said: %v", err)
					return
				}
				w.facts = append(w.facts, f)
			}
		}
	}
	if l := w.ledger(host(1)); l.Instance() == at {
		t.Errorf("A and B, two of three, decide nothing more: instance %d, electors %v", at, l.Electors())
	}
}

// However many bases a member has voted for, each counts once, and is vouched for by who is of the council only.
func TestRogueVotesOften(t *testing.T) {
	const often = 4000
	r := host(3)
	votes := map[uint32]map[Owner][]Vote{40: {}}
	for i := range uint32(often) {
		b := Ballot{i + 1, r}
		v := Vote{Instance: 40, Promised: b, Accepted: b, Value: Value{Op: OpBase, Hosts: []Owner{r}, Digest: Digest{byte(i), byte(i >> 8)}}}
		votes[40][r] = append(votes[40][r], v, v)
	}
	for what, c := range map[string]struct {
		council []Owner
		vouched int
	}{"no elector": {[]Owner{host(1), host(2)}, 0}, "an elector": {[]Owner{host(1), host(2), r}, 0}, "the only one": {[]Owner{r}, often}} {
		all := leaps(votes)
		vouchFor(all, c.council)
		vouched := 0
		for _, l := range all {
			if l.vouched {
				vouched++
			}
		}
		if len(all) != often || vouched != c.vouched {
			t.Errorf("%s: %d bases, %d vouched for", what, len(all), vouched)
		}
	}
}

// Electors' votes count up to a jump ahead of those that count, in whatever order they come, and a host's own always.
func TestVotesOfFarRounds(t *testing.T) {
	at := func(rounds ...uint32) (vs []Vote) {
		for _, r := range rounds {
			vs = append(vs, Vote{Promised: Ballot{r, host(1)}})
		}
		return vs
	}
	a, b, c, stranger := host(1), host(2), host(3), host(4)
	for _, x := range []struct {
		votes map[Owner][]Vote
		self  Owner
		want  []int
	}{
		{map[Owner][]Vote{a: at(1, 2), b: at(3)}, c, []int{2, 1, 0}},
		{map[Owner][]Vote{a: at(1), b: at(1 << 31)}, c, []int{1, 0, 0}},
		{map[Owner][]Vote{a: at(1), b: at(1 << 31)}, b, []int{1, 1, 0}},
		{map[Owner][]Vote{a: at(3*maxJump, maxJump), b: at(2 * maxJump)}, c, []int{2, 1, 0}},
		{map[Owner][]Vote{a: at(3*maxJump+1, maxJump), b: at(2 * maxJump)}, c, []int{1, 1, 0}},
		{map[Owner][]Vote{a: at(3*maxJump, 1), c: at(2 * maxJump)}, c, []int{2, 0, 1}},
		{map[Owner][]Vote{a: at(1), b: at(2 * maxJump), stranger: at(maxJump)}, c, []int{1, 0, 0}},
	} {
		e := newElection(1, []Owner{a, b, c}, x.votes, x.self)
		if n := []int{len(e.all[a]), len(e.all[b]), len(e.all[c])}; !slices.Equal(n, x.want) || len(e.all[stranger]) > 0 {
			t.Errorf("%v: %v count, want %v", x.votes, n, x.want)
		}
	}
}

// An elector that says two things at its own ballot, and finds others that accept the one and the other, can choose which was decided,
// but not for whom: all that have heard the same see the same.
func TestRogueSaysTwoThings(t *testing.T) {
	w := threeOwners(t, 5)
	r := host(3)
	at, b := w.ledger(host(1)).Instance(), Ballot{1, r}
	for i, h := range []Owner{host(4), host(5)} {
		v := Value{Op: OpAdd, Hosts: []Owner{h}}
		w.facts = append(w.facts, Fact{By: r, Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v, Accepted: b, Value: v}},
			Fact{By: host(i + 1), Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Accepted: b, Value: v}})
	}
	seen := func() string {
		l := w.ledger(host(1))
		return fmt.Sprint(l.Instance(), l.Electors())
	}
	want := seen()
	slices.SortStableFunc(w.facts, func(a, b Fact) int { return b.By.Compare(a.By) }) // each log is in order
	w.want("the other way round", seen(), want)
	if l := w.ledger(host(1)); slices.Contains(l.Electors(), host(5)) {
		t.Error("what it has said at last counts")
	}
}
