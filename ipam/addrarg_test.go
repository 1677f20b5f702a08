package ipam

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseAddrArg(t *testing.T) {
	for in, want := range map[string]AddrArg{
		"ip:10.32.0.5/12":     {ArgIP, pfx("10.32.0.5/12")},
		"10.32.0.5/12":        {ArgIP, pfx("10.32.0.5/12")},
		"10.0.0.1/32":         {ArgIP, pfx("10.0.0.1/32")},
		"10.0.0.0/31":         {ArgIP, pfx("10.0.0.0/31")},
		"net:10.32.1.0/24":    {ArgNet, pfx("10.32.1.0/24")},
		"net:default":         {Kind: ArgDefault},
		"ip:fd00::5/64":       {ArgIP, pfx("fd00::5/64")},
		"fd00::5/64":          {ArgIP, pfx("fd00::5/64")},
		"fd00::ffff:ffff/112": {ArgIP, pfx("fd00::ffff:ffff/112")},
		"net:fd00::/64":       {ArgNet, pfx("fd00::/64")},
	} {
		if got, err := ParseAddrArg(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                       "use ip:CIDR, net:CIDR",
		"ip":                     "use ip:CIDR, net:CIDR",
		"ip:":                    "use ip:CIDR, net:CIDR",
		"net:":                   "use ip:CIDR, net:CIDR",
		"default":                "write net:default",
		"ip:default":             "write net:default",
		"web":                    "not an address with a prefix length",
		"10.32.0.5":              "as in ip:10.32.0.5/24",
		"net:10.32.1.7":          "as in net:10.32.1.0/24",
		"fd00::5":                "as in ip:fd00::5/64",
		"net:fd00::5%eth0":       "as in net:fd00::/64",
		"ip:10.32.0.5/33":        "not an address with a prefix length",
		"ip:10.32.0.5/012":       "not an address with a prefix length",
		"ip:010.32.0.5/12":       "not an address with a prefix length",
		"ip:ip:10.32.0.5/12":     "not an address with a prefix length",
		"ip:fe80::1%eth0/64":     "no prefix length",
		"ip:::ffff:10.0.0.1/120": "write IPv4 addresses as such: 10.0.0.1",
		"net:10.32.1.5/24":       "write net:10.32.1.0/24 for the subnet, or ip:10.32.1.5/24",
		"net:10.32.1.4/31":       "at least 4 addresses",
		"net:fd00::4/127":        "at least 4 addresses",
		"net:0.0.0.0/0":          "the whole Internet",
		"ip:10.32.1.5/0":         "the whole Internet",
		"ip:10.32.1.0/24":        "write net:10.32.1.0/24",
		"ip:10.32.1.255/24":      "is the broadcast address of 10.32.1.0/24",
		"ip:fd00::/64":           "the subnet's own",
		"ip:127.0.0.1/8":         "loopback",
		"ip:::1/128":             "loopback",
		"ip:224.0.0.251/24":      "multicast",
		"ip:ff02::1/64":          "multicast",
		"ip:169.254.53.1/16":     "link-local",
		"ip:fe80::1/64":          "link-local",
		"ip:0.0.0.0/8":           "not an address of a host",
		"ip:0.1.2.3/24":          "not an address of a host",
		"ip:255.255.255.255/32":  "not an address of a host",
		"ip:::/64":               "not an address of a host",
	} {
		got, err := ParseAddrArg(in)
		if err == nil || !strings.Contains(err.Error(), want) || got != (AddrArg{}) {
			t.Errorf("%s: %v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func FuzzParseAddrArg(f *testing.F) {
	for _, s := range []string{"ip:10.32.0.5/12", "10.32.0.5/12", "net:10.32.1.0/24", "net:default", "fd00::5/64", "ip:::1/0", "net:::/0", "ip:1.2.3.4", "0.0.0.0/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddrArg(s)
		if err != nil {
			return
		}
		if back, err := ParseAddrArg(a.String()); err != nil || back != a {
			t.Fatalf("%q is %v, which reads as %v, %v", s, a, back, err)
		}
		// The allocator takes what the parser lets through, or says why not; it does not panic.
		al := NewAllocator(host(1), pfx("10.32.0.0/12"), netip.Prefix{})
		r, _ := NewRing(pfx("10.32.0.0/12"), []Grant{Seed(pfx("10.32.0.0/12"), host(1))})
		al.SetRing(r)
		var got Allocation
		if a.Kind == ArgIP {
			got, _, err = al.Claim("c", a.Prefix)
		} else {
			got, _, err = al.Allocate("c", a.Prefix)
		}
		if err == nil && a.Kind == ArgIP && got.Addr != a.Prefix || err == nil && a.Kind == ArgNet && got.Addr.Masked() != a.Prefix {
			t.Fatalf("%q gave %v", s, got.Addr)
		}
	})
}
