package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is what a container's interface is to be.
type Port struct {
	NetNS     string         // path of its network namespace
	Key       string         // identifies the container; names its veth, decides its MAC
	Addrs     []netip.Prefix // all its addresses, each with its subnet's length
	MTU       int            // bytes, 576 to 65,535; 0: 1,420
	Multicast bool           // route 224.0.0.0/4 to the mesh
	DNS       []netip.Addr   // this host's name servers: routed to it where the namespace has no other way there
}

const defaultPortMTU = 1420

// VethName is the host's end of the veth pair of the container with that key:
// "vwe" and 40 bits of the key's SHA-256 in hex.
func VethName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return vethPrefix + hex.EncodeToString(sum[:5])
}

func isVethName(name string) bool {
	rest, ok := strings.CutPrefix(name, vethPrefix)
	_, err := hex.DecodeString(rest)
	return ok && err == nil && len(rest) == 10
}

// containerMAC follows from the veth's name, so from the key: a container keeps
// its MAC, and the firewall knows it from Config alone.
func containerMAC(veth string) net.HardwareAddr {
	mac := net.HardwareAddr{0x0a, 0, 0, 0, 0, 0} // locally administered; the bridge has 0x0e
	b, err := hex.DecodeString(strings.TrimPrefix(veth, vethPrefix))
	if err == nil {
		copy(mac[1:], b)
	}
	return mac
}

func (p Port) validate() error {
	var errs []error
	if p.Key == "" {
		errs = append(errs, errors.New("container without a key"))
	}
	if p.MTU != 0 && (p.MTU < minMTU || p.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("MTU %d: want %d to %d", p.MTU, minMTU, maxMTU))
	}
	return errors.Join(append(errs, validAddrs(p.Addrs))...)
}

// Attach makes the interface ethwe in the container's network namespace match p,
// and returns its MAC. Repeatable: what is right already is not touched. A
// container that comes back in another namespace with the same key gets a new
// pair with the same MAC. Packets flow when a Set has the container in
// Config.Local; it may come before or after.
func (h *Host) Attach(p Port) (mac string, err error) {
	if err := p.validate(); err != nil {
		return "", err
	}
	if len(p.Addrs) == 0 {
		return "", errors.New("attach: no address given")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	nl, err := openNetlink()
	if err != nil {
		return "", err
	}
	defer nl.Close()
	s, err := openSandbox(p.NetNS)
	if err != nil {
		return "", err
	}
	defer s.close()
	br, err := findLink(nl, h.bridge)
	if err != nil {
		return "", err
	}
	if br == nil {
		return "", fmt.Errorf("put container into bridge %s: no such interface", h.bridge)
	}
	outer, inner, err := h.pair(nl, s, p)
	if err != nil {
		return "", err
	}
	name := VethName(p.Key)
	if outer.Attrs().Alias != p.Key { // see Attached
		if err := nl.LinkSetAlias(outer, p.Key); err != nil {
			return "", fmt.Errorf("write the container's key to %s: %w", name, err)
		}
	}
	// Before it comes up: the kernel would send multicast listener reports and
	// router solicitations as soon as it is.
	err = errors.Join(
		setSysctls(name, "ipv6/conf/LINK/disable_ipv6 1"),
		setMTU(nl, outer, p.mtu()),
		setPort(nl, outer, br),
		s.configure(inner, p))
	if err != nil {
		return "", fmt.Errorf("attach %s: %w", name, err)
	}
	return containerMAC(name).String(), nil
}

func (p Port) mtu() int {
	if p.MTU == 0 {
		return defaultPortMTU
	}
	return p.MTU
}

// pair finds the container's veth pair, or makes it.
func (h *Host) pair(nl *netlink.Handle, s *sandbox, p Port) (outer, inner netlink.Link, err error) {
	name := VethName(p.Key)
	if outer, err = findLink(nl, name); err != nil {
		return nil, nil, err
	}
	if inner, err = findLink(s.nl, containerLink); err != nil {
		return nil, nil, err
	}
	if isPair(outer, inner) {
		return outer, inner, nil
	}
	if inner != nil {
		return nil, nil, h.taken(nl, inner, p)
	}
	if outer != nil { // its other end is in a namespace that ends, or has been renamed
		if err := deleteLink(nl, name); err != nil {
			return nil, nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, p.mtu()
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr = containerLink, containerMAC(name)
	veth.PeerNamespace, veth.PeerMTU = netlink.NsFd(int(s.ns)), uint32(p.mtu())
	if err := nl.LinkAdd(veth); err != nil {
		return nil, nil, fmt.Errorf("add veth pair %s and %s: %w", name, containerLink, err)
	}
	h.log.Debug("veth pair made", "name", name)
	if outer, err = nl.LinkByName(name); err != nil {
		return nil, nil, fmt.Errorf("look up %s: %w", name, err)
	}
	if inner, err = s.nl.LinkByName(containerLink); err != nil {
		return nil, nil, fmt.Errorf("look up %s: %w", containerLink, err)
	}
	return outer, inner, nil
}

// TakenError says that a namespace has an interface ethwe that is not of this attachment.
type TakenError struct {
	NetNS string
	By    string // the key of the container that it was made for; empty: not ours
}

func (e *TakenError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("interface %s exists in %s and is not weft's", containerLink, e.NetNS)
	}
	return fmt.Sprintf("%s is attached already, as %s", e.NetNS, e.By)
}

// Hint is what to type.
func (e *TakenError) Hint() string {
	if e.By == "" {
		return "remove or rename that interface"
	}
	return "weft detach " + e.By
}

func (h *Host) taken(nl *netlink.Handle, inner netlink.Link, p Port) error {
	e := &TakenError{NetNS: p.NetNS}
	if outer, err := nl.LinkByIndex(inner.Attrs().ParentIndex); err == nil && isPair(outer, inner) {
		if by := outer.Attrs().Alias; VethName(by) == outer.Attrs().Name {
			e.By = by
		}
	}
	return e
}

// isPair: both ends are there and each names the other.
func isPair(outer, inner netlink.Link) bool {
	if outer == nil || inner == nil || outer.Type() != "veth" || inner.Type() != "veth" {
		return false
	}
	o, i := outer.Attrs(), inner.Attrs()
	return o.ParentIndex == i.Index && i.ParentIndex == o.Index
}

// configure sets addresses and routes inside.
func (s *sandbox) configure(inner netlink.Link, p Port) error {
	err := s.run(func() error {
		return setSysctls(containerLink,
			"ipv6/conf/LINK/disable_ipv6 1",
			// ARP for the next hop must come from an address of this
			// interface, whatever the packet's source: the bridge drops others.
			"ipv4/conf/LINK/arp_announce 2",
			// Without it the kernel drops a subnet's other addresses with the first.
			"ipv4/conf/LINK/promote_secondaries 1")
	})
	if err != nil {
		return err
	}
	var want []wantedAddr
	for _, a := range p.Addrs {
		want = append(want, wantedAddr{a, netlink.SCOPE_UNIVERSE, unix.IFA_F_NOPREFIXROUTE})
	}
	errs := []error{setMTU(s.nl, inner, p.mtu())}
	if mac := containerMAC(VethName(p.Key)); inner.Attrs().HardwareAddr.String() != mac.String() {
		if err := s.nl.LinkSetHardwareAddr(inner, mac); err != nil {
			errs = append(errs, fmt.Errorf("set MAC %v of %s: %w", mac, containerLink, err))
		}
	}
	// Up before the addresses: a subnet's broadcast route comes with an address only on
	// an interface that is up, or when that comes up; either way routes need it up.
	errs = append(errs, setUp(s.nl, inner), setAddrs(s.nl, inner, netlink.FAMILY_V4, want))
	servers, err := s.outOfReach(p.DNS)
	errs = append(errs, err, setRoutes(s.nl, containerRoutes(p.Addrs, servers, p.Multicast), allRoutes))
	return errors.Join(errs...)
}

// Detach leaves the container with p.Addrs; without any, its interface goes, and
// then p.NetNS may be anything. Repeatable; a container that is gone is no error.
func (h *Host) Detach(p Port) error {
	if err := p.validate(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	if len(p.Addrs) == 0 {
		return deleteLink(nl, VethName(p.Key))
	}
	outer, err := findLink(nl, VethName(p.Key))
	if outer == nil || err != nil {
		return err
	}
	s, err := openSandbox(p.NetNS)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.close()
	inner, err := findLink(s.nl, containerLink)
	if err != nil || !isPair(outer, inner) {
		return err
	}
	if err := s.configure(inner, p); err != nil && !isGone(err) {
		return fmt.Errorf("detach from %s: %w", VethName(p.Key), err)
	}
	return nil
}
