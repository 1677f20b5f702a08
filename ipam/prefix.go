package ipam

import (
	"math"
	"math/bits"
	"net/netip"
)

// lastAddr returns the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		fillHost(a[:], p.Bits())
		return netip.AddrFrom4(a)
	}
	a := p.Addr().As16()
	fillHost(a[:], p.Bits())
	return netip.AddrFrom16(a)
}

func fillHost(a []byte, prefixBits int) {
	for i := range a {
		keep := min(max(prefixBits-8*i, 0), 8)
		a[i] |= byte(0xff) >> keep
	}
}

// halves splits p, which must have more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	low = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high = netip.PrefixFrom(lastAddr(low).Next(), p.Bits()+1)
	return low, high
}

// within says whether inner is a part of outer, or all of it.
func within(inner, outer netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// intersect returns the smaller of two prefixes that overlap. Prefixes overlap only by one containing the other.
func intersect(p, q netip.Prefix) (netip.Prefix, bool) {
	switch {
	case within(p, q):
		return p, true
	case within(q, p):
		return q, true
	}
	return netip.Prefix{}, false
}

// appendCIDRs appends the fewest aligned prefixes that make up the addresses from first to last.
func appendCIDRs(dst []netip.Prefix, first, last netip.Addr) []netip.Prefix {
	for {
		best := netip.PrefixFrom(first, first.BitLen())
		for n := first.BitLen() - 1; n >= 0; n-- {
			p := netip.PrefixFrom(first, n)
			if p.Masked().Addr() != first || last.Less(lastAddr(p)) {
				break
			}
			best = p
		}
		dst = append(dst, best)
		end := lastAddr(best)
		if end == last {
			return dst
		}
		first = end.Next()
	}
}

// reserved says whether a is an address of subnet that no container may have: the first, which is the network's own name in IPv4 and
// the routers' anycast address in IPv6 (RFC 4291, section 2.6.1), and in IPv4 the last, which is its broadcast address. Subnets of one
// or two addresses have neither (RFC 3021, RFC 6164).
func reserved(a netip.Addr, subnet netip.Prefix) bool {
	if subnet.Bits() >= a.BitLen()-1 {
		return false
	}
	return a == subnet.Masked().Addr() || a.Is4() && a == lastAddr(subnet)
}

// count is a number of addresses. One /64 is more than 64 bits can count.
type count struct{ hi, lo uint64 }

func countOf(p netip.Prefix) count {
	n := p.Addr().BitLen() - p.Bits()
	switch {
	case n < 64:
		return count{lo: 1 << n}
	case n < 128:
		return count{hi: 1 << (n - 64)}
	}
	return count{math.MaxUint64, math.MaxUint64}
}

func (c count) add(d count) count {
	lo, carry := bits.Add64(c.lo, d.lo, 0)
	hi, over := bits.Add64(c.hi, d.hi, carry)
	if over != 0 {
		return count{math.MaxUint64, math.MaxUint64}
	}
	return count{hi, lo}
}

func (c count) sub(d count) count {
	lo, borrow := bits.Sub64(c.lo, d.lo, 0)
	hi, _ := bits.Sub64(c.hi, d.hi, borrow)
	return count{hi, lo}
}

func (c count) half() count { return count{c.hi >> 1, c.lo>>1 | c.hi<<63} }

func (c count) less(d count) bool { return c.hi < d.hi || c.hi == d.hi && c.lo < d.lo }

func (c count) float() float64 { return float64(c.hi)*(1<<64) + float64(c.lo) }

func (c count) saturated() uint64 {
	if c.hi > 0 {
		return math.MaxUint64
	}
	return c.lo
}

// merge joins neighbours of sorted, disjoint prefixes.
func merge(ps []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for i := 0; i < len(ps); i++ {
		first, last := ps[i].Addr(), lastAddr(ps[i])
		for i+1 < len(ps) && ps[i+1].Addr() == last.Next() {
			i++
			last = lastAddr(ps[i])
		}
		out = appendCIDRs(out, first, last)
	}
	return out
}

// Size is the number of addresses of p; the largest uint64 stands for all that is more.
func Size(p netip.Prefix) uint64 { return countOf(p).saturated() }
