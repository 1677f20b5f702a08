package host

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultUnderlayMTU is Ethernet's, for a host whose way out cannot be seen.
const defaultUnderlayMTU = 1500

// Endpoints are the addresses by which other hosts may reach this one: global
// unicast ones of interfaces that are up and are neither ours nor Docker's; those
// of the default route's interface come first, IPv4 before IPv6.
func (h *Host) Endpoints() ([]netip.Addr, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, out, err := interfaces(nl)
	if err != nil {
		return nil, err
	}
	type candidate struct {
		addr  netip.Addr
		first bool
	}
	var found []candidate
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || h.isInternal(a.Name) {
			continue
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, ad := range addrs {
			ip := prefixOf(ad.IPNet).Addr()
			const passing = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
			temporary := ip.Is6() && ad.Flags&unix.IFA_F_TEMPORARY != 0 // the same bit is IFA_F_SECONDARY for IPv4
			if ip.IsGlobalUnicast() && ad.Flags&passing == 0 && !temporary {
				found = append(found, candidate{ip, slices.Contains(out, a.Index)})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		if a.first != b.first {
			return cmp.Compare(boolInt(b.first), boolInt(a.first))
		}
		return cmp.Compare(boolInt(a.addr.Is6()), boolInt(b.addr.Is6()))
	})
	var addrs []netip.Addr
	for _, c := range found {
		if !slices.Contains(addrs, c.addr) {
			addrs = append(addrs, c.addr)
		}
	}
	return addrs, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// isInternal: an interface that leads to containers, not to other hosts.
func (h *Host) isInternal(name string) bool {
	if name == h.bridge || name == h.tunnel || name == "docker0" || name == "docker_gwbridge" {
		return true
	}
	return slices.ContainsFunc([]string{"weft", "br-", "veth", vethPrefix}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// interfaces are all of the host's, and the indices of those that default routes leave by.
func interfaces(nl *netlink.Handle) (links []netlink.Link, ways []int, err error) {
	if links, err = dump(nl.LinkList); err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	ways, err = defaultLinks(nl)
	return links, ways, err
}

// defaultLinks are the interfaces of default routes.
func defaultLinks(nl *netlink.Handle) ([]int, error) {
	var out []int
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := mainRoutes(nl, family)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if prefixOf(r.Dst).Bits() > 0 {
				continue
			}
			if r.LinkIndex != 0 {
				out = append(out, r.LinkIndex)
			}
			for _, hop := range r.MultiPath {
				out = append(out, hop.LinkIndex)
			}
		}
	}
	return out, nil
}

// mainRoutes lists the main table of one family; a kernel without IPv6 has none.
func mainRoutes(nl *netlink.Handle, family int) ([]netlink.Route, error) {
	rs, err := dump(func() ([]netlink.Route, error) { return nl.RouteList(nil, family) })
	if family == netlink.FAMILY_V6 && errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return rs, nil
}

// UnderlayMTU is the smallest MTU, in bytes, of the interfaces and routes that lead
// to the given addresses; those that no route leads to do not count. Without
// any, it is that of the default routes' interfaces, else of all that have an
// endpoint, else 1,500.
func (h *Host) UnderlayMTU(to []netip.Addr) (int, error) {
	nl, err := openNetlink()
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	links, err := dump(nl.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	mtus := map[int]int{}
	for _, l := range links {
		if a := l.Attrs(); a.Flags&net.FlagLoopback == 0 && a.Flags&net.FlagUp != 0 && !h.isInternal(a.Name) {
			mtus[a.Index] = a.MTU
		}
	}
	smallest := 0
	see := func(mtu int) {
		if mtu > 0 && (smallest == 0 || mtu < smallest) {
			smallest = mtu
		}
	}
	for _, a := range to {
		routes, err := nl.RouteGet(a.AsSlice())
		if err != nil {
			continue
		}
		for _, r := range routes {
			see(mtus[r.LinkIndex])
			if _, out := mtus[r.LinkIndex]; out {
				see(r.MTU)
			}
		}
	}
	if smallest != 0 {
		return smallest, nil
	}
	out, err := defaultLinks(nl)
	if err != nil {
		return 0, err
	}
	for _, index := range out {
		see(mtus[index])
	}
	if smallest != 0 {
		return smallest, nil
	}
	for _, l := range links {
		if addrs, err := nl.AddrList(l, netlink.FAMILY_ALL); err == nil && slices.ContainsFunc(addrs, isGlobal) {
			see(mtus[l.Attrs().Index])
		}
	}
	return cmp.Or(smallest, defaultUnderlayMTU), nil
}

func isGlobal(a netlink.Addr) bool { return prefixOf(a.IPNet).Addr().IsGlobalUnicast() }

// Overlaps finds a route of the main table, neither ours nor a default route, that
// overlaps p, with its interface ("" for one without).
func (h *Host) Overlaps(p netip.Prefix) (route netip.Prefix, dev string, found bool, err error) {
	nl, err := openNetlink()
	if err != nil {
		return netip.Prefix{}, "", false, err
	}
	defer nl.Close()
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := mainRoutes(nl, family)
	if err != nil {
		return netip.Prefix{}, "", false, err
	}
	for _, r := range routes {
		dst := prefixOf(r.Dst)
		if r.Protocol == routeProtocol || dst.Bits() <= 0 || !dst.Overlaps(p) {
			continue
		}
		if l, err := nl.LinkByIndex(r.LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		if dev == h.bridge || dev == h.tunnel {
			dev = ""
			continue
		}
		return dst, dev, true, nil
	}
	return netip.Prefix{}, "", false, nil
}
