package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// table is some hosts that hear each other's facts at once, unless a test holds some back.
type table struct {
	t     *testing.T
	whole netip.Prefix
	facts []Fact
	dead  map[Owner]bool
	gone  map[Owner]bool
	hosts []Owner
	take  map[Owner]Value
	named []Owner

	wanted  bool
	baseAt  int
	leaving map[Owner]bool
}

func newTable(t *testing.T, n int, first Fact) *table {
	w := &table{t: t, whole: pfx("10.0.0.0/24"), dead: map[Owner]bool{}, gone: map[Owner]bool{}, take: map[Owner]Value{}, leaving: map[Owner]bool{}}
	for i := range n {
		w.hosts = append(w.hosts, host(i+1))
	}
	first.By = host(1)
	w.facts = []Fact{first}
	return w
}

func (w *table) ledger(self Owner) *Ledger { return NewLedger(self, host(1), w.whole, w.facts) }

func (w *table) env(self Owner) Env {
	e := Env{Alive: func(o Owner) bool { return !w.dead[o] }, Dead: func(o Owner) bool { return w.dead[o] || w.gone[o] }, Gone: func(o Owner) bool { return w.gone[o] },
		Start: true, Take: w.take[self], Seeds: w.named, Wanted: w.wanted, BaseAt: w.baseAt, Leaving: w.leaving[self]}
	for _, h := range w.hosts {
		if !w.gone[h] {
			e.Hosts = append(e.Hosts, h)
		}
	}
	return e
}

// talk lets the living say what they have to, until all are silent.
func (w *table) talk() {
	for range 50 {
		n := len(w.facts)
		for _, h := range w.hosts {
			if w.dead[h] || w.gone[h] {
				continue
			}
			l := w.ledger(h)
			for _, g := range l.Waiting() {
				w.facts = append(w.facts, Fact{By: h, Kind: FactAccept, Grant: g})
			}
			w.facts = append(w.facts, l.Next(w.env(h))...)
			if t := w.take[h]; t.Op != 0 && len(w.ledger(h).Takeovers()) > 0 {
				delete(w.take, h)
			}
		}
		if len(w.facts) == n {
			return
		}
	}
	w.t.Fatal("they talk without end")
}

func (w *table) give(from, to Owner, p string) Grant {
	l := w.ledger(from)
	g := l.lift([]Grant{{Prefix: pfx(p), From: from, To: to, Version: after(l.own().version(pfx(p)))}})[0]
	w.facts = append(w.facts, Fact{By: from, Kind: FactGrant, Grant: g})
	return g
}

// usable is what each host may use, by letter.
func (w *table) usable(hosts ...Owner) string {
	s := ""
	for _, h := range hosts {
		s += fmt.Sprintf("%s%v ", letter(h), w.ledger(h).Usable())
	}
	return s
}

func (w *table) want(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func TestSeedGrants(t *testing.T) {
	three := []Owner{host(1), host(2), host(3)}
	for _, tc := range []struct {
		whole string
		hosts []Owner
		want  string
	}{
		{"10.32.0.0/12", three, "A 0.375 B 0.3125 C 0.3125 "},
		{"fd00::/48", three, "A 0.375 B 0.3125 C 0.3125 "},
		{"10.0.0.0/30", three, "A 0.5 B 0.25 C 0.25 "},
		{"10.0.0.0/31", three, "A 0.5 B 0.5 "},
		{"10.32.0.0/12", three[:1], "A 1 "},
	} {
		r, conflicts := NewRing(pfx(tc.whole), seedGrants(pfx(tc.whole), tc.hosts))
		got := ""
		for _, s := range r.Shares() {
			got += fmt.Sprintf("%s %v ", letter(s.Owner), s.Fraction)
		}
		if got != tc.want || len(conflicts) > 0 {
			t.Errorf("%s: %s, want %s; %v", tc.whole, got, tc.want, conflicts)
		}
	}
	var many []Owner
	for i := range MaxElectors {
		many = append(many, host(i+1))
	}
	r, _ := NewRing(pfx("10.32.0.0/12"), seedGrants(pfx("10.32.0.0/12"), many))
	for _, s := range r.Shares() {
		if s.Fraction != 1./MaxElectors {
			t.Errorf("%d hosts share unequally: %v", MaxElectors, s)
		}
	}
}

func TestRingBeginsByConsensus(t *testing.T) {
	w := newTable(t, 5, Fact{Kind: FactInit, First: 3})
	w.dead[host(2)], w.dead[host(3)], w.dead[host(4)], w.dead[host(5)] = true, true, true, true
	w.talk()
	if l := w.ledger(host(1)); l.Ring().Seeded() || len(l.Electors()) != 1 {
		t.Errorf("a founder alone has begun: %v", l.Electors())
	}
	w.dead[host(2)] = false
	w.talk()
	if l := w.ledger(host(1)); l.Ring().Seeded() || len(l.Electors()) != 1 {
		t.Errorf("with two of three, and nobody in want, it has begun: %v", l.Electors())
	}
	w.dead[host(3)], w.dead[host(4)] = false, false
	w.talk()
	l := w.ledger(host(4))
	if !slices.Equal(l.Seeds(), []Owner{host(1), host(2), host(3)}) {
		t.Errorf("seeds are %v", l.Seeds())
	}
	// The fourth, once it owns something, may decide, too. The founder's own seed counts for nothing.
	w.facts = append(w.facts, Fact{By: host(1), Kind: FactGrant, Grant: Seed(w.whole, host(1))})
	w.give(host(1), host(4), "10.0.0.64/28")
	w.talk()
	if l := w.ledger(host(2)); len(l.Electors()) != 4 || letter(l.Ring().Owner(netip.MustParseAddr("10.0.0.70"))) != "D" || len(l.Conflicts()) > 0 {
		t.Errorf("electors %v\n%s%v", l.Electors(), show(l.Ring()), l.Conflicts())
	}
}

// The founder may die once those that begin are electors: a majority of them goes on. Before that, its place is another's by force.
func TestFounderDies(t *testing.T) {
	w := newTable(t, 3, Fact{Kind: FactInit, First: 3})
	w.dead[host(3)], w.wanted = true, true
	for len(w.ledger(host(2)).Electors()) < 2 {
		for _, h := range w.hosts[:2] {
			w.facts = append(w.facts, w.ledger(h).Next(w.env(h))...)
		}
	}
	if w.ledger(host(2)).Ring().Seeded() {
		t.Fatal("it has begun")
	}
	before := slices.Clone(w.facts)
	w.talk()
	w.want("two of three, and somebody waits", w.usable(host(1), host(2)), "A[10.0.0.0/25] B[10.0.0.128/25] ")

	w.facts = before
	w.dead[host(1)], w.dead[host(3)] = true, false
	w.talk()
	if w.ledger(host(2)).Ring().Seeded() {
		t.Fatal("one of two electors has begun")
	}
	w.facts = append(w.facts, w.ledger(host(2)).Force(host(1)))
	w.talk()
	w.want("the founder's place taken by force", w.usable(host(2), host(3)), "B[10.0.0.0/25] C[10.0.0.128/25] ")
	w.dead[host(1)] = false
	w.talk()
	w.want("the founder is back", w.usable(w.hosts...), "A[] B[10.0.0.0/25] C[10.0.0.128/25] ")

	w = newTable(t, 3, Fact{Kind: FactInit, First: 3}) // all three are electors
	w.talk()
	w.facts = slices.DeleteFunc(w.facts, func(f Fact) bool { return f.Kind == FactVote && f.Vote.Instance > 1 })
	if len(w.ledger(host(2)).Electors()) != 3 || w.ledger(host(2)).Ring().Seeded() {
		t.Fatal("not all are electors at once")
	}
	w.dead[host(1)], w.wanted = true, true
	w.talk()
	w.want("the founder died as an elector of three", w.usable(host(2), host(3)), "B[10.0.0.0/25] C[10.0.0.128/25] ")
}

func TestRingBeginsWithTheNamed(t *testing.T) {
	w := newTable(t, 3, Fact{Kind: FactInit, First: 2, Named: true})
	w.talk()
	if w.ledger(host(1)).Ring().Seeded() {
		t.Error("it has begun before the named were known")
	}
	w.named = []Owner{host(2), host(3)}
	w.talk()
	w.want("usable", w.usable(w.hosts...), "A[] B[10.0.0.0/25] C[10.0.0.128/25] ")
}

// Who is about to leave has itself dropped, and is not added again while it hands over what it has.
func TestLeavingElectors(t *testing.T) {
	for n := 2; n <= 3; n++ {
		w := newTable(t, n, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
		for i := 2; i <= n; i++ {
			w.give(host(1), host(i), fmt.Sprintf("10.0.0.%d/27", 256-32*(i-1)))
		}
		w.talk()
		last := host(n)
		w.leaving[last] = true
		w.talk()
		if es := w.ledger(host(1)).Electors(); len(es) != n-1 || slices.Contains(es, last) {
			t.Errorf("%d hosts: electors while one leaves: %v", n, es)
		}
		// It does not leave after all.
		stays := slices.Clone(w.facts)
		w.leaving[last] = false
		w.talk()
		if es := w.ledger(host(1)).Electors(); len(es) != n {
			t.Errorf("%d hosts: electors when it stays: %v", n, es)
		}
		// It leaves, and the others can decide.
		w.facts = stays
		w.gone[last] = true
		w.hosts = append(w.hosts, host(n+1))
		w.give(host(1), host(n+1), "10.0.0.16/28")
		w.talk()
		if es := w.ledger(host(1)).Electors(); len(es) != n || slices.Contains(es, last) {
			t.Errorf("%d hosts: electors when it has left: %v", n, es)
		}
	}
}

// Who is an elector without ever having stood for it, by force, may go all the same.
func TestLeavingElectorThatNeverStood(t *testing.T) {
	w := newTable(t, 3, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	w.dead[host(1)] = true
	w.facts = append(w.facts, w.ledger(host(3)).Force(host(1)))
	w.leaving[host(3)] = true // so it says no more of standing than an observer
	w.facts = append(w.facts, w.ledger(host(3)).Next(w.env(host(3)))...)
	if l := w.ledger(host(3)); !slices.Equal(l.Electors(), []Owner{host(3)}) || l.standing[host(3)] > 0 {
		t.Fatalf("electors %v, standing %v", l.Electors(), l.standing)
	}
	w.facts = append(w.facts, Fact{By: host(2), Kind: FactStand, Count: 1})
	w.leaving[host(3)] = false
	at, b, v := w.ledger(host(3)).Instance(), Ballot{1, host(3)}, Value{Op: OpAdd, Hosts: []Owner{host(2)}}
	w.facts = append(w.facts, Fact{By: host(3), Kind: FactVote, Vote: Vote{Instance: at, Promised: b, Intent: v, Accepted: b, Value: v}})
	w.leaving[host(3)] = true
	w.talk()
	if es := w.ledger(host(2)).Electors(); !slices.Equal(es, []Owner{host(2)}) {
		t.Errorf("electors %v", es)
	}
}

func TestDepartedElectors(t *testing.T) {
	w := threeOwners(t, 3)
	w.gone[host(2)] = true
	w.talk()
	if e := w.ledger(host(1)).Electors(); !slices.Equal(e, []Owner{host(1), host(3)}) {
		t.Errorf("electors are %v", e)
	}
}

func TestFactsOnTheWire(t *testing.T) {
	a, b := host(1), host(2)
	g := Grant{Prefix: pfx("10.0.0.0/25"), From: a, To: b, Version: 2}
	take := Value{Op: OpTake, Hosts: []Owner{a, b}}
	for _, f := range []Fact{
		{By: a, Kind: FactGrant, Grant: g}, {By: b, Kind: FactAccept, Grant: g},
		{By: b, Kind: FactAccept, Grant: Grant{Prefix: pfx("fd00::/64"), From: a, To: b, Version: takeoverStep}},
		{By: a, Kind: FactInit, First: 3, Named: true}, {By: a, Kind: FactStand, Count: 1}, {By: a, Kind: FactSeen, Count: 7}, {By: a, Kind: FactSeen, Count: 8, Host: b}, {By: a, Kind: FactTook, Count: 1},
		{By: b, Kind: FactVote, Vote: Vote{Instance: 4, Promised: Ballot{3, b}, Intent: take, Accepted: Ballot{2, a}, Value: Value{Op: OpAdd, Hosts: []Owner{b}}}},
		{By: b, Kind: FactVote, Vote: Vote{Instance: 4, Promised: Ballot{3, a}}},
		{By: b, Kind: FactForce, Vote: Vote{Instance: 9, Value: take}},
	} {
		wire, err := f.AppendBinary(nil)
		if err != nil {
			t.Errorf("%+v: %v", f, err)
			continue
		}
		got, err := ParseFact(f.By, wire)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(f) {
			t.Errorf("%+v came back as %+v, %v", f, got, err)
		}
		for i := range wire {
			if _, err := ParseFact(f.By, wire[:i]); err == nil {
				t.Errorf("kind %d cut to %d bytes was taken", f.Kind, i)
			}
		}
	}
	for what, f := range map[string]Fact{
		"a grant of another's":              {By: b, Kind: FactGrant, Grant: g},
		"an accept of another's":            {By: a, Kind: FactAccept, Grant: g},
		"a takeover's version in a grant":   {By: a, Kind: FactGrant, Grant: Grant{Prefix: g.Prefix, From: a, To: b, Version: takeoverStep}},
		"a forced takeover for another":     {By: a, Kind: FactForce, Vote: Vote{Instance: 1, Value: take}},
		"a vote that goes back":             {By: b, Kind: FactVote, Vote: Vote{Instance: 1, Promised: Ballot{1, a}, Accepted: Ballot{2, a}, Value: take}},
		"an acceptance of nothing":          {By: b, Kind: FactVote, Vote: Vote{Instance: 1, Promised: Ballot{1, a}, Accepted: Ballot{1, a}}},
		"an intent in another's ballot":     {By: b, Kind: FactVote, Vote: Vote{Instance: 1, Promised: Ballot{1, a}, Intent: take}},
		"a value with a host twice":         {By: b, Kind: FactVote, Vote: Vote{Instance: 1, Promised: Ballot{1, b}, Intent: Value{Op: OpAdd, Hosts: []Owner{a, a}}}},
		"a beginning with too many":         {By: a, Kind: FactInit, First: MaxElectors + 1},
		"a decided takeover seen of a host": {By: a, Kind: FactSeen, Count: 7, Host: b},
		"a forced takeover seen of nobody":  {By: a, Kind: FactSeen, Count: 8},
		"a kind that nobody knows (writes)": {By: a, Kind: 99},
	} {
		if _, err := f.AppendBinary(nil); err == nil {
			t.Errorf("%s was encoded", what)
		}
	}
}

// A decision that a forged or doubled vote would bring about does not come about; see also TestVotesOfStrangers.
func TestOnlyTheFounderSaysHowItBegins(t *testing.T) {
	w := newTable(t, 2, Fact{Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), host(1))})
	w.facts = append(w.facts, Fact{By: host(2), Kind: FactInit, First: 2}, Fact{By: host(2), Kind: FactGrant, Grant: Seed(w.whole, host(2))})
	l := w.ledger(host(2))
	if first, _ := l.Beginning(); first != 0 || letter(l.Ring().Owner(netip.MustParseAddr("10.0.0.1"))) != "A" || len(l.Conflicts()) > 0 {
		t.Errorf("another than the founder has begun the ring: %s%v", show(l.Ring()), l.Conflicts())
	}
	// A takeover that nobody has decided brings nothing.
	w.facts = append(w.facts, Fact{By: host(2), Kind: FactAccept, Grant: Grant{Prefix: w.whole, From: host(1), To: host(2), Version: takeoverStep}})
	w.want("a takeover without a decision", w.usable(host(1), host(2)), "A[10.0.0.0/24] B[] ")
}

func FuzzParseFact(f *testing.F) {
	for _, x := range []Fact{
		{By: host(1), Kind: FactVote, Vote: Vote{Instance: 4, Promised: Ballot{3, host(1)}, Intent: Value{Op: OpAdd, Hosts: []Owner{host(2)}}}},
		{By: host(1), Kind: FactGrant, Grant: Grant{Prefix: pfx("10.0.0.0/25"), From: host(1), To: host(2), Version: 2}},
		{By: host(1), Kind: FactInit, First: 3},
	} {
		b, err := x.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseFact(host(1), b)
		if err != nil {
			return
		}
		again, err := x.AppendBinary(nil)
		if err != nil || string(again) != string(b) {
			t.Errorf("%x is %x when it is written again: %v", b, again, err)
		}
		NewLedger(host(2), host(1), pfx("10.0.0.0/24"), []Fact{x, x})
	})
}

// What was given counts for the taker when it has said that it takes it.
func TestGrantsAreUsedWhenAccepted(t *testing.T) {
	w := threeOwners(t, 4)
	g := w.give(host(1), host(4), "10.0.0.64/26")
	w.want("before", w.usable(host(1), host(4)), "A[10.0.0.0/26] D[] ")
	if got := w.ledger(host(4)).Waiting(); !slices.Equal(got, []Grant{g}) {
		t.Errorf("waiting: %v", got)
	}
	w.talk()
	w.want("after", w.usable(host(1), host(4)), "A[10.0.0.0/26] D[10.0.0.64/26] ")
}

// The ledger rests on who owns, on who has given that to them, on who decides and has decided. Others may grant what they do not own.
func TestHostsOfTheLedger(t *testing.T) {
	w := threeOwners(t, 6)
	liar := Fact{Kind: FactGrant, By: host(5), Grant: Grant{Prefix: pfx("10.0.0.0/28"), From: host(5), To: host(6), Version: 9}}
	hosts := func() (s string) {
		l := NewLedger(host(1), host(1), pfx("10.0.0.0/24"), append(slices.Clone(w.facts), liar))
		for _, h := range l.Hosts() {
			s += letter(h)
		}
		return s
	}
	w.want("after the beginning", hosts(), "ABC")
	w.give(host(3), host(4), "10.0.0.192/26") // all that it has
	w.want("an owner that has given all away", hosts(), "ABCD")
	w.talk()
	w.want("when it has been taken", hosts(), "ABCD")
	w.dead[host(2)] = true
	w.rmpeer(1, 2)
	w.talk()
	if w.ledger(host(1)).Ring().Owned(host(2)) != nil {
		t.Fatal("it was not taken over")
	}
	w.want("one that was taken over", hosts(), "ABCD")
}
