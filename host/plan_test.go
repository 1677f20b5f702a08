package host

import (
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

var update = flag.Bool("update", false, "rewrite testdata from what the code says")

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// planConfig has something of everything.
func planConfig() Config {
	return Config{
		Control: testControl, ControlPrefix: testPrefix, GossipPort: 7946, JoinPort: 6783, ListenPort: 6784, MTU: 1420,
		Covered: prefixes("10.32.0.0/12", "10.33.0.0/16", "192.168.77.0/24"),
		DNS:     []netip.AddrPort{netip.MustParseAddrPort("172.17.0.1:53"), netip.AddrPortFrom(Gateway, 53)},
		Local: []Local{
			{"vwe0000000001", prefixes("10.32.0.1/12", "192.168.77.1/24")},
			{"vwe0000000002", prefixes("10.32.0.2/12", "10.32.0.2/24", "10.32.0.3/32")},
		},
	}
}

func TestRoutePlan(t *testing.T) {
	c := planConfig()
	base := c.routes("weft", "weftwg", true)
	lines := func(have, want []route) string {
		var b strings.Builder
		for _, l := range planRoutes(have, want) {
			b.WriteString(l.String() + "\n")
		}
		return b.String()
	}
	small := c
	small.MTU = 1250
	fewer := c
	fewer.Local = c.Local[:1]
	fewer.Covered = c.Covered[:1]
	for name, test := range map[string]struct {
		have, want []route
		plan       string
	}{
		"first": {nil, base, `add unreachable fd57:4e1f:aa01::/48 proto 87 metric 4000000
add unreachable 10.32.0.0/12 proto 87 metric 4000000
add unreachable 192.168.77.0/24 proto 87 metric 4000000
add fd57:4e1f:aa01::/48 dev weftwg proto 87 metric 1024
add 10.32.0.0/12 dev weftwg proto 87 scope link
add 192.168.77.0/24 dev weftwg proto 87 scope link
add 10.32.0.1 dev weft proto 87 scope link src 169.254.53.1
add 192.168.77.1 dev weft proto 87 scope link src 169.254.53.1
add 10.32.0.2 dev weft proto 87 scope link src 169.254.53.1
add 10.32.0.3 dev weft proto 87 scope link src 169.254.53.1
`},
		"again": {base, base, ""},
		"tunnel gone": {base, c.routes("weft", "weftwg", false), `delete fd57:4e1f:aa01::/48 dev weftwg proto 87 metric 1024
delete 10.32.0.0/12 dev weftwg proto 87 scope link
delete 192.168.77.0/24 dev weftwg proto 87 scope link
`},
		"smaller underlay": {base, small.routes("weft", "weftwg", true), `replace 10.32.0.0/12 dev weftwg proto 87 scope link mtu 1250
replace 192.168.77.0/24 dev weftwg proto 87 scope link mtu 1250
`},
		"container and subnet gone": {base, fewer.routes("weft", "weftwg", true), `delete unreachable 192.168.77.0/24 proto 87 metric 4000000
delete 192.168.77.0/24 dev weftwg proto 87 scope link
delete 10.32.0.2 dev weft proto 87 scope link src 169.254.53.1
delete 10.32.0.3 dev weft proto 87 scope link src 169.254.53.1
`},
		"inside a container": {nil, containerRoutes(prefixes("10.32.0.1/12", "10.32.0.2/12", "192.168.77.1/24", "10.99.0.1/32"), []netip.Addr{netip.MustParseAddr("172.17.0.1")}, true),
			`add 169.254.53.1 dev ethwe proto 87 scope link
add 10.32.0.0/12 via 169.254.53.1 dev ethwe proto 87 src 10.32.0.1 onlink
add 192.168.77.0/24 via 169.254.53.1 dev ethwe proto 87 src 192.168.77.1 onlink
add 172.17.0.1 via 169.254.53.1 dev ethwe proto 87 src 10.32.0.1 onlink
add 224.0.0.0/4 dev ethwe proto 87 scope link
`},
		"first address of two gone": {containerRoutes(prefixes("10.32.0.1/12", "10.32.0.2/12"), nil, false), containerRoutes(prefixes("10.32.0.2/12"), nil, false),
			"replace 10.32.0.0/12 via 169.254.53.1 dev ethwe proto 87 src 10.32.0.2 onlink\n"},
	} {
		if d := cmp.Diff(test.plan, lines(test.have, test.want)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestRulesetText keeps testdata/ruleset.nft, for people to read, and checks it
// against what the kernel was given, as nft(8) sees that.
func TestRulesetText(t *testing.T) {
	const file = "testdata/ruleset.nft"
	c := planConfig()
	bridgeOnly := []door{{"weft", netip.AddrPortFrom(Gateway, 53)}} // there is no docker0
	got := c.inetTable("weft", "weftwg", bridgeOnly).String() + c.bridgeTable().String()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("(-%s +code):\n%s", file, d)
	}
	h := newTestHost(t)
	h.c = c
	h.set()
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	listed := h.run("nft", "list", "table", "inet", "weft") + h.run("nft", "list", "table", "bridge", "weft")
	if words(listed) != words(got) {
		t.Errorf("nft lists it differently (-code +nft):\n%s", cmp.Diff(got, listed))
	}
}

// asKernel is a table as the kernel would have it.
func asKernel(t table) kernelTable {
	k := kernelTable{exists: true, chains: map[string]kernelChain{}, sets: map[string]kernelSet{}}
	for _, c := range t.chains {
		k.chains[c.name] = kernelChain{baseOf(c.hook, &c.priority), ruleKeys(t.family, c.rules)}
	}
	for _, s := range t.sets {
		ks := kernelSet{defOf(s.keyType(), s.interval), map[string]nftables.SetElement{}}
		for _, e := range s.elements {
			for _, raw := range s.raw(e) {
				ks.elements[elementKey(raw)] = raw
			}
		}
		k.sets[s.name] = ks
	}
	return k
}

func TestTablePlan(t *testing.T) {
	c := planConfig()
	doors := c.doors("weft", map[netip.Addr]string{netip.MustParseAddr("172.17.0.1"): "docker0"})
	now := c.inetTable("weft", "weftwg", doors)
	less, dns := c, c
	less.Local = append([]Local{{"vwe0000000003", prefixes("10.32.0.9/24")}}, c.Local[:1]...)
	dns.DNS = c.DNS[1:]
	foreign := asKernel(now)
	foreign.chains["extra"] = kernelChain{}
	reshaped := asKernel(now)
	reshaped.chains["input"] = kernelChain{base: "hook 1 priority 0"}
	whole := `delete table inet weft
add table inet weft
add set inet weft local
add set inet weft mesh
add element inet weft local { 10.32.0.1 . 10.32.0.0/12 }
add element inet weft local { 10.32.0.2 . 10.32.0.0/12 }
add element inet weft local { 10.32.0.3 . 10.32.0.3 }
add element inet weft local { 192.168.77.1 . 192.168.77.0/24 }
add element inet weft mesh { 10.32.0.0/12 }
add element inet weft mesh { 192.168.77.0/24 }
write chain inet weft prerouting (8 rules)
write chain inet weft answers (6 rules)
write chain inet weft forward (8 rules)
write chain inet weft from-container (4 rules)
write chain inet weft from-tunnel (2 rules)
write chain inet weft input (8 rules)
write chain inet weft container-to-host (7 rules)
write chain inet weft tunnel-to-host (6 rules)
write chain inet weft output (9 rules)
write chain inet weft host-to-container (9 rules)
`
	for name, test := range map[string]struct {
		want table
		have kernelTable
		plan string
	}{
		"again": {now, asKernel(now), ""},
		"first": {now, kernelTable{}, strings.TrimPrefix(whole, "delete table inet weft\n")},
		"containers come and go": {less.inetTable("weft", "weftwg", doors), asKernel(now), `add element inet weft local { 10.32.0.9 . 10.32.0.0/24 }
delete element inet weft local (2 values)
`},
		"DNS leaves docker0": {dns.inetTable("weft", "weftwg", dns.doors("weft", nil)), asKernel(now), `write chain inet weft prerouting (4 rules)
write chain inet weft answers (2 rules)
write chain inet weft container-to-host (5 rules)
write chain inet weft host-to-container (6 rules)
`},
		"another firewall judges": {c.inetTable("weft", "weftwg", nil), asKernel(now), `write chain inet weft prerouting (2 rules)
write chain inet weft answers (0 rules)
`},
		"a chain that is not ours":  {now, foreign, whole},
		"a chain at another hook":   {now, reshaped, whole},
		"an empty table of our own": {now, kernelTable{exists: true}, strings.TrimPrefix(whole, "delete table inet weft\nadd table inet weft\n")},
	} {
		if d := cmp.Diff(test.plan, planTable(test.want, test.have).String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	c := planConfig()
	if err := c.validate(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	c.Control = netip.MustParseAddr("fd00::1")
	c.GossipPort = 0
	c.MTU = 500
	c.Covered = prefixes("10.32.0.1/12", "169.254.0.0/16", "0.0.0.0/0", "fd00::/64")
	c.Local = []Local{{"eth0", nil}, {"vwe0000000001", prefixes("224.0.0.1/24")}, {"vwe0000000001", nil}}
	c.DNS = []netip.AddrPort{{}}
	err := c.validate()
	for _, want := range []string{"control address fd00::1", "port 0", "MTU 500", "10.32.0.1/12", "169.254.0.0/16", "0.0.0.0/0", "fd00::/64",
		`"eth0"`, "224.0.0.1/24", `"vwe0000000001"`, "DNS address"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("does not mention %q: %v", want, err)
		}
	}
	for _, o := range []Options{{Bridge: "br0"}, {WireGuard: "weft"}, {Bridge: "weft0123456789ab"}, {WireGuard: "weft/x"}} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v) takes it", o)
		}
	}
}
