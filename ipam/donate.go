package ipam

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
)

// maxDonation bounds the blocks of one donation. Every block is a log entry and an allowed IP for ever, and the small ones at the end
// of a long list are hardly worth either.
const maxDonation = 8

// Donate decides what `from` gives to `to` when asked for space in subnet (the zero Prefix: anywhere in the range): large free blocks,
// of equal ones those that `to` has the other half of, so that neighbours merge again, then the upper ones because allocation fills
// space from below; together at most half of what `from` owns there, but who asks for a single address means that one. It never gives an
// address for which used says true; used is asked about blocks and says whether any address in them is taken. The result is nil if there
// is nothing to give.
//
// The caller writes the grants to its log and sets the ring that contains them before it allocates again.
func Donate(r *Ring, from, to Owner, used func(netip.Prefix) bool, subnet netip.Prefix) []Grant {
	if r == nil || from.IsZero() || to.IsZero() || from == to {
		return nil
	}
	if !subnet.IsValid() {
		subnet = r.whole
	}
	subnet = subnet.Masked()
	d := donation{subnet: subnet, used: used, theirs: r.Owned(to)}
	var owned count
	for _, p := range r.Owned(from) {
		if q, ok := intersect(p, subnet); ok {
			owned = owned.add(countOf(q))
			d.addFree(q)
		}
	}
	heap.Init(&d.free)
	var out []Grant
	left := owned
	if !subnet.IsSingleIP() {
		left = owned.half()
	}
	for len(d.free) > 0 && len(out) < maxDonation && left != (count{}) {
		b := heap.Pop(&d.free).(block)
		if n := countOf(b.prefix); !left.less(n) {
			left = left.sub(n)
			out = append(out, Grant{Prefix: b.prefix, From: from, To: to, Version: after(r.version(b.prefix))})
			continue
		}
		low, high := halves(b.prefix) // larger than what is left, so at least two addresses
		for _, half := range []netip.Prefix{low, high} {
			if !d.useless(half) {
				heap.Push(&d.free, d.block(half))
			}
		}
	}
	return out
}

// Single returns the address that a host owns in a subnet, if it is no more than one and a container may have it. Half of it is nothing,
// so whoever needs it asks for this very address.
func (r *Ring) Single(o Owner, subnet netip.Prefix) (one netip.Prefix, ok bool) {
	if r == nil || !subnet.IsValid() {
		return netip.Prefix{}, false
	}
	for _, p := range r.Owned(o) {
		q, in := intersect(p, subnet.Masked())
		if in && (ok || !q.IsSingleIP()) {
			return netip.Prefix{}, false
		}
		if in {
			one, ok = q, true
		}
	}
	return one, ok && !reserved(one.Addr(), subnet)
}

// HandOver gives everything that from owns to one host: what reset does, once no address is in use any more. Neighbours that came by
// several grants go by one.
func HandOver(r *Ring, from, to Owner) []Grant {
	if r == nil || from.IsZero() || to.IsZero() || from == to {
		return nil
	}
	var out []Grant
	for _, p := range r.Owned(from) {
		out = append(out, Grant{Prefix: p, From: from, To: to, Version: after(r.version(p))})
	}
	return out
}

type donation struct {
	subnet netip.Prefix
	used   func(netip.Prefix) bool
	theirs []netip.Prefix // of who asks
	free   blocks
}

// addFree adds the largest free blocks of p. The work is in proportion to the addresses in use, not to the size of p.
func (d *donation) addFree(p netip.Prefix) {
	switch {
	case !d.used(p):
		if !d.useless(p) {
			d.free = append(d.free, d.block(p))
		}
	case !p.IsSingleIP():
		low, high := halves(p)
		d.addFree(low)
		d.addFree(high)
	}
}

// useless says that p is nothing but an address that nobody can use: the asker could not either.
func (d *donation) useless(p netip.Prefix) bool {
	return p.IsSingleIP() && reserved(p.Addr(), d.subnet)
}

func (d *donation) block(p netip.Prefix) block {
	b := block{prefix: p}
	if p.Bits() > 0 {
		parent := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
		low, high := halves(parent)
		other := low
		if low == p {
			other = high
		}
		b.merges = slices.ContainsFunc(d.theirs, func(q netip.Prefix) bool { return within(other, q) })
	}
	return b
}

type block struct {
	prefix netip.Prefix
	merges bool // with a neighbour that the asker has
}

// blocks is a heap: largest first, then those that merge, then highest.
type blocks []block

func (b blocks) Len() int      { return len(b) }
func (b blocks) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b blocks) Less(i, j int) bool {
	if b[i].prefix.Bits() == b[j].prefix.Bits() && b[i].merges != b[j].merges {
		return b[i].merges
	}
	return cmp.Or(cmp.Compare(b[i].prefix.Bits(), b[j].prefix.Bits()), b[j].prefix.Addr().Compare(b[i].prefix.Addr())) < 0
}
func (b *blocks) Push(x any) { *b = append(*b, x.(block)) }
func (b *blocks) Pop() any {
	old := *b
	x := old[len(old)-1]
	*b = old[:len(old)-1]
	return x
}
