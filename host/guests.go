package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Guests are the networks whose members live on this host: those of bridges that are no way out of it,
// as Docker's are, and this host's own addresses one by one. Everybody else
// reaches the host from outside. Watch pokes when they may have changed.
func (h *Host) Guests() ([]netip.Prefix, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, ways, err := interfaces(nl)
	if err != nil {
		return nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	inside := h.inside(links, ways)
	out := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		if !inside[a.LinkIndex] {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// inside are the interfaces, by index, behind which everybody lives on this host: no default route leaves by them
// (ways), and no bridge has a port that may lead to other machines.
func (h *Host) inside(links []netlink.Link, ways []int) map[int]bool {
	in := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		in[a.Index] = (l.Type() == "bridge" || h.isInternal(a.Name)) && !slices.Contains(ways, a.Index)
	}
	for _, l := range links {
		if m := l.Attrs().MasterIndex; m != 0 && !isGuestPort(l) {
			in[m] = false
		}
	}
	return in
}

// isGuestPort: one end of a container's or a virtual machine's cable. What else can be the port of a
// bridge (a network card, a VLAN or a bond of some, a tunnel) may lead to other machines.
func isGuestPort(l netlink.Link) bool {
	return slices.Contains([]string{"veth", "tuntap", "dummy"}, l.Type())
}
