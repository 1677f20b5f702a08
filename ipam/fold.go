package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// fold applies grants to the address space of a ring.
//
// CIDRs never overlap partly. So the distinct prefixes of all grants, sorted by address and then by length, are the preorder of a
// tree, and each stands for one region: its addresses without those of the prefixes under it. All addresses of a region have seen the
// same grants, so they share one state; and the regions under a prefix are neighbours in that order. A grant then is "step every
// region from i to j", and a segment tree over the regions does that in O(log n) where the regions are in the same state, which they
// are whenever a prefix was handed to and fro as a whole.
//
// A region without addresses, because the prefixes under it cover it, has no leaf: nothing that happens to no address may be told of.
type fold struct {
	regions []netip.Prefix
	ends    []int // regions[i:ends[i]] are regions[i] and all prefixes under it
	leaves  []int // how many of regions[:i] have a leaf: the leaf of regions[i] if it has one; one longer than regions
	nodes   []node
	size    int  // leaves of the tree, a power of two
	stepped bool // the grant that was applied last was a step for some address
}

// state is where an address's chain of grants has got to. The zero state is before the seed.
type state struct {
	version     uint32
	owner, from Owner
}

// node sums up a stretch of regions.
type node struct {
	uniform bool
	state   state  // of all the regions, if uniform
	min     uint32 // version
}

// newFold takes the whole range and the prefixes that will be granted, all within it.
func newFold(whole netip.Prefix, gs []Grant) *fold {
	f := &fold{regions: make([]netip.Prefix, 0, len(gs)+1), size: 1}
	f.regions = append(f.regions, whole)
	for _, g := range gs {
		f.regions = append(f.regions, g.Prefix)
	}
	slices.SortFunc(f.regions, netip.Prefix.Compare)
	f.regions = slices.Compact(f.regions)
	f.ends = make([]int, len(f.regions))
	var open []int
	for i, p := range f.regions {
		for len(open) > 0 && !within(p, f.regions[open[len(open)-1]]) {
			f.ends[open[len(open)-1]] = i
			open = open[:len(open)-1]
		}
		open = append(open, i)
	}
	for _, i := range open {
		f.ends[i] = len(f.regions)
	}
	f.leaves = make([]int, len(f.regions)+1)
	for i := range f.regions {
		f.leaves[i+1] = f.leaves[i]
		if !f.covered(i) {
			f.leaves[i+1]++
		}
	}
	for f.size < f.leaves[len(f.regions)] {
		f.size *= 2
	}
	f.nodes = make([]node, 2*f.size)
	for i := range f.nodes {
		f.nodes[i].uniform = true
	}
	return f
}

// covered says whether the prefixes right under regions[i] leave it no address of its own.
func (f *fold) covered(i int) bool {
	next, end := f.regions[i].Addr(), lastAddr(f.regions[i])
	for c := i + 1; c < f.ends[i] && f.regions[c].Addr() == next; c = f.ends[c] {
		last := lastAddr(f.regions[c])
		if last == end {
			return true
		}
		next = last.Next()
	}
	return false
}

// apply steps the regions of g. Grants must come by version, and those of one version by taker, lowest first: so the first that
// continues a chain is the one that all hosts agree on. It returns the taker who was preferred to g's, if there was one,
// and whether g was a step for any address.
func (f *fold) apply(g Grant) (rival Owner, stepped bool) {
	i, _ := slices.BinarySearchFunc(f.regions, g.Prefix, netip.Prefix.Compare)
	f.stepped = false
	f.step(1, 0, f.size, f.leaves[i], f.leaves[f.ends[i]], g, &rival)
	return rival, f.stepped
}

func (f *fold) step(at, lo, hi, from, to int, g Grant, rival *Owner) {
	n := &f.nodes[at]
	if to <= lo || hi <= from || g.Version < n.min {
		return
	}
	if n.uniform && from <= lo && hi <= to {
		switch s := n.state; {
		case s.version < g.Version && (s.owner == g.From || g.Takeover() && s.version > 0):
			n.set(state{version: g.Version, owner: g.To, from: g.From})
			f.stepped = true
		case s.version == g.Version && s.from == g.From && s.owner != g.To:
			*rival = s.owner
		}
		return
	}
	left, right := &f.nodes[2*at], &f.nodes[2*at+1]
	if n.uniform {
		left.set(n.state)
		right.set(n.state)
	}
	mid := (lo + hi) / 2
	f.step(2*at, lo, mid, from, to, g, rival)
	f.step(2*at+1, mid, hi, from, to, g, rival)
	n.min = min(left.min, right.min)
	n.state, n.uniform = left.state, left.uniform && right.uniform && left.state == right.state
}

func (n *node) set(s state) { *n = node{uniform: true, state: s, min: s.version} }

// states returns the state of each leaf.
func (f *fold) states() []state {
	out := make([]state, f.size)
	var walk func(at, lo, hi int)
	walk = func(at, lo, hi int) {
		if n := f.nodes[at]; n.uniform {
			for i := lo; i < hi; i++ {
				out[i] = n.state
			}
			return
		}
		mid := (lo + hi) / 2
		walk(2*at, lo, mid)
		walk(2*at+1, mid, hi)
	}
	walk(1, 0, f.size)
	return out
}

// each calls emit for the stretches of the range in the order of their addresses, without gap or overlap.
func (f *fold) each(emit func(first, last netip.Addr, s state)) {
	states := f.states()
	var walk func(i int)
	walk = func(i int) {
		next, end := f.regions[i].Addr(), lastAddr(f.regions[i])
		for c := i + 1; c < f.ends[i]; c = f.ends[c] {
			if child := f.regions[c].Addr(); next.Less(child) {
				emit(next, child.Prev(), states[f.leaves[i]])
			}
			walk(c)
			last := lastAddr(f.regions[c])
			if last == end {
				return // Next could leave the address family
			}
			next = last.Next()
		}
		emit(next, end, states[f.leaves[i]])
	}
	walk(0)
}

// byApplication is the order in which apply wants its grants.
func byApplication(a, b Grant) int {
	if a.Version != b.Version {
		return cmp.Compare(a.Version, b.Version)
	}
	return cmp.Or(a.To.Compare(b.To), a.From.Compare(b.From), a.Prefix.Compare(b.Prefix))
}
