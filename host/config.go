package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Config is the whole wanted state of a host's network.
type Config struct {
	Control       netip.Addr   // this host's control address, IPv6
	ControlPrefix netip.Prefix // all hosts' control addresses
	GossipPort    int          // UDP and TCP, on the control address
	JoinPort      int          // TCP, on the control address; the underlay's own firewall is not opened
	ListenPort    int          // WireGuard's UDP port; never reached through a tunnel
	// MTU of the tunnel's interface and of the bridge, in bytes; 0 leaves them
	// as they are. The interface never goes below 1,280, where Linux drops
	// its IPv6 addresses: then the covered routes carry the smaller MTU.
	MTU int
	// Covered is the range, and the subnets in use outside it: each has a
	// route to the tunnel and an unreachable one behind it. IPv4.
	Covered []netip.Prefix
	Local   []Local          // the attached containers
	DNS     []netip.AddrPort // where DNS listens for containers
}

// Local is an attached container.
type Local struct {
	Veth  string         // VethName of its key; need not exist yet
	Addrs []netip.Prefix // its addresses, each with its subnet's length
}

const (
	minTunnelMTU = 1280 // RFC 8200 section 5; below it Linux takes IPv6 off the interface
	minMTU       = 576  // RFC 791: every IPv4 path carries this much
	maxMTU       = 65535
)

// validate reports all that is wrong at once.
func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !c.ControlPrefix.IsValid() || !c.ControlPrefix.Addr().Is6() || !c.ControlPrefix.Contains(c.Control) {
		bad("control address %v is not in %v", c.Control, c.ControlPrefix)
	} else if c.ControlPrefix.Bits()%8 != 0 || c.ControlPrefix.Bits() == 0 || c.ControlPrefix != c.ControlPrefix.Masked() {
		bad("control prefix %v: want whole bytes without host bits", c.ControlPrefix)
	}
	for _, p := range []int{c.GossipPort, c.JoinPort, c.ListenPort} {
		if p < 1 || p > 65535 {
			bad("port %d: want 1 to 65535", p)
		}
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		bad("MTU %d: want %d to %d", c.MTU, minMTU, maxMTU)
	}
	for _, p := range c.Covered {
		if err := CheckAddr(p); err != nil || p != p.Masked() {
			bad("covered prefix %v: want an IPv4 network without host bits, not link-local", p)
		}
	}
	seen := map[string]bool{}
	for _, l := range c.Local {
		if !isVethName(l.Veth) || seen[l.Veth] {
			bad("container interface %q: not a VethName, or twice", l.Veth)
		}
		seen[l.Veth] = true
		errs = append(errs, validAddrs(l.Addrs))
	}
	for _, d := range c.DNS {
		if !d.IsValid() || d.Port() == 0 {
			bad("DNS address %v: want an address and a port", d)
		}
	}
	return errors.Join(errs...)
}

// validAddrs checks the addresses of a container.
func validAddrs(addrs []netip.Prefix) error {
	var errs []error
	for _, a := range addrs {
		if err := CheckAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("container address %v: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// CheckAddr says why a container can not have an address with its subnet's length, or why a
// prefix can not be covered: Set refuses the whole of a Config that has it.
func CheckAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid() || !a.Is4():
		return errors.New("not an IPv4 prefix")
	case p.Bits() == 0:
		return errors.New("is everything")
	case a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.As4()[0] >= 240:
		return errors.New("not a unicast prefix")
	case p.Overlaps(netip.PrefixFrom(Gateway, 16).Masked()):
		return errors.New("link-local addresses are not for containers")
	}
	return nil
}

// tunnelMTU is the MTU of the tunnel's interface (0: leave it) and the smaller one
// of the covered routes (0: none needed).
func (c *Config) tunnelMTU() (link, route int) {
	if c.MTU != 0 && c.MTU < minTunnelMTU {
		return minTunnelMTU, c.MTU
	}
	return c.MTU, 0
}

// merged returns the prefixes without those that lie in another, sorted.
func merged(ps []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, len(ps))
	for i, p := range ps {
		all[i] = p.Masked()
	}
	slices.SortFunc(all, netip.Prefix.Compare) // a wider prefix before its parts
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
	}
	return out
}
