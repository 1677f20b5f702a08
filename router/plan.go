package router

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weft/host"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// keepalive holds the mappings of NATs and firewalls on the way (RFC 4787
// wants two minutes for UDP, devices in the field keep 30 s).
const keepalive = 25 * time.Second

// inputs is everything that the host's wanted state depends on. It is a plain
// value: makePlan is a pure function of it.
type inputs struct {
	Self    peer.ID
	Key     peer.Key // of this host's own device
	MeshID  mesh.MeshID
	Hosts   []mesh.Host
	Gone    map[peer.ID]bool // of Hosts: reset, no tunnel is kept for them
	Ring    *ipam.Ring       // nil without IPAM or before the ring is known
	Range   netip.Prefix
	Port    int
	Gossip  int
	MTU     int
	PSK     func(peer.Key) peer.Key
	Claims  []hostClaim
	Local   []*attachment
	DNS     []netip.AddrPort
	Observe func(peer.ID) []netip.AddrPort // endpoints learnt here, tried after the announced ones
	Holds   func(peer.Key, peer.ID) bool   // the key is that host's already
}

// hostClaim is an address outside the range that a host announced.
type hostClaim struct {
	Addr netip.Prefix
	Host peer.ID
}

// plannedPeer is the wanted WireGuard peer and the endpoints to try for it.
type plannedPeer struct {
	ID     peer.ID
	Config peer.Config // Endpoint is chosen when it is applied
	Try    []netip.AddrPort
	Device uint64 // the peer's device generation, 0: not told
}

// plan is the whole wanted state of the host.
type plan struct {
	Peers []plannedPeer // sorted by host; no two have one key
	Host  host.Config
	// Reverse are the ranges whose PTR questions are answered here.
	Reverse []netip.Prefix
	// ClaimConflicts are addresses that more than one host claims.
	ClaimConflicts []string
	// KeyDisputes are hosts that name a key which is another's, and have no tunnel.
	KeyDisputes []keyDispute
}

// makePlan turns state into the wanted host. Its outputs are sorted, so that
// equal states give equal plans.
func makePlan(in inputs) plan {
	var p plan
	prefix := peer.ControlPrefix(in.MeshID.Control())
	// The ring alone decides about addresses of the range: a claim inside it
	// would let a member take another's address.
	claims := slices.DeleteFunc(slices.Clone(in.Claims), func(c hostClaim) bool {
		return in.Range.IsValid() && in.Range.Contains(c.Addr.Addr()) || prefix.Contains(c.Addr.Addr())
	})
	owner, conflicts := resolveClaims(claims)
	p.ClaimConflicts = conflicts

	hosts := slices.DeleteFunc(slices.Clone(in.Hosts), func(h mesh.Host) bool {
		return h.Self || in.Gone[h.ID] || h.Record.WireGuard.IsZero()
	})
	whose, disputes := keyOwners(hosts, in.Self, in.Key, in.Holds)
	p.KeyDisputes = disputes
	for _, h := range hosts {
		if whose[h.Record.WireGuard] != h.ID {
			continue
		}
		allowed := []netip.Prefix{host128(peer.ControlAddr(in.MeshID.Control(), h.ID))}
		if in.Ring != nil {
			allowed = append(allowed, in.Ring.Owned(ipam.Owner(h.ID))...)
		}
		for addr, id := range owner {
			if id == h.ID {
				allowed = append(allowed, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
		slices.SortFunc(allowed, comparePrefix)
		p.Peers = append(p.Peers, plannedPeer{
			ID: h.ID, Device: h.Record.Device(),
			Config: peer.Config{PublicKey: h.Record.WireGuard, PresharedKey: in.PSK(h.Record.WireGuard),
				AllowedIPs: slices.Compact(allowed), Keepalive: keepalive},
			Try: usableEndpoints(append(slices.Clone(h.Record.Endpoints), in.Observe(h.ID)...), prefix, in.Range),
		})
	}
	slices.SortFunc(p.Peers, func(a, b plannedPeer) int { return a.ID.Compare(b.ID) })

	p.Host = host.Config{
		Control:       peer.ControlAddr(in.MeshID.Control(), in.Self),
		ControlPrefix: prefix,
		GossipPort:    in.Gossip, JoinPort: in.Port, ListenPort: in.Port,
		MTU: in.MTU, DNS: in.DNS,
	}
	if in.Range.IsValid() {
		p.Host.Covered = append(p.Host.Covered, in.Range)
	}
	// Only subnets that containers here use get a route: one that only others
	// announce must not be able to draw this host's own traffic away.
	for _, a := range in.Local {
		for _, addr := range a.Addrs {
			if subnet := addr.Masked(); !in.Range.IsValid() || subnet.Bits() < in.Range.Bits() || !in.Range.Contains(subnet.Addr()) {
				p.Host.Covered = append(p.Host.Covered, addr.Masked())
			}
		}
		if a.running {
			addrs := slices.SortedFunc(slices.Values(a.Addrs), comparePrefix)
			p.Host.Local = append(p.Host.Local, host.Local{Veth: host.VethName(a.Key), Addrs: addrs})
		}
	}
	p.Host.Covered = dropCovered(p.Host.Covered)
	p.Reverse = p.Host.Covered
	slices.SortFunc(p.Host.Local, func(a, b host.Local) int { return cmp.Compare(a.Veth, b.Veth) })
	return p
}

// resolveClaims says whose each claimed address is: the lowest peer ID has it,
// and everybody shows the conflict.
func resolveClaims(claims []hostClaim) (map[netip.Addr]peer.ID, []string) {
	owner := map[netip.Addr]peer.ID{}
	var conflicts []string
	for _, c := range claims {
		have, taken := owner[c.Addr.Addr()]
		if taken && have != c.Host {
			conflicts = append(conflicts, c.Addr.Addr().String()+" is claimed by "+have.String()+" and by "+c.Host.String())
		}
		if !taken || c.Host.Compare(have) < 0 {
			owner[c.Addr.Addr()] = c.Host
		}
	}
	slices.Sort(conflicts)
	return owner, slices.Compact(conflicts)
}

// usableEndpoints drops endpoints inside the mesh's own prefixes: a tunnel in
// itself carries nothing and eats the CPU.
func usableEndpoints(es []netip.AddrPort, control, whole netip.Prefix) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range es {
		if !e.IsValid() || control.Contains(e.Addr()) || whole.IsValid() && whole.Contains(e.Addr().Unmap()) || slices.Contains(out, e) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// dropCovered sorts prefixes and drops those inside another.
func dropCovered(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var out []netip.Prefix
	for _, p := range ps {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func host128(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
