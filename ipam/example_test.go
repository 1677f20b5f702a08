package ipam_test

import (
	"fmt"
	"net/netip"

	"weft/ipam"
)

func ExampleParseAddrArg() {
	for _, s := range []string{"ip:10.32.0.5/12", "10.32.0.5/12", "net:10.32.1.0/24", "net:default", "10.32.0.5", "net:10.32.1.5/24"} {
		a, err := ipam.ParseAddrArg(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(a)
	}
	// Output:
	// ip:10.32.0.5/12
	// ip:10.32.0.5/12
	// net:10.32.1.0/24
	// net:default
	// address "10.32.0.5": no prefix length; write it after the address, as in ip:10.32.0.5/24
	// address "net:10.32.1.5/24": bits are set behind the prefix length; write net:10.32.1.0/24 for the subnet, or ip:10.32.1.5/24 for that very address
}

// A newcomer asks the founder for space and gives a container an address of it.
func Example() {
	whole := netip.MustParsePrefix("10.32.0.0/12")
	founder, newcomer := ipam.Owner{1}, ipam.Owner{2}
	log := []ipam.Grant{ipam.Seed(whole, founder)}

	ring, _ := ipam.NewRing(whole, log)
	donors := ring.Donors(newcomer, whole)
	nothingUsed := func(netip.Prefix) bool { return false }
	log = append(log, ipam.Donate(ring, donors[0], newcomer, nothingUsed, whole)...)

	ring, _ = ipam.NewRing(whole, log)
	al := ipam.NewAllocator(newcomer, whole, whole)
	al.SetRing(ring)
	a, _, err := al.Allocate("web", netip.Prefix{})
	fmt.Println(ring.Owned(newcomer), a.Addr, err)
	// Output: [10.40.0.0/13] 10.40.0.0/12 <nil>
}
