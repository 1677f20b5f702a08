package dns

import (
	"net"
	"net/netip"
	"slices"

	miekg "github.com/miekg/dns"
)

// notGlobal are the ranges whose addresses mean something else to everybody, or nothing: those that RFC 6890 and
// IANA's registries after it do not call global, and of IPv6 the site-local ones of old (RFC 3879). 192.0.0.0/24 is
// here as far as hosts use it: 192.0.0.170 is how a network tells of its NAT64 (RFC 7050).
var notGlobal = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", sharedSpace.String(), "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/29", "192.0.2.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "3fff::/20",
	"fc00::/7", "fe80::/10", "fec0::/10",
)

// embedding are the IPv6 prefixes whose addresses lead to the IPv4 address that follows them: NAT64 (RFC 6052), 6to4
// (RFC 3056), and those that stand for IPv4 addresses (RFC 4291, 2.5.5), of which ::1 and :: are two as well.
var embedding = prefixes("64:ff9b::/96", "2002::/16", "::/96", "::ffff:0:0/96")

func prefixes(text ...string) (ps []netip.Prefix) {
	for _, s := range text {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// isGlobal says whether an address, as [leadsTo] gives it, means the same to everybody.
func isGlobal(a netip.Addr) bool { return !covers(notGlobal, a) }

func covers(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// leadsTo gives the IPv4 address that an IPv6 address leads to, else the address itself.
func leadsTo(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	for _, p := range embedding {
		if p.Contains(a) {
			b := a.As16()
			return netip.AddrFrom4([4]byte(b[p.Bits()/8:]))
		}
	}
	return a
}

// hasAddress says whether a reply has an address of which is says so, also as a hint of where a service is.
func hasAddress(m *miekg.Msg, is func(netip.Addr) bool) bool {
	anyOf := func(ips ...net.IP) bool {
		return slices.ContainsFunc(ips, func(ip net.IP) bool {
			a, ok := netip.AddrFromSlice(ip)
			return ok && is(leadsTo(a))
		})
	}
	service := func(s *miekg.SVCB) bool {
		return slices.ContainsFunc(s.Value, func(v miekg.SVCBKeyValue) bool {
			switch v := v.(type) {
			case *miekg.SVCBIPv4Hint:
				return anyOf(v.Hint...)
			case *miekg.SVCBIPv6Hint:
				return anyOf(v.Hint...)
			}
			return false
		})
	}
	return slices.ContainsFunc(slices.Concat(m.Answer, m.Extra), func(rr miekg.RR) bool {
		switch rr := rr.(type) {
		case *miekg.A:
			return anyOf(rr.A)
		case *miekg.AAAA:
			return anyOf(rr.AAAA)
		case *miekg.SVCB:
			return service(rr)
		case *miekg.HTTPS:
			return service(&rr.SVCB)
		}
		return false
	})
}
