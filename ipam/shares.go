package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// Share is how much of the range an owner has.
type Share struct {
	Owner     Owner
	Addresses uint64  // number of addresses; the largest uint64 stands for all that is more
	Fraction  float64 // of the whole range, 0 to 1
}

// Shares returns the owners of the range and what they have, sorted by owner.
func (r *Ring) Shares() []Share {
	if r == nil || !r.whole.IsValid() {
		return nil
	}
	sums := r.sums(r.whole)
	out := make([]Share, 0, len(sums))
	for o, n := range sums {
		out = append(out, Share{Owner: o, Addresses: n.saturated(), Fraction: n.float() / countOf(r.whole).float()})
	}
	slices.SortFunc(out, func(a, b Share) int { return a.Owner.Compare(b.Owner) })
	return out
}

// Donors returns the hosts other than self that own space in subnet, those with most of it first. Equal shares are in the order of owners.
func (r *Ring) Donors(self Owner, subnet netip.Prefix) []Owner {
	if r == nil {
		return nil
	}
	sums := r.sums(subnet)
	var out []Owner
	for o := range sums {
		if o != self {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Owner) int {
		switch na, nb := sums[a], sums[b]; {
		case nb.less(na):
			return -1
		case na.less(nb):
			return 1
		}
		return a.Compare(b)
	})
	return out
}

// Asked returns the hosts that Donors does in a random order, weighted by what they have: of two, the one with three times as much
// comes first three times out of four. So hosts that need space at the same moment do not all ask the same one. draw gives numbers
// from 0 to below 1, evenly (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
func (r *Ring) Asked(self Owner, subnet netip.Prefix, draw func() float64) []Owner {
	if r == nil {
		return nil
	}
	sums, out := r.sums(subnet), r.Donors(self, subnet)
	keys := make(map[Owner]float64, len(out))
	for _, o := range out {
		keys[o] = -math.Log1p(-draw()) / sums[o].float()
	}
	slices.SortStableFunc(out, func(a, b Owner) int { return cmp.Compare(keys[a], keys[b]) })
	return out
}

// Spares returns those owners that have more than twice as much of a subnet as self. A host that asks without need asks only them:
// half of what they have makes shares more even, and so such gifts come to an end, where equal hosts would pass what is free to each
// other for ever.
func (r *Ring) Spares(owners []Owner, self Owner, subnet netip.Prefix) []Owner {
	sums := r.sums(subnet)
	twice := sums[self].add(sums[self])
	return slices.DeleteFunc(slices.Clone(owners), func(o Owner) bool { return !twice.less(sums[o]) })
}

// sums counts the addresses per owner within a prefix.
func (r *Ring) sums(in netip.Prefix) map[Owner]count {
	sums := make(map[Owner]count)
	for _, p := range r.parts {
		if q, ok := intersect(p.Prefix, in); ok {
			sums[p.Owner] = sums[p.Owner].add(countOf(q))
		}
	}
	return sums
}
