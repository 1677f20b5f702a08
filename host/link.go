package host

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dump repeats a netlink dump that the kernel says was torn by a change.
func dump[T any](f func() ([]T, error)) ([]T, error) {
	for range 9 {
		if list, err := f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return f()
}

// findLink returns nil without an error when there is no such link.
func findLink(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := nl.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l, nil
}

func deleteLink(nl *netlink.Handle, name string) error {
	l, err := findLink(nl, name)
	if l == nil || err != nil {
		return err
	}
	if err := nl.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// setBridge makes the bridge with its address, and its sysctls.
func (h *Host) setBridge(nl *netlink.Handle, c Config) error {
	l, err := findLink(nl, h.bridge)
	if err != nil {
		return err
	}
	if l == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = h.bridge
		// A bridge without an address of its own takes the lowest of its
		// ports': the containers' neighbour entry for the next hop would go
		// stale whenever one comes or goes.
		attrs.HardwareAddr = bridgeMAC(c.Control)
		if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add bridge %s: %w", h.bridge, err)
		}
		if l, err = nl.LinkByName(h.bridge); err != nil {
			return fmt.Errorf("look up bridge %s: %w", h.bridge, err)
		}
		h.log.Info("bridge made", "name", h.bridge)
	}
	if _, ok := l.(*netlink.Bridge); !ok {
		return fmt.Errorf("interface %s is a %s, not a bridge: somebody else uses the name", h.bridge, l.Type())
	}
	errs := []error{
		setMTU(nl, l, c.MTU),
		setSysctl("ipv4/conf/all/send_redirects", "0"), // or-ed with the interface's own
		setSysctls(h.bridge,
			"ipv6/conf/LINK/disable_ipv6 1",
			// Not net.ipv4.ip_forward, which would make the host a router for its LAN.
			"ipv4/conf/LINK/forwarding 1",
			"ipv4/conf/LINK/send_redirects 0",
			"ipv4/conf/LINK/accept_redirects 0",
			"ipv4/conf/LINK/rp_filter 1",
			"ipv4/conf/LINK/arp_ignore 1"), // the host's other addresses are nobody's business there
		setAddrs(nl, l, netlink.FAMILY_V4, []wantedAddr{{netip.PrefixFrom(Gateway, 32), netlink.SCOPE_LINK, 0}}),
		setUp(nl, l),
	}
	return errors.Join(errs...)
}

// setPorts puts the containers' ends into the bridge.
func (h *Host) setPorts(nl *netlink.Handle, c Config) error {
	br, err := findLink(nl, h.bridge)
	if br == nil || err != nil {
		return err // reported by setBridge
	}
	var errs []error
	for _, local := range c.Local {
		l, err := findLink(nl, local.Veth)
		if err != nil {
			errs = append(errs, err)
		} else if l != nil {
			errs = append(errs, setPort(nl, l, br))
		}
	}
	return errors.Join(errs...)
}

func setPort(nl *netlink.Handle, l, br netlink.Link) error {
	if l.Attrs().MasterIndex != br.Attrs().Index {
		if err := nl.LinkSetMaster(l, br); err != nil {
			return ignoreGone(fmt.Errorf("put %s into bridge %s: %w", l.Attrs().Name, br.Attrs().Name, err))
		}
	}
	return ignoreGone(setUp(nl, l))
}

// ignoreGone forgives a container that died meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// setTunnel brings the tunnel's interface up with the control address, and says
// whether it is there.
func (h *Host) setTunnel(nl *netlink.Handle, c Config) (up bool, err error) {
	l, err := findLink(nl, h.tunnel)
	if l == nil || err != nil {
		return false, err
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/" + h.tunnel); errors.Is(err, fs.ErrNotExist) {
		return false, &noIPv6Error{h.tunnel}
	}
	mtu, _ := c.tunnelMTU()
	errs := []error{
		setMTU(nl, l, mtu), // first: at an MTU below 1,280 there is no IPv6 to set
		setSysctls(h.tunnel,
			"ipv6/conf/LINK/disable_ipv6 0",
			"ipv6/conf/LINK/accept_ra 0",
			"ipv6/conf/LINK/autoconf 0",
			"ipv6/conf/LINK/addr_gen_mode 1", // no link-local address: it would talk into the tunnel
			"ipv4/conf/LINK/forwarding 1",
			"ipv4/conf/LINK/accept_redirects 0",
			"ipv4/conf/LINK/rp_filter 1"),
		setUp(nl, l),
		setAddrs(nl, l, netlink.FAMILY_V6, []wantedAddr{{netip.PrefixFrom(c.Control, 128), netlink.SCOPE_UNIVERSE,
			unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}}),
	}
	return true, errors.Join(errs...)
}

func setUp(nl *netlink.Handle, l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

func setMTU(nl *netlink.Handle, l netlink.Link, mtu int) error {
	if mtu == 0 || l.Attrs().MTU == mtu {
		return nil
	}
	if err := nl.LinkSetMTU(l, mtu); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", mtu, l.Attrs().Name, err)
	}
	return nil
}

type wantedAddr struct {
	prefix netip.Prefix
	scope  netlink.Scope
	flags  int
}

// setAddrs makes the addresses of one family match; it adds before it deletes.
// IPv6 link-local addresses are left alone.
func setAddrs(nl *netlink.Handle, l netlink.Link, family int, want []wantedAddr) error {
	have, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(l, family) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	var errs []error
	for _, w := range want {
		same := func(a netlink.Addr) bool {
			return prefixOf(a.IPNet) == w.prefix && a.Scope == int(w.scope) && a.Flags&w.flags == w.flags
		}
		if slices.ContainsFunc(have, same) {
			continue
		}
		a := netlink.Addr{IPNet: ipNet(w.prefix), Scope: int(w.scope), Flags: w.flags}
		if err := nl.AddrReplace(l, &a); err != nil {
			errs = append(errs, fmt.Errorf("add address %v to %s: %w", w.prefix, l.Attrs().Name, err))
		}
	}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		wanted := slices.ContainsFunc(want, func(w wantedAddr) bool { return w.prefix == p })
		if wanted || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := nl.AddrDel(l, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("delete address %v of %s: %w", p, l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// bridgeMAC derives the bridge's MAC from the control address: the same after it
// is made anew, and no other host's. The first byte says locally administered.
func bridgeMAC(control netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256([]byte("weft bridge " + control.String()))
	return append(net.HardwareAddr{0x0e}, sum[:5]...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the zero prefix for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
