package ipam

import (
	"cmp"
	"container/heap"
	"net/netip"
)

// maxDonation bounds the blocks of one donation. Every block is a log entry and an allowed IP for ever, and the small ones at the end
// of a long list are hardly worth either.
const maxDonation = 8

// Donate decides what `from` gives to `to` when asked for space in subnet (the zero Prefix: anywhere in the range): large free blocks,
// the upper ones first because allocation fills space from below, together at most half of what `from` owns there. It never gives an
// address for which used says true; used is asked about blocks and says whether any address in them is taken. Each grant lies within
// one part, so that its version continues one chain. The result is nil if there is nothing to give.
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
	d := donation{subnet: subnet, used: used}
	var owned count
	for _, p := range r.parts {
		if q, ok := intersect(p.Prefix, subnet); ok && p.Owner == from {
			owned = owned.add(countOf(q))
			d.addFree(q, p.Version)
		}
	}
	heap.Init(&d.free)
	var out []Grant
	for left := owned.half(); len(d.free) > 0 && len(out) < maxDonation && left != (count{}); {
		b := heap.Pop(&d.free).(block)
		if n := countOf(b.prefix); !left.less(n) {
			left = left.sub(n)
			out = append(out, Grant{Prefix: b.prefix, From: from, To: to, Version: b.version + 1})
			continue
		}
		low, high := halves(b.prefix) // larger than what is left, so at least two addresses
		for _, half := range []netip.Prefix{low, high} {
			if !d.useless(half) {
				heap.Push(&d.free, block{half, b.version})
			}
		}
	}
	return out
}

// HandOver gives everything that from owns to one host: what reset does, once no address is in use any more.
func HandOver(r *Ring, from, to Owner) []Grant {
	if r == nil || from.IsZero() || to.IsZero() || from == to {
		return nil
	}
	var out []Grant
	for _, p := range r.parts {
		if p.Owner == from {
			out = append(out, Grant{Prefix: p.Prefix, From: from, To: to, Version: p.Version + 1})
		}
	}
	return out
}

type donation struct {
	subnet netip.Prefix
	used   func(netip.Prefix) bool
	free   blocks
}

// addFree adds the largest free blocks of p. The work is in proportion to the addresses in use, not to the size of p.
func (d *donation) addFree(p netip.Prefix, version uint32) {
	switch {
	case !d.used(p):
		if !d.useless(p) {
			d.free = append(d.free, block{p, version})
		}
	case !p.IsSingleIP():
		low, high := halves(p)
		d.addFree(low, version)
		d.addFree(high, version)
	}
}

// useless says that p is nothing but an address that nobody can use: the asker could not either.
func (d *donation) useless(p netip.Prefix) bool {
	return p.IsSingleIP() && reserved(p.Addr(), d.subnet)
}

type block struct {
	prefix  netip.Prefix
	version uint32
}

// blocks is a heap: largest first, then highest.
type blocks []block

func (b blocks) Len() int      { return len(b) }
func (b blocks) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b blocks) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(b[i].prefix.Bits(), b[j].prefix.Bits()), b[j].prefix.Addr().Compare(b[i].prefix.Addr())) < 0
}
func (b *blocks) Push(x any) { *b = append(*b, x.(block)) }
func (b *blocks) Pop() any {
	old := *b
	x := old[len(old)-1]
	*b = old[:len(old)-1]
	return x
}
