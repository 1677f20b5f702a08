package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/peer"
)

// mergePool is what FuzzMerge deals with: the logs of authors of all sorts.
type mergePool struct {
	secret  Secret
	scribes []scribe
	passes  map[peer.ID]int // how often all of an author's must come until the order decides nothing
	all     []proven
	raw     int // bytes of all
}

func newMergePool(f *testing.F) *mergePool {
	p := &mergePool{secret: NewSecret(), passes: make(map[peer.ID]int)}
	const (
		first  = 1 << 32
		second = 2 << 32

		exchanges = 3 // no pass does it; hosts that tell each other agree all the same
	)
	add := func(passes int, write func(s scribe) [][]proven) {
		s := newScribe(f, p.secret)
		p.scribes, p.passes[s.id.ID()] = append(p.scribes, s), passes
		for _, ps := range write(s) {
			p.all = append(p.all, ps...)
		}
	}
	names := func(n int) (ds []Draft) {
		for i := range n {
			ds = append(ds, Draft{KindName, fmt.Append(nil, i)})
		}
		return ds
	}
	grant := func(s string) Draft { return Draft{KindGrant, []byte(s)} }
	for range 2 { // forgets g2 in its third epoch; has as many as may wait
		add(1, func(s scribe) (pss [][]proven) {
			for i, grants := range [maxNext][]string{{"g1"}, {"g1", "g2"}, {"g1"}, {"g1", "g2", "g3"}} {
				var ds []Draft
				for _, g := range grants {
					ds = append(ds, grant(g))
				}
				pss = append(pss, s.write(f, uint64(i+1)<<32, 1+len(grants), append(ds, names(2)...)...))
			}
			return pss
		})
	}
	add(1, func(s scribe) [][]proven { // as many beyond a gap as may wait
		return [][]proven{s.write(f, first, 1, names(maxEarly)...)}
	})
	add(2, func(s scribe) [][]proven { // more than may wait
		return [][]proven{s.write(f, first, maxEarly, names(maxEarly+20)...)}
	})
	add(2, func(s scribe) (pss [][]proven) { // more epochs than may wait
		for i := range maxNext + 2 {
			pss = append(pss, s.write(f, uint64(i+1)<<32, 3, names(3)...))
		}
		return pss
	})
	add(1, func(s scribe) [][]proven { // departs
		return [][]proven{s.write(f, first, 2, append(names(3), grant("g1"), Draft{Kind: KindDepart})...)}
	})
	add(2, func(s scribe) [][]proven { // forks, and departs
		return [][]proven{s.write(f, first, 2, append(names(3), Draft{Kind: KindDepart})...), {s.entry(f, first, 3, Draft{KindName, []byte("other")})}}
	})
	add(2, func(s scribe) [][]proven { // forks, in its snapshot and behind it
		return [][]proven{s.write(f, first, 3, names(4)...), {s.entry(f, first, 2, Draft{KindName, []byte("other")}), s.entry(f, first, 4, Draft{KindName, []byte("third")})}}
	})
	add(2, func(s scribe) [][]proven { // has forked, and goes on
		return [][]proven{s.write(f, first, 2, names(3)...), {s.entry(f, first, 3, Draft{KindName, []byte("other")})}, s.write(f, second, 2, names(2)...)}
	})
	add(exchanges, func(s scribe) [][]proven { // has given something away under one number twice, and goes on with one of them
		return [][]proven{s.write(f, first, 2, append(names(1), grant("g1"))...), {s.entry(f, first, 3, grant("g2"))}, s.write(f, second, 3, append(names(1), grant("g1"))...)}
	})
	for _, e := range p.all {
		p.raw += len(e.raw)
	}
	return p
}

// A step of a fuzzed story is the number of an entry of the pool that is merged, or bury.
const bury = -1

// replica is a new one, in which the bound of all logs leaves room for the pool and
// not a byte more.
func (p *mergePool) replica(t *testing.T) *replica {
	t.Helper()
	r := newReplica()
	r.held = maxHeld - p.raw
	for _, s := range p.scribes {
		if err := r.learn(s.id.Public()); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// play takes steps. What is buried stays so: in the pool nobody begins again.
func (p *mergePool) play(t *testing.T, r *replica, steps ...int) {
	t.Helper()
	buried := func() (as []*author) {
		for _, a := range r.authors {
			if a.gone != nil {
				as = append(as, a)
			}
		}
		return as
	}
	before := buried()
	for _, i := range steps {
		if i >= 0 {
			if err := harmless(r.merge(p.all[i], true, &change{})); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for _, a := range r.authors {
			d := a.departure()
			if d == nil {
				d = a.lone
			}
			if d != nil && a.gone == nil {
				r.bury(a, *d, &change{})
			}
		}
		before = buried()
	}
	checkHeld(t, r, maxHeld-p.raw)
	for _, a := range before {
		if a.gone == nil {
			t.Fatalf("%v is back", peer.IDOf(a.key))
		}
	}
}

// harmless leaves out what is the author's fault.
func harmless(err error) error {
	if errors.Is(err, errWithdrawal) || errors.Is(err, errFork) {
		return nil
	}
	return err
}

// after is what a replica has of the authors for which so many passes are enough.
func (p *mergePool) after(r *replica, passes int) (ms []mark) {
	for _, m := range r.digest() {
		if p.passes[m.author] <= passes && r.authors[m.author].counts() {
			ms = append(ms, m)
		}
	}
	return ms
}

// FuzzMerge merges the logs of several hosts in orders and with repetitions that the
// input chooses, and buries the departed at some time: the outcome is the same in each,
// merging all again changes nothing, and two replicas that hold parts of it agree
// after they have told each other what is missing. What is over the bounds, or was
// written twice, may take a second time.
func FuzzMerge(f *testing.F) {
	p := newMergePool(f)
	var once []int
	for i := range p.all {
		once = append(once, i)
	}
	f.Add([]byte{}, uint64(1))
	f.Add([]byte{0, 3, 0, 2, 0, 1, 0, 0, 0, 20, 0, 21, 0, 20}, uint64(2))
	f.Add([]byte{2, 90, 2, 89, 0xff, 0xff, 2, 88}, uint64(3))
	f.Fuzz(func(t *testing.T, first []byte, seed uint64) {
		if len(first) > 2*len(p.all) {
			return
		}
		r := p.replica(t)
		p.play(t, r, slices.Concat(once, once)...)
		want := [...][]mark{1: p.after(r, 1), 2: p.after(r, 2)}

		var in []int
		for ; len(first) >= 2; first = first[2:] {
			if n := int(binary.BigEndian.Uint16(first)); n == 0xffff {
				in = append(in, bury)
			} else {
				in = append(in, n%len(p.all))
			}
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		shuffled := func() []int {
			steps := append(slices.Clone(once), bury, bury, bury)
			rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
			return steps
		}
		rest := shuffled()
		r = p.replica(t)
		p.play(t, r, in...)
		for i, steps := range [][]int{rest, once, once} {
			p.play(t, r, steps...)
			passes := min(i+1, 2)
			if got := p.after(r, passes); !slices.Equal(got, want[passes]) {
				t.Fatalf("two orders, two outcomes when all has come %d times:\n%v\n%v", i+1, got, want[passes])
			}
		}

		a, b := p.replica(t), p.replica(t)
		p.play(t, a, slices.Concat(in, rest[:rng.IntN(len(rest)+1)])...)
		p.play(t, b, shuffled()[:rng.IntN(len(rest)+1)]...)
		// Each time a host may come to know that an epoch lacks something, or the gap is
		// filled behind which it has the next piece.
		for i := 0; i < 3 || i < maxEarly && a.root() != b.root(); i++ {
			if err := errors.Join(harmless(tell(t, p.secret, a, b)), harmless(tell(t, p.secret, b, a))); err != nil {
				t.Fatal(err)
			}
		}
		if a.root() != b.root() {
			t.Fatalf("two replicas that have told each other everything differ:\n%v\n%v", a.digest(), b.digest())
		}
		for _, x := range []*replica{a, b} {
			p.play(t, x, bury)
		}
		if a.root() != b.root() {
			t.Fatal("a burial counts")
		}
	})
}

// tell gives to what it lacks of what from has, as an exchange does. An epoch without
// grants is no error: it may come before the one that has them.
func tell(t fataler, s Secret, from, to *replica) (err error) {
	t.Helper()
	es := slices.Concat(from.missing(to.digest(), peer.ID{})...)
	for _, e := range es {
		if e := to.merge(provenEntry(t, s, e), true, &change{}); e != nil && e != errWithdrawal {
			err = errors.Join(err, e)
		}
	}
	for _, e := range es { // as settleDepartures
		if ep := to.authors[e.Author].find(e.Epoch); ep != nil && string(ep.early[e.Seq].raw) == string(e.raw) {
			to.takeDeparture(e, &change{})
		}
	}
	for id := range to.authors {
		to.settleOlder(id)
	}
	return err
}

// provenEntry is what prove makes of a good entry.
func provenEntry(t fataler, s Secret, e Entry) proven {
	t.Helper()
	p := proven{Entry: e}
	if e.Kind == KindBegin {
		g, err := VerifyBegin(e, s)
		if err != nil {
			t.Fatal(err)
		}
		p.begin = &g
	}
	return p
}
