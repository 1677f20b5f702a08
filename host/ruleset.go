package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// table is a wanted nftables table. String is what `nft list table` prints.
type table struct {
	family nftables.TableFamily
	sets   []set
	chains []chain
}

// tableName is the name of our tables in both families.
const tableName = "weft"

var familyNames = map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge"}

func (t table) name() string { return familyNames[t.family] + " " + tableName }

func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n", t.name())
	for _, s := range t.sets {
		b.WriteString(s.String())
		b.WriteByte('\n')
	}
	for i, c := range t.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "\t\ttype filter %s; policy accept;\n", c.text)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%v\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Names of sets.
const (
	setLocal   = "local"   // (container address, its subnet)
	setMesh    = "mesh"    // covered prefixes
	setSenders = "senders" // (port, MAC, address) of each container
	setPortNet = "portnet" // (port, subnet)
)

// Just before the filter tables of others, so that they never see (and log) what
// is dropped here.
const beforeFilter = -10

// inetTable is what routed packets pass, and those to and from the host itself. Of
// questions and answers at the doors in free conntrack is to know nothing.
func (c *Config) inetTable(bridge, tunnel string, free []door) table {
	fromMesh, toMesh := "mesh address from outside", "mesh address to outside"
	t := table{family: nftables.TableFamilyINet, sets: []set{c.localSet(), c.meshSet()}}
	// Neither NAT nor the conntrack table has to do with containers'
	// packets to each other; those to the host are not in the mesh.
	questions, answers := []rule{
		newRule("", iif(bridge), addrIn(saddr, setMesh), addrIn(daddr, setMesh), notrack),
		newRule("", iif(tunnel), addrIn(saddr, setMesh), addrIn(daddr, setMesh), notrack),
	}, []rule(nil)
	for _, d := range free {
		for _, proto := range []string{"udp", "tcp"} {
			questions = append(questions, newRule("", iif(d.link), addrIs(daddr, d.addr.Addr()), dport(proto, int(d.addr.Port())), notrack))
			answers = append(answers, newRule("", oif(d.link), addrIs(saddr, d.addr.Addr()), sport(proto, int(d.addr.Port())), notrack))
		}
	}
	t.chains = []chain{
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityRaw, text: "hook prerouting priority raw", rules: questions},
		{name: "answers", hook: nftables.ChainHookOutput, priority: *nftables.ChainPriorityRaw, text: "hook output priority raw", rules: answers},
		{name: "forward", hook: nftables.ChainHookForward, priority: beforeFilter, text: "hook forward priority filter - 10", rules: []rule{
			newRule("", iif(bridge), goTo("from-container")),
			newRule("", iif(tunnel), goTo("from-tunnel")),
			newRule("not from the mesh", oif(bridge), drop),
			newRule("not from the mesh", oif(tunnel), drop),
			newRule(fromMesh, addrIn(saddr, setMesh), drop),
			newRule(toMesh, addrIn(daddr, setMesh), drop),
			newRule(fromMesh, addr6In(saddr6, c.ControlPrefix), drop),
			newRule(toMesh, addr6In(daddr6, c.ControlPrefix), drop),
		}},
		{name: "from-container", rules: []rule{
			// With br_netfilter, bridged frames come by here too; table
			// bridge has judged them.
			newRule("bridged multicast", oif(bridge), notForUs(), accept),
			newRule("", oif(bridge), pairIn(saddr, daddr, setLocal), pairIn(daddr, saddr, setLocal), accept),
			newRule("", oif(tunnel), pairIn(saddr, daddr, setLocal), accept),
			newRule("other subnet, spoofed or to outside", drop),
		}},
		{name: "from-tunnel", rules: []rule{
			newRule("", oif(bridge), pairIn(daddr, saddr, setLocal), accept),
			newRule("not for a container here", drop),
		}},
		{name: "input", hook: nftables.ChainHookInput, priority: beforeFilter, text: "hook input priority filter - 10", rules: []rule{
			newRule("", iif("lo"), accept),
			newRule("", iif(bridge), goTo("container-to-host")),
			newRule("", iif(tunnel), goTo("tunnel-to-host")),
			newRule("only for containers", addrIs(daddr, Gateway), drop),
			newRule(fromMesh, addrIn(saddr, setMesh), drop),
			newRule(toMesh, addrIn(daddr, setMesh), drop),
			newRule(fromMesh, addr6In(saddr6, c.ControlPrefix), drop),
			newRule(toMesh, addr6In(daddr6, c.ControlPrefix), drop),
		}},
		{name: "container-to-host", rules: c.containerToHost()},
		{name: "tunnel-to-host", rules: []rule{
			newRule("", addr6In(saddr6, c.ControlPrefix), addrIs(daddr6, c.Control), established(), accept),
			newRule("gossip", addr6In(saddr6, c.ControlPrefix), addrIs(daddr6, c.Control), dport("udp", c.GossipPort), accept),
			newRule("gossip", addr6In(saddr6, c.ControlPrefix), addrIs(daddr6, c.Control), dport("tcp", c.GossipPort), accept),
			newRule("join", addr6In(saddr6, c.ControlPrefix), addrIs(daddr6, c.Control), dport("tcp", c.JoinPort), accept),
			newRule("", addr6In(saddr6, c.ControlPrefix), addrIs(daddr6, c.Control), icmp6Echo(), accept),
			newRule("no other service of the host", drop),
		}},
		{name: "output", hook: nftables.ChainHookOutput, priority: beforeFilter, text: "hook output priority filter - 10", rules: []rule{
			newRule("", oif("lo"), accept),
			newRule("", oif(bridge), goTo("host-to-container")),
			newRule("a tunnel in itself", oif(tunnel), dport("udp", c.ListenPort), drop),
			newRule("", oif(tunnel), addrIs(saddr6, c.Control), addr6In(daddr6, c.ControlPrefix), accept),
			newRule("the host is not in the mesh", oif(tunnel), drop),
			newRule(fromMesh, addrIn(saddr, setMesh), drop),
			newRule(toMesh, addrIn(daddr, setMesh), drop),
			newRule(fromMesh, addr6In(saddr6, c.ControlPrefix), drop),
			newRule(toMesh, addr6In(daddr6, c.ControlPrefix), drop),
		}},
		{name: "host-to-container", rules: c.hostToContainer()},
	}
	return t
}

// hostToContainer lets DNS and ping answer as who was asked, and the next hop
// say why it does not forward. What the host's own programs begin is dropped:
// any user of the host could reach every container otherwise.
func (c *Config) hostToContainer() []rule {
	rs := []rule{
		newRule("", addrIs(saddr, Gateway), established(), accept),
		newRule("", addrIs(saddr, Gateway), icmpError(3), accept),
		newRule("", addrIs(saddr, Gateway), icmpError(11), accept),
	}
	for _, d := range sortedDNS(c.DNS) {
		a := d.Addr()
		if !a.Is4() {
			continue
		}
		if a != Gateway {
			rs = append(rs, newRule("", addrIs(saddr, a), established(), accept))
		}
		if (door{addr: d}).reserved() { // conntrack may not know them
			rs = append(rs,
				newRule("DNS", addrIs(saddr, a), sport("udp", int(d.Port())), accept),
				newRule("DNS", addrIs(saddr, a), sport("tcp", int(d.Port())), accept))
		}
	}
	return append(rs, newRule("the host is not in the mesh", drop))
}

func (c *Config) containerToHost() []rule {
	rs := []rule{newRule("", established(), accept)}
	for _, d := range sortedDNS(c.DNS) {
		rs = append(rs,
			newRule("DNS", addrIs(addrOffset(d.Addr()), d.Addr()), dport("udp", int(d.Port())), accept),
			newRule("DNS", addrIs(addrOffset(d.Addr()), d.Addr()), dport("tcp", int(d.Port())), accept))
	}
	return append(rs,
		newRule("", addrIs(daddr, Gateway), icmpEcho(), accept),
		newRule("no other service of the host", drop))
}

func addrOffset(a netip.Addr) uint32 {
	if a.Is6() {
		return daddr6
	}
	return daddr
}

func sortedDNS(ds []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, len(ds))
	for i, d := range ds {
		out[i] = netip.AddrPortFrom(d.Addr().Unmap(), d.Port())
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// bridgeTable is what frames of containers' ports pass. The kernel's match on the
// bridge's name is a module of its own that may be missing; ports are known by
// the start of their names.
func (c *Config) bridgeTable() table {
	return table{family: nftables.TableFamilyBridge, sets: []set{c.senderSet(), c.portNetSet()}, chains: []chain{
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: -300, text: "hook prerouting priority dstnat", rules: []rule{
			newRule("", iifPrefix(vethPrefix), senderIn("arp", setSenders), accept),
			newRule("", iifPrefix(vethPrefix), senderIn("ip", setSenders), accept),
			newRule("spoofed, or neither ARP nor IPv4", iifPrefix(vethPrefix), drop),
		}},
		{name: "forward", hook: nftables.ChainHookForward, priority: -200, text: "hook forward priority filter", rules: []rule{
			newRule("", iifPrefix(vethPrefix), goTo("between-ports")),
			newRule("", oifPrefix(vethPrefix), goTo("between-ports")),
		}},
		{name: "between-ports", rules: []rule{
			newRule("unicast is routed", unicastFrame(), drop),
			newRule("multicast in the subnet", receiverIn(setPortNet), accept),
			newRule("ARP, or other subnet", drop),
		}},
	}}
}
