package host

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attached returns what every interface on the mesh really has, as the kernel says: the
// key of its container, and its addresses, each with its subnet's length; none if it has
// none yet. Neither a container engine nor a path of the namespace is needed, and
// namespaces without a process in them count. The error says that nobody knows.
func (h *Host) Attached() (map[string][]netip.Prefix, error) {
	nh, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nh.Close()
	outers, err := attachedVeths(nh)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]netip.Prefix, len(outers))
	for _, l := range outers {
		as, err := addrsOf(nh, l)
		if err != nil {
			return nil, err
		}
		found[l.Alias] = as
	}
	return found, nil
}

// AttachedAddrs is Attached for one key; none if it has no interface.
func (h *Host) AttachedAddrs(key string) ([]netip.Prefix, error) {
	nh, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nh.Close()
	l, err := findLink(nh, VethName(key))
	if l == nil || err != nil {
		return nil, err
	}
	return addrsOf(nh, l.Attrs())
}

// addrsOf is peerAddrs; none for a pair that goes with its namespace meanwhile.
func addrsOf(nh *netlink.Handle, outer *netlink.LinkAttrs) ([]netip.Prefix, error) {
	as, err := peerAddrs(outer)
	if err == nil {
		return as, nil
	}
	if now, lerr := findLink(nh, outer.Name); lerr == nil && (now == nil || now.Attrs().Index != outer.Index) {
		return nil, nil
	}
	return nil, fmt.Errorf("list addresses at the other end of %s: %w", outer.Name, err)
}

// attachedVeths are the host's ends of the containers' interfaces.
func attachedVeths(nh *netlink.Handle) ([]*netlink.LinkAttrs, error) {
	links, err := dump(nh.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []*netlink.LinkAttrs
	for _, l := range links {
		if a := l.Attrs(); isVethName(a.Name) && a.Alias != "" && VethName(a.Alias) == a.Name {
			out = append(out, a)
		}
	}
	return out, nil
}

// peerAddrs returns the IPv4 addresses of the other end of a veth pair, in whatever
// namespace it is: the kernel has a number for that one here, and answers for it
// (since Linux 4.20; a dump that asks for more than the kernel knows of is only
// refused if the socket is strict).
func peerAddrs(outer *netlink.LinkAttrs) ([]netip.Prefix, error) {
	s, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("ask for strict checks (Linux 4.20 or later): %w", err)
	}
	messages, err := dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
		which := nl.NewIfAddrmsg(netlink.FAMILY_V4)
		which.Index = uint32(outer.ParentIndex)
		req.AddData(which)
		if outer.NetNsID >= 0 { // else the other end is here
			req.AddData(nl.NewRtAttr(unix.IFA_TARGET_NETNSID, nl.Uint32Attr(uint32(outer.NetNsID))))
		}
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, m := range messages {
		about := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttr(m[about.Len():])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if ip, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.IFA_LOCAL {
				out = append(out, netip.PrefixFrom(ip, int(about.Prefixlen)))
			}
		}
	}
	return out, nil
}

// ContainerAddrs returns the addresses that the interface ethwe of a namespace
// really has, each with its subnet's length; none if there is no such interface
// or it is not the one of the container with that key.
func (h *Host) ContainerAddrs(netNS, key string) ([]netip.Prefix, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	s, err := openSandbox(netNS)
	if err != nil {
		return nil, err
	}
	defer s.close()
	outer, err := findLink(nl, VethName(key))
	if err != nil {
		return nil, err
	}
	inner, err := findLink(s.nl, containerLink)
	if err != nil || inner == nil || !isPair(outer, inner) {
		return nil, err
	}
	as, err := s.nl.AddrList(inner, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s in %s: %w", containerLink, netNS, err)
	}
	var out []netip.Prefix
	for _, a := range as {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		bits, _ := a.Mask.Size()
		if ok {
			out = append(out, netip.PrefixFrom(ip, bits))
		}
	}
	return out, nil
}
