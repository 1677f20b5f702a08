package ipam

import (
	"slices"
	"testing"
)

// An elector does not have decided what would hand a mesh to hosts that nobody knows.
func TestElectorsAgreeToHostsTheyKnow(t *testing.T) {
	a, b, c, d := host(1), host(2), host(3), host(4)
	facts := []Fact{{By: a, Kind: FactInit, First: 3}, {By: b, Kind: FactStand, Count: 1}}
	l := NewLedger(a, a, pfx("10.0.0.0/24"), facts)
	e := Env{Hosts: []Owner{a, b, c}, Alive: func(Owner) bool { return true }, Gone: func(o Owner) bool { return o == c }, Dead: func(o Owner) bool { return o == c }}
	if !l.agree(e, a, Value{Op: OpAdd, Hosts: []Owner{b}}) {
		t.Error("not to one that stands")
	}
	for what, v := range map[string]Value{
		"one that does not stand":     {Op: OpAdd, Hosts: []Owner{b, d}},
		"one that has departed":       {Op: OpAdd, Hosts: []Owner{c}},
		"a seed by too few":           {Op: OpSeed, Hosts: []Owner{a}},
		"a seed by who is no elector": {Op: OpSeed, Hosts: []Owner{a, b}},
	} {
		if l.agree(e, b, v) {
			t.Errorf("to %s", what)
		}
	}
	begun := NewLedger(a, a, pfx("10.0.0.0/24"), []Fact{{By: a, Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), a)}})
	e.Gone = func(Owner) bool { return false }
	if !begun.agree(e, b, Value{Op: OpTake, Hosts: []Owner{c, b}}) {
		t.Error("not to a takeover from a dead host")
	}
	if begun.agree(e, b, Value{Op: OpTake, Hosts: []Owner{c, d}}) {
		t.Error("to a takeover by a host that is not known")
	}
}

// Space with the highest version could never be given or taken over again.
func TestVersionsHaveABound(t *testing.T) {
	a, b := host(1), host(2)
	seed, half := Fact{By: a, Kind: FactGrant, Grant: Seed(pfx("10.0.0.0/24"), a)}, pfx("10.0.0.128/25")
	for _, tc := range []struct {
		version uint32
		counts  bool
	}{{2, true}, {takeoverStep + 1, true}, {6*takeoverStep - 1, true}, {6*takeoverStep + 1, false}, {1<<32 - 1, false}} {
		g := Grant{Prefix: half, From: a, To: b, Version: tc.version}
		facts := []Fact{seed, {By: a, Kind: FactGrant, Grant: g}}
		l := NewLedger(b, a, pfx("10.0.0.0/24"), facts)
		if got := l.MayAccept(g) && len(l.Waiting()) == 1; got != tc.counts {
			t.Errorf("version %d may be accepted: %v", tc.version, got)
		}
		l = NewLedger(b, a, pfx("10.0.0.0/24"), append(facts, Fact{By: b, Kind: FactAccept, Grant: g}))
		if got := l.Ring().Owner(half.Addr()) == b; got != tc.counts {
			t.Errorf("version %d is in the ring: %v", tc.version, got)
		}
		for _, g := range l.HandOver(a) {
			if _, err := g.AppendBinary(nil); err != nil {
				t.Errorf("handed over: %v", err)
			}
		}
	}
}

// A host that is launched anew as observer takes part in no decision any more ("weft help launch").
func TestObserverThatStood(t *testing.T) {
	a, b := host(1), host(2)
	whole := pfx("10.0.0.0/24")
	g := Grant{Prefix: pfx("10.0.0.128/25"), From: a, To: b, Version: 2}
	l := NewLedger(b, a, whole, []Fact{{By: a, Kind: FactGrant, Grant: Seed(whole, a)}, {By: a, Kind: FactGrant, Grant: g}, {By: b, Kind: FactAccept, Grant: g}, {By: b, Kind: FactStand, Count: 1}})
	e := Env{Hosts: []Owner{a, b}, Alive: func(Owner) bool { return true }, Dead: nobody, Gone: nobody, Observer: true}
	if fs := l.Next(e); !slices.ContainsFunc(fs, func(f Fact) bool { return f.Kind == FactStand && f.Count == 2 }) {
		t.Errorf("it goes on standing for the council: %v", fs)
	}
}
