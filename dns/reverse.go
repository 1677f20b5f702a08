package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	miekg "github.com/miekg/dns"
)

const hexDigits = "0123456789abcdef"

// reverseName gives the name that PTR records of an address have (RFC 1035,
// 3.5; RFC 3596, 2.5), cut to its first labels of the address: octets of an
// IPv4 address, nibbles of an IPv6 one.
func reverseName(a netip.Addr, labels int) string {
	var b strings.Builder
	if a.Is4() {
		octets := a.As4()
		for i := labels - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(octets[i])))
			b.WriteByte('.')
		}
		b.WriteString("in-addr.arpa.")
		return b.String()
	}
	octets := a.As16()
	for i := labels - 1; i >= 0; i-- {
		b.WriteByte(hexDigits[octets[i/2]>>(4*(1-i%2))&0xf])
		b.WriteByte('.')
	}
	b.WriteString("ip6.arpa.")
	return b.String()
}

// reverseOf is the whole reverse name of an address.
func reverseOf(a netip.Addr) string {
	if a.Is4() {
		return reverseName(a, 4)
	}
	return reverseName(a, 32)
}

// reverseZones gives the zones whose names are exactly the addresses of a
// prefix. Zones are cut at octets or nibbles and prefixes are not, so 10.32.0.0/12 is
// the 16 zones 32.10.in-addr.arpa to 47.10.in-addr.arpa; there are at most 256.
func reverseZones(p netip.Prefix) []string {
	p = p.Masked()
	width := 4
	if p.Addr().Is4() {
		width = 8
	}
	labels := max(1, (p.Bits()+width-1)/width)
	zones := make([]string, 1<<(labels*width-p.Bits()))
	octets := p.Addr().AsSlice()
	last, shift := labels-1, 0
	if width == 4 {
		shift = 4 * (1 - last%2)
		last /= 2
	}
	first := octets[last]
	for i := range zones {
		octets[last] = first | byte(i)<<shift
		a, _ := netip.AddrFromSlice(octets)
		zones[i] = reverseName(a, labels)
	}
	return zones
}

// Reverses says whether the names of a domain are those that PTR records of addresses of a prefix have, and no others: of a table that
// has the prefix, none of them is asked for elsewhere.
func Reverses(domain string, p netip.Prefix) bool {
	return slices.ContainsFunc(reverseZones(p), func(zone string) bool { return miekg.IsSubDomain(zone, canonical(domain)) })
}
