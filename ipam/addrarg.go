package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ArgKind is which form an address argument has.
type ArgKind int

const (
	ArgIP      ArgKind = iota + 1 // ip:CIDR or CIDR: this very address
	ArgNet                        // net:CIDR: some address of that subnet
	ArgDefault                    // net:default: some address of the default subnet
)

// AddrArg is an address argument of the command line.
type AddrArg struct {
	Kind   ArgKind
	Prefix netip.Prefix // ArgIP: the address with its subnet's length; ArgNet: the subnet; ArgDefault: the zero Prefix
}

// String returns the form that ParseAddrArg reads.
func (a AddrArg) String() string {
	switch a.Kind {
	case ArgIP:
		return "ip:" + a.Prefix.String()
	case ArgNet:
		return "net:" + a.Prefix.String()
	case ArgDefault:
		return "net:default"
	}
	return "(no address)"
}

// ParseAddrArg reads ip:CIDR, net:CIDR, net:default or CIDR (the same as ip:CIDR). Errors say what to type instead. Whether an address
// is in the range, owned or free is for the Allocator to say.
func ParseAddrArg(s string) (AddrArg, error) {
	a, err := parseAddrArg(s)
	if err != nil {
		return AddrArg{}, fmt.Errorf("address %q: %w", s, err)
	}
	return a, nil
}

func parseAddrArg(s string) (AddrArg, error) {
	form, cidr, found := strings.Cut(s, ":")
	if form != "ip" && form != "net" {
		form, cidr, found = "ip", s, true // a bare CIDR; the colons of an IPv6 one included
	}
	switch {
	case s == "" || cidr == "" || !found:
		return AddrArg{}, errors.New("use ip:CIDR, net:CIDR, net:default or CIDR, as in ip:10.32.0.5/12 or net:10.32.1.0/24")
	case form == "net" && cidr == "default":
		return AddrArg{Kind: ArgDefault}, nil
	case cidr == "default":
		return AddrArg{}, errors.New("only net: has a default; write net:default")
	}
	p, err := parseCIDR(cidr, form)
	if err != nil {
		return AddrArg{}, err
	}
	if form == "net" {
		return AddrArg{Kind: ArgNet, Prefix: p}, checkSubnet(p)
	}
	return AddrArg{Kind: ArgIP, Prefix: p}, checkClaim(p)
}

func parseCIDR(s, form string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		suggest := netip.PrefixFrom(a.WithZone("").Unmap(), 24)
		if suggest.Addr().Is6() {
			suggest = netip.PrefixFrom(suggest.Addr(), 64)
		}
		if form == "net" {
			suggest = suggest.Masked()
		}
		return netip.Prefix{}, fmt.Errorf("no prefix length; write it after the address, as in %s:%v", form, suggest)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("not an address with a prefix length, as in 10.32.0.5/12")
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("write IPv4 addresses as such: %v", p.Addr().Unmap())
	}
	return p, nil
}

// checkSubnet says whether addresses can be allocated in p.
func checkSubnet(p netip.Prefix) error {
	switch {
	case p != p.Masked():
		return fmt.Errorf("bits are set behind the prefix length; write net:%v for the subnet, or ip:%v for that very address", p.Masked(), p)
	case p.Bits() == 0:
		return errors.New("the whole Internet is not a subnet")
	case p.Bits() > p.Addr().BitLen()-2:
		return errors.New("too small a subnet; it needs at least 4 addresses")
	}
	return nil
}

// checkClaim says whether a container can have the address p.Addr() in the subnet p.Masked().
func checkClaim(p netip.Prefix) error {
	a := p.Addr()
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case !p.IsValid() || a.Is4In6():
		return fmt.Errorf("%v is not a usable address", p)
	case a.IsLoopback():
		return fmt.Errorf("%v is a loopback address", a)
	case a.IsMulticast():
		return fmt.Errorf("%v is a multicast address", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%v is a link-local address", a)
	case a.IsUnspecified(), a.Is4() && a.As4()[0] == 0, a == broadcast:
		return fmt.Errorf("%v is not an address of a host", a)
	case p.Bits() == 0:
		return errors.New("the whole Internet is not a subnet")
	case reserved(a, p) && a == p.Masked().Addr():
		return fmt.Errorf("%v is the first address of %v, the subnet's own; write net:%v for any address of it", a, p.Masked(), p.Masked())
	case reserved(a, p):
		return fmt.Errorf("%v is the broadcast address of %v", a, p.Masked())
	}
	return nil
}
