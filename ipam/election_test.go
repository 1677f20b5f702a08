package ipam

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// council is some hosts that try to decide one instance, each for a value of its own. Votes are never taken back; what a host has seen
// of another's is any of them, or none. So a vote that is lost, late, repeated or overtaken is one that is not, or later, looked at.
type councilWorld struct {
	electors []Owner
	cast     [][]Vote // by host, on its disk
	seen     [][]int  // seen[i][j]: of host j's votes, the number of the latest that i has seen
	ballots  int      // that may still be begun
}

func (w *councilWorld) clone() *councilWorld {
	c := &councilWorld{electors: w.electors, ballots: w.ballots, cast: slices.Clone(w.cast)}
	for i := range w.cast {
		c.cast[i] = slices.Clip(c.cast[i])
		c.seen = append(c.seen, slices.Clone(w.seen[i]))
	}
	return c
}

func (w *councilWorld) key() string {
	var b []byte
	for i := range w.cast {
		for _, v := range w.cast[i] {
			b = binary.AppendUvarint(b, uint64(v.Promised.Round))
			b = append(b, v.Promised.By[0], byte(v.Accepted.Round), v.Accepted.By[0])
			if v.Value.Op != 0 {
				b = append(b, v.Value.Hosts[0][0])
			}
		}
		b = append(b, 255)
		for _, n := range w.seen[i] {
			b = append(b, byte(n))
		}
	}
	return string(append(b, byte(w.ballots)))
}

func (w *councilWorld) view(i int) *election {
	e := &election{instance: 1, electors: w.electors, latest: map[Owner]Vote{}, all: map[Owner][]Vote{}}
	for j, n := range w.seen[i] {
		if j == i {
			n = len(w.cast[i])
		}
		if n > 0 {
			e.latest[w.electors[j]] = w.cast[j][n-1]
			e.all[w.electors[j]] = w.cast[j][n-1 : n]
		}
	}
	return e
}

func anything(Value) bool { return true }
func nobody(Owner) bool   { return false }

// step lets a host act; a picky one agrees to no value but its own.
func (w *councilWorld) step(i int, start, picky bool) {
	wish := Value{Op: OpSeed, Hosts: []Owner{w.electors[i]}}
	for range 4 { // until it has nothing to say
		v, ok := w.view(i).step(w.electors[i], wish, start, opinion{func(_ Owner, v Value) bool { return !picky || v.equal(wish) }, anything, nobody})
		if !ok {
			return
		}
		if n := len(w.cast[i]); n > 0 && !v.after(w.cast[i][n-1]) {
			panic("a vote was taken back")
		}
		w.cast[i] = append(w.cast[i], v)
		start = false
	}
}

// decided are the values that were ever decided, whoever knows it.
func (w *councilWorld) decided() []Value {
	e := &election{electors: w.electors, all: map[Owner][]Vote{}}
	at := map[Ballot]map[int]Value{}
	for i := range w.cast {
		e.all[w.electors[i]] = w.cast[i]
		for _, v := range w.cast[i] {
			if v.Accepted != (Ballot{}) {
				if at[v.Accepted] == nil {
					at[v.Accepted] = map[int]Value{}
				}
				at[v.Accepted][i] = v.Value
			}
		}
	}
	var out []Value
	for _, by := range at {
		if len(by) < e.quorum() {
			continue
		}
		for _, v := range by {
			if !slices.ContainsFunc(out, v.equal) {
				out = append(out, v)
			}
		}
	}
	return out
}

// Every schedule of three hosts that begin a few ballots between them. A host that acts has seen, of each other's votes, any one or
// none, whatever it had seen before: so votes are lost, late, repeated and overtaken in every way, and a host may crash at any moment
// and come back with its disk and nothing else. Any may refuse others' values, at any time. At most one value is decided.
func TestElectionExhaustively(t *testing.T) {
	accepted := func(vs []Vote) bool { return len(vs) > 0 && vs[len(vs)-1].Accepted != Ballot{} }
	first := &councilWorld{ballots: ballots}
	for i := range 3 {
		first.electors = append(first.electors, host(i+1))
		first.cast = append(first.cast, nil)
		first.seen = append(first.seen, make([]int, 3))
	}
	known := map[string]bool{first.key(): true}
	todo := []*councilWorld{first}
	decided := map[string]int{}
	for len(todo) > 0 {
		now := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		ds := now.decided()
		if len(ds) > 1 {
			t.Fatalf("two values were decided: %v\n%+v", ds, now)
		}
		for _, d := range ds {
			decided[letter(d.Hosts[0])]++
		}
		act := func(i int, start, picky bool, seen ...int) {
			w := now.clone()
			w.seen[i] = seen
			if start {
				w.ballots--
			}
			w.step(i, start, picky)
			w.seen[i] = make([]int, 3)
			if k := w.key(); !known[k] {
				known[k] = true
				todo = append(todo, w)
			}
		}
		for i := range 3 {
			a, b := (i+1)%3, (i+2)%3
			for na := 0; na <= len(now.cast[a]); na++ {
				for nb := 0; nb <= len(now.cast[b]); nb++ {
					seen := make([]int, 3)
					seen[a], seen[b] = na, nb
					for _, picky := range []bool{false, true} {
						if picky && !accepted(now.cast[a][:na]) && !accepted(now.cast[b][:nb]) {
							continue // there is nothing to refuse
						}
						act(i, false, picky, slices.Clone(seen)...)
						if now.ballots > 0 {
							act(i, true, picky, slices.Clone(seen)...)
						}
					}
				}
			}
		}
	}
	if len(decided) != 3 {
		t.Errorf("not every host's value can win: %v", decided)
	}
	t.Logf("%d states; decided in %v", len(known), decided)
}

// More hosts, more ballots, random schedules; and once the network is good, somebody gets a decision.
func TestElectionAtRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "hosts")
		w := &councilWorld{}
		for i := range n {
			w.electors = append(w.electors, host(i+1))
			w.cast = append(w.cast, nil)
			w.seen = append(w.seen, make([]int, n))
		}
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			i, j := rapid.IntRange(0, n-1).Draw(t, "host"), rapid.IntRange(0, n-1).Draw(t, "other")
			picky := rapid.IntRange(0, 3).Draw(t, "picky") == 0
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				w.step(i, true, picky)
			case 1:
				clear(w.seen[i])
			default:
				if len(w.cast[j]) > 0 {
					w.seen[i][j] = max(w.seen[i][j], rapid.IntRange(1, len(w.cast[j])).Draw(t, "vote"))
					w.step(i, false, picky)
				}
			}
			if ds := w.decided(); len(ds) > 1 {
				t.Fatalf("two values were decided: %v", ds)
			}
		}
		before := w.decided()
		for range 8 {
			for i := range n {
				for j := range n {
					w.seen[i][j] = len(w.cast[j])
				}
				w.step(i, i == 0 && len(w.decided()) == 0, false)
			}
		}
		after := w.decided()
		if len(after) != 1 || len(before) == 1 && !before[0].equal(after[0]) {
			t.Fatalf("decided before %v, at last %v", before, after)
		}
	})
}

func TestVotesOfStrangers(t *testing.T) {
	e := &election{instance: 1, electors: []Owner{host(1), host(2), host(3)}, latest: map[Owner]Vote{}, all: map[Owner][]Vote{}}
	if _, ok := e.step(host(4), Value{Op: OpAdd, Hosts: []Owner{host(4)}}, true, opinion{func(Owner, Value) bool { return true }, anything, nobody}); ok {
		t.Error("who is no elector votes")
	}
	b := Ballot{1, host(1)}
	for i := range 3 {
		e.all[host(4+i)] = []Vote{{Instance: 1, Promised: b, Accepted: b, Value: Value{Op: OpAdd, Hosts: []Owner{host(4)}}}}
	}
	if v, ok := e.decided(); ok {
		t.Errorf("strangers decided %v", v)
	}
	// Three votes of one elector are one.
	e.all[host(1)] = []Vote{e.all[host(4)][0], e.all[host(4)][0], e.all[host(4)][0]}
	if v, ok := e.decided(); ok {
		t.Errorf("one elector decided %v", v)
	}
}

// What nobody agrees to is not promised, and so blocks nothing else.
func TestElectionWithoutAgreement(t *testing.T) {
	w := &councilWorld{electors: []Owner{host(1), host(2), host(3)}, cast: make([][]Vote, 3), seen: [][]int{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}}
	w.step(0, true, false)
	w.seen[1][0] = 1
	if v, ok := w.view(1).step(host(2), Value{}, false, opinion{func(Owner, Value) bool { return false }, anything, nobody}); ok {
		t.Errorf("promised what it does not agree to: %v", v)
	}
	v, ok := w.view(1).step(host(2), Value{Op: OpSeed, Hosts: []Owner{host(2)}}, true, opinion{func(by Owner, _ Value) bool { return by == host(2) }, anything, nobody})
	if !ok || v.Promised != (Ballot{2, host(2)}) {
		t.Fatalf("its own ballot is %+v", v)
	}
	w.cast[1] = append(w.cast[1], v)
	w.seen[0][1] = 1
	w.step(0, false, false)
	w.seen[1][0] = len(w.cast[0])
	w.step(1, false, false)
	if v = w.cast[1][len(w.cast[1])-1]; v.Accepted.By != host(2) || v.Value.Hosts[0] != host(2) {
		t.Errorf("the other's value was not proposed: %v", fmt.Sprint(v))
	}
}
