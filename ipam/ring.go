package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// Ring says who owns which part of a range. It is immutable; a nil Ring is one that nobody owns anything of.
type Ring struct {
	whole netip.Prefix
	parts []Part
	links map[Owner]bool // givers and takers of grants that were steps in a chain
}

// Part is an aligned block with one owner, of grants of one version.
type Part struct {
	Prefix  netip.Prefix
	Owner   Owner
	Version uint32 // of the last grant; the next one has a higher one
}

// Conflict tells of two grants that give the same addresses at the same version to two hosts: a host has forgotten what it gave away,
// by a restored old state file, or somebody has taken over the space of a host that lives. An operator must look.
type Conflict struct {
	Prefix  netip.Prefix // what the loser was granted; at least a part of it is disputed
	Version uint32
	From    Owner // who gave twice; nobody if two hosts seeded the range
	A, B    Owner // the taker that all hosts agree on, and the loser
}

// NewRing folds grants into a ring. Their order and repetition do not matter: whoever has the same set sees the same ring. Malformed
// grants and those that are not within whole are skipped. Time is O(n log n) for n grants as weft makes them.
func NewRing(whole netip.Prefix, gs []Grant) (*Ring, []Conflict) { return newRing(whole, nil, gs) }

// newRing folds grants onto what a base says that they began with.
func newRing(whole netip.Prefix, base []Part, gs []Grant) (*Ring, []Conflict) {
	r := &Ring{whole: whole.Masked()}
	if !r.whole.IsValid() {
		return r, nil
	}
	valid := make([]Grant, 0, len(gs))
	for _, g := range gs {
		if g.check() == nil && within(g.Prefix, r.whole) {
			valid = append(valid, g)
		}
	}
	slices.SortFunc(valid, byApplication)
	valid = slices.Compact(valid)
	var begun []Grant
	for _, p := range base {
		if p.Prefix.IsValid() && within(p.Prefix, r.whole) {
			begun = append(begun, Grant{Prefix: p.Prefix, To: p.Owner, Version: p.Version})
		}
	}
	f := newFold(r.whole, append(begun, valid...))
	r.links = make(map[Owner]bool)
	for _, g := range begun {
		f.apply(g)
		r.links[g.To] = true
	}
	var conflicts []Conflict
	for _, g := range valid {
		rival, applied := f.apply(g)
		if applied {
			r.links[g.From], r.links[g.To] = true, true
		}
		if !rival.IsZero() {
			conflicts = append(conflicts, Conflict{Prefix: g.Prefix, Version: g.Version, From: g.From, A: rival, B: g.To})
		}
	}
	r.parts = f.parts()
	slices.SortFunc(conflicts, func(a, b Conflict) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Version, b.Version), a.From.Compare(b.From), a.B.Compare(b.B))
	})
	return r, conflicts
}

func (f *fold) parts() []Part {
	type run struct {
		first, last netip.Addr
		owner       Owner
		version     uint32
	}
	var runs []run
	f.each(func(first, last netip.Addr, s state) {
		if n := len(runs); n > 0 && runs[n-1].owner == s.owner && runs[n-1].version == s.version {
			runs[n-1].last = last
			return
		}
		runs = append(runs, run{first, last, s.owner, s.version})
	})
	var parts []Part
	var cidrs []netip.Prefix
	for _, r := range runs {
		if r.owner.IsZero() {
			continue
		}
		cidrs = appendCIDRs(cidrs[:0], r.first, r.last)
		for _, p := range cidrs {
			parts = append(parts, Part{Prefix: p, Owner: r.owner, Version: r.version})
		}
	}
	return parts
}

// Whole returns the range, aligned.
func (r *Ring) Whole() netip.Prefix {
	if r == nil {
		return netip.Prefix{}
	}
	return r.whole
}

// Seeded says whether anybody owns anything.
func (r *Ring) Seeded() bool { return r != nil && len(r.parts) > 0 }

// Owner returns who owns a, zero for nobody or an address outside the range. O(log n).
func (r *Ring) Owner(a netip.Addr) Owner {
	if r == nil {
		return Owner{}
	}
	a = a.Unmap()
	i, found := slices.BinarySearchFunc(r.parts, a, func(p Part, a netip.Addr) int { return p.Prefix.Addr().Compare(a) })
	if !found {
		i-- // the last part that starts before a
	}
	if i < 0 || !r.parts[i].Prefix.Contains(a) {
		return Owner{}
	}
	return r.parts[i].Owner
}

// Parts returns the owned blocks, sorted by address, without overlap. Neighbours of equal owner and version are joined. The caller owns
// the slice.
func (r *Ring) Parts() []Part {
	if r == nil {
		return nil
	}
	return slices.Clone(r.parts)
}

// Owned returns what o owns in the fewest aligned blocks, sorted by address: o's allowed IPs.
func (r *Ring) Owned(o Owner) []netip.Prefix {
	if r == nil || o.IsZero() {
		return nil
	}
	var out []netip.Prefix
	for i := 0; i < len(r.parts); i++ {
		if r.parts[i].Owner != o {
			continue
		}
		first, last := r.parts[i].Prefix.Addr(), lastAddr(r.parts[i].Prefix)
		for i+1 < len(r.parts) && r.parts[i+1].Owner == o && r.parts[i+1].Prefix.Addr() == last.Next() {
			i++
			last = lastAddr(r.parts[i].Prefix)
		}
		out = appendCIDRs(out, first, last)
	}
	return out
}

// version returns the highest version of the parts within p.
func (r *Ring) version(p netip.Prefix) uint32 {
	var v uint32
	for _, q := range overlapping(r.parts, p) {
		v = max(v, q.Version)
	}
	return v
}

// overlapping returns those of parts, which are in order, that have addresses of p.
func overlapping(parts []Part, p netip.Prefix) []Part {
	first, found := slices.BinarySearchFunc(parts, p.Addr(), func(q Part, a netip.Addr) int { return q.Prefix.Addr().Compare(a) })
	if !found && first > 0 && parts[first-1].Prefix.Overlaps(p) {
		first-- // the part that p begins in
	}
	end := first
	for end < len(parts) && parts[end].Prefix.Overlaps(p) {
		end++
	}
	return parts[first:end]
}
