package host

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// set is a wanted nftables set.
type set struct {
	name     string
	types    []nftables.SetDatatype // more than one: a concatenation
	interval bool
	elements []element // sorted by text, without doubles
}

// element is one element: its text, and how the kernel has it. For an interval
// of one field (not a concatenation) end is exclusive, else inclusive; without
// end it is a single value.
type element struct {
	text     string
	key, end []byte
}

func (s set) keyType() nftables.SetDatatype {
	if len(s.types) == 1 {
		return s.types[0]
	}
	return nftables.MustConcatSetType(s.types...)
}

func (s set) String() string {
	names := make([]string, len(s.types))
	for i, t := range s.types {
		names[i] = t.Name
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.name, strings.Join(names, " . "))
	if s.interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(s.elements) > 0 {
		texts := make([]string, len(s.elements))
		for i, e := range s.elements {
			texts[i] = e.text
		}
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
	}
	b.WriteString("\t}\n")
	return b.String()
}

func sorted(es []element) []element {
	slices.SortFunc(es, func(a, b element) int { return cmp.Compare(a.text, b.text) })
	return slices.CompactFunc(es, func(a, b element) bool { return a.text == b.text })
}

// localSet holds (address, subnet) of each local container. Both directions of a
// packet are judged by it: the container's address is exact, the other end's may
// be anywhere in the subnet.
func (c *Config) localSet() set {
	// The kernel refuses overlapping intervals, so of an address that is there
	// twice the wider subnet counts.
	widest := map[netip.Addr]netip.Prefix{}
	for _, l := range c.Local {
		for _, a := range l.Addrs {
			if w, ok := widest[a.Addr()]; !ok || a.Bits() < w.Bits() {
				widest[a.Addr()] = a.Masked()
			}
		}
	}
	s := set{name: setLocal, types: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIPAddr}, interval: true}
	for a, p := range widest {
		first, last := bounds(p)
		s.elements = append(s.elements, element{fmt.Sprintf("%v . %s", a, prefixText(p)),
			slices.Concat(a.AsSlice(), first), slices.Concat(a.AsSlice(), last)})
	}
	s.elements = sorted(s.elements)
	return s
}

// meshSet holds the covered prefixes.
func (c *Config) meshSet() set {
	s := set{name: setMesh, types: []nftables.SetDatatype{nftables.TypeIPAddr}, interval: true}
	// Neighbours that make a wider prefix would be listed as one.
	for _, p := range merged(c.Covered) {
		first, last := bounds(p)
		next := addrOf(last).Next() // below 240.0.0.0 by validation, so it exists
		s.elements = append(s.elements, element{prefixText(p), first, next.AsSlice()})
	}
	s.elements = sorted(s.elements)
	return s
}

// senderSet holds who may send what by which port.
func (c *Config) senderSet() set {
	s := set{name: setSenders, types: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr}}
	for _, l := range c.Local {
		mac := containerMAC(l.Veth)
		for _, a := range l.Addrs {
			s.elements = append(s.elements, element{fmt.Sprintf("%q . %v . %v", l.Veth, mac, a.Addr()),
				slices.Concat(ifname(l.Veth), mac, []byte{0, 0}, a.Addr().AsSlice()), nil})
		}
	}
	s.elements = sorted(s.elements)
	return s
}

// portNetSet holds the subnets of each port's container.
func (c *Config) portNetSet() set {
	s := set{name: setPortNet, types: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}, interval: true}
	for _, l := range c.Local {
		for _, p := range merged(l.Addrs) {
			first, last := bounds(p)
			s.elements = append(s.elements, element{fmt.Sprintf("%q . %s", l.Veth, prefixText(p)),
				slices.Concat(ifname(l.Veth), first), slices.Concat(ifname(l.Veth), last)})
		}
	}
	s.elements = sorted(s.elements)
	return s
}

// bounds are the first and the last address of an IPv4 prefix.
func bounds(p netip.Prefix) (first, last []byte) {
	first, last = p.Masked().Addr().AsSlice(), p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return first, last
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
