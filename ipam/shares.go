package ipam

import (
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

// Donors returns the hosts other than self that own space in subnet, those with most of it first: the order in which a host that has
// run out asks. Equal shares are in the order of owners.
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
