package host

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTwoContainersOfOneSubnet(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	a.echo(9)
	b.echo(9)
	if err := a.icmp("10.32.0.1", "10.32.0.2", patience); err != nil {
		t.Errorf("ping: %v", err)
	}
	a.reaches("10.32.0.2:9")
	b.reaches("10.32.0.1:9")
	// Bulk goes with the checksums unfinished and in segments of 64 KiB.
	b.sink(80)
	if err := a.pour("10.32.0.2:80", 8<<20); err != nil {
		t.Errorf("TCP: %v", err)
	}
	for _, want := range []string{"10.32.0.0/12 via 169.254.53.1 dev ethwe proto 87 src 10.32.0.1 onlink", "169.254.53.1 dev ethwe proto 87 scope link",
		"224.0.0.0/4 dev ethwe"} {
		if got := a.run("ip", "route"); !strings.Contains(got, want) {
			t.Errorf("routes of the container lack %q:\n%s", want, got)
		}
	}
	if got := a.run("ip", "-6", "addr", "show", "dev", "ethwe"); got != "" {
		t.Errorf("IPv6 in the container: %s", got)
	}
	if n := a.counter("Icmp", "InRedirects"); n != "0" {
		t.Errorf("container got %s redirects", n)
	}
}

func TestNothingIsBridged(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)
	a.reaches("10.32.0.2:9")
	a.run("ip", "route", "add", "10.32.0.2/32", "dev", "ethwe")
	if err := a.ask("", "10.32.0.2:9", moment); err == nil {
		t.Error("ARP passed between ports")
	}
	a.run("ip", "neigh", "replace", "10.32.0.2", "lladdr", containerMAC(VethName("b")).String(), "dev", "ethwe")
	if err := a.ask("", "10.32.0.2:9", moment); err == nil {
		t.Error("a unicast frame passed between ports")
	}
}

func TestSubnetsAreApart(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.1.1/24")
	b := h.container("b", "10.32.2.1/24")
	both := h.container("both", "10.32.1.2/24", "10.32.2.2/24")
	for _, c := range []*space{a, b, both} {
		c.echo(9)
	}
	a.reaches("10.32.1.2:9")
	b.reaches("10.32.2.2:9")
	both.reaches("10.32.1.1:9")
	both.reaches("10.32.2.1:9")
	a.run("ip", "route", "add", "10.32.2.0/24", "via", "169.254.53.1", "dev", "ethwe", "onlink")
	b.run("ip", "route", "add", "10.32.1.0/24", "via", "169.254.53.1", "dev", "ethwe", "onlink")
	a.misses("10.32.2.1:9")
	a.misses("10.32.2.2:9")
	b.misses("10.32.1.1:9")
}

func TestMulticastStaysInItsSubnet(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.1.1/24")
	same := h.container("same", "10.32.1.2/24")
	other := h.container("other", "10.32.2.1/24")
	for _, to := range []string{"239.1.2.3:98", "10.32.1.255:99"} {
		heard, silent := same.listen(to), other.listen(to)
		a.shout(to)
		if !heard(patience) {
			t.Errorf("%s did not cross to the same subnet", to)
		}
		if silent(moment) {
			t.Errorf("%s crossed to another subnet", to)
		}
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	h.container("c", "10.32.0.3/12")
	b.echo(9)
	a.reaches("10.32.0.2:9")
	heard := b.listen("0.0.0.0:99")
	for _, forged := range []string{"10.32.0.3", "10.32.9.9", "192.168.7.7"} {
		a.run("ip", "addr", "add", forged+"/32", "dev", "lo")
		a.send(forged, "10.32.0.2:99")
	}
	if heard(moment) {
		t.Error("a packet with a forged source arrived")
	}
	a.send("10.32.0.1", "10.32.0.2:99")
	if !heard(patience) {
		t.Error("the packet with the true source did not arrive")
	}
	a.run("ip", "link", "set", "ethwe", "address", containerMAC(VethName("c")).String())
	a.send("10.32.0.1", "10.32.0.2:99")
	if heard(moment) {
		t.Error("a frame with a forged MAC arrived")
	}
}

func TestRulesChangeUnderTraffic(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)
	forged := b.listen("0.0.0.0:99")
	a.run("ip", "addr", "add", "10.32.0.3/32", "dev", "lo")
	a.reaches("10.32.0.2:9")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	asked := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				asked++
				a.reaches("10.32.0.2:9")
				a.send("10.32.0.3", "10.32.0.2:99")
			}
		}
	})
	dns, local := h.c.DNS, h.c.Local
	for i := range 40 {
		h.c.DNS, h.c.Local = dns, local
		if i%2 == 0 {
			h.c.DNS = append(slices.Clip(dns), netip.MustParseAddrPort("172.17.0.1:53"))
		}
		if i%3 == 0 {
			h.c.Local = append(slices.Clip(local), Local{"vwe0123456789", prefixes("10.32.0.7/12")})
		}
		h.set()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d packets", asked)
	if forged(moment) {
		t.Error("a forged packet passed while the rules changed")
	}
}

func TestContainerSeesOnlyDNSOfTheHost(t *testing.T) {
	h := newTestHost(t)
	docker := netip.MustParseAddr("172.17.0.1")
	h.c.DNS = append(h.c.DNS, netip.AddrPortFrom(docker, 53))
	h.sh("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up; iptables -P INPUT DROP")
	h.set()
	a := h.container("a", "10.32.0.1/12")
	a.hasRoute("172.17.0.1 via 169.254.53.1 dev ethwe proto 87 src 10.32.0.1 onlink")
	for _, at := range []string{"169.254.53.1:53", "172.17.0.1:53", "169.254.53.1:54", "172.17.0.1:54"} {
		h.echoAt(at)
	}
	h.sink(53)
	h.sink(54)
	for _, host := range []string{"169.254.53.1", "172.17.0.1"} {
		a.reaches(host + ":53")
		if err := a.pour(host+":53", 1000); err != nil {
			t.Errorf("DNS over TCP at %s: %v", host, err)
		}
		a.misses(host + ":54")
		if err := a.pourFor(host+":54", 1, moment); err == nil {
			t.Errorf("%s answers on another port", host)
		}
	}
	if err := a.icmp("10.32.0.1", "169.254.53.1", patience); err != nil {
		t.Errorf("ping the next hop: %v", err)
	}
	if got := h.run("iptables", "-S", "INPUT"); !strings.Contains(got, "-A INPUT -d 172.17.0.1/32 -i docker0 -p udp -m udp --dport 53 -m comment --comment weft -j ACCEPT") {
		t.Errorf("no accept for DNS on docker0:\n%s", got)
	}
	// A container in a network of Docker's has a way of its own, which stays.
	b := newSpace(t)
	b.sh("ip link add eth0 type bridge; ip addr add 172.17.0.2/16 dev eth0; ip link set eth0 up")
	h.attach(b, "b", "10.32.0.2/12")
	b.lacksRoute("172.17.0.1 via 169.254.53.1")
	// The host answers its containers, and begins nothing with them: its users
	// are not in the mesh.
	a.echo(9)
	h.misses("10.32.0.1:9")
}

// lan connects a namespace to the host by a link lan0: 192.0.2.1 the host,
// 192.0.2.2 the neighbour, to which the host's default route leads. The host is a
// router with an open firewall.
func (h *testHost) lan() *space {
	n := newSpace(h.t)
	h.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", n.path())
	h.sh("ip addr add 192.0.2.1/24 dev lan0; ip link set lan0 up; ip route add default via 192.0.2.2; sysctl -qw net.ipv4.ip_forward=1")
	n.sh("ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.1; ip addr add 10.40.0.1/32 dev lo; ip addr add 10.32.0.77/32 dev lo")
	return n
}

func TestLANAndMeshAreApart(t *testing.T) {
	h := newTestHost(t)
	n := h.lan()
	h.tunnel()
	h.set()
	a := h.container("a", "10.32.0.1/12")
	a.run("ip", "route", "add", "default", "via", "169.254.53.1", "dev", "ethwe", "onlink")
	a.echo(9)
	n.echo(9)
	h.echoAt("169.254.53.1:53")
	h.reaches("192.0.2.2:9")
	inbound := func() []string {
		var open []string
		if n.ask("", "10.32.0.1:9", moment) == nil {
			open = append(open, "LAN to container")
		}
		if a.ask("", "192.0.2.2:9", moment) == nil {
			open = append(open, "container to LAN")
		}
		if n.ask("", "169.254.53.1:53", moment) == nil {
			open = append(open, "LAN to the containers' DNS")
		}
		return open
	}
	if open := inbound(); len(open) > 0 {
		t.Errorf("passes: %v", open)
	}
	heard := h.listen("0.0.0.0:99")
	n.send("10.32.0.77", "192.0.2.1:99")
	if heard(moment) {
		t.Error("a mesh source from the LAN reached the host")
	}
	// The same without the firewall, to know that it is what holds. (A router
	// that another host's packets pass is what rp_filter could break; off.)
	h.sh("nft delete table inet weft; nft delete table bridge weft; sysctl -qw net.ipv4.conf.lan0.rp_filter=0")
	if open := inbound(); len(open) != 3 {
		t.Errorf("without the firewall only %v passes: the test shows nothing", open)
	}
}

func TestWithoutTunnelNothingLeaves(t *testing.T) {
	h := newTestHost(t)
	n := h.lan()
	h.set()
	a := h.container("a", "10.32.0.1/12")
	n.echoAt("10.40.0.1:9")
	for _, from := range []*space{a, h.space} {
		if err := from.pour("10.40.0.1:9", 1); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("got %v, want no route to host", err)
		}
	}
	// The neighbour would have answered.
	h.run("ip", "route", "del", "unreachable", "10.32.0.0/12", "metric", "4000000")
	h.run("nft", "delete", "table", "inet", "weft")
	h.reaches("10.40.0.1:9")
}

func TestTunnelComesAndGoes(t *testing.T) {
	h := newTestHost(t)
	h.set()
	h.lacksRoute("10.32.0.0/12 dev weftwg")
	h.tunnel()
	h.c.MTU = 1200
	h.set()
	h.hasRoute("10.32.0.0/12 dev weftwg proto 87 scope link mtu 1200")
	if l := h.run("ip", "-o", "link", "show", "weftwg"); !strings.Contains(l, "mtu 1280") {
		t.Errorf("MTU not kept at 1280: %s", l)
	}
	if got := h.run("ip", "-6", "-o", "addr", "show", "weftwg"); !strings.Contains(got, testControl.String()+"/128") || strings.Contains(got, "fe80") {
		t.Errorf("addresses of weftwg: %s", got)
	}
	h.c.MTU = 1420
	h.set()
	h.hasRoute("10.32.0.0/12 dev weftwg proto 87 scope link \n")
	h.c.MTU = 100
	if err := h.trySet(); err == nil || !strings.Contains(err.Error(), "MTU 100") {
		t.Errorf("MTU 100: %v", err)
	}
	h.c.MTU = 1420
	h.in(func() {
		if err := h.h.RemoveTunnel(); err != nil {
			t.Error(err)
		}
	})
	h.lacksRoute("10.32.0.0/12 dev weftwg")
	h.hasRoute("unreachable 10.32.0.0/12")
	h.set()
}

func TestIPv6SwitchedOffHost(t *testing.T) {
	h := newTestHost(t)
	h.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	h.tunnel()
	h.set()
	if got := h.run("ip", "-6", "-o", "addr", "show", "weftwg"); !strings.Contains(got, testControl.String()) {
		t.Errorf("no control address: %q", got)
	}
}

func TestTwoHosts(t *testing.T) {
	h1, h2 := newTestHost(t), newTestHost(t)
	h2.c.Control = netip.MustParseAddr("fd57:4e1f:aa01:2::2")
	join(t, h1.tunnel(), h2.tunnel())
	for _, h := range []*testHost{h1, h2} {
		h.run("iptables", "-P", "FORWARD", "DROP")
		h.sh("ip6tables -P INPUT DROP; ip6tables -A INPUT -i lo -j ACCEPT")
		h.set()
	}
	a := h1.container("a", "10.32.0.1/12")
	b := h2.container("b", "10.40.0.1/12")
	sub := h2.container("sub", "10.40.1.1/24")
	b.echo(9)
	sub.echo(9)
	a.reaches("10.40.0.1:9")
	b.sink(80)
	if err := a.pour("10.40.0.1:80", 1<<20); err != nil {
		t.Errorf("TCP between hosts: %v", err)
	}
	a.misses("10.40.1.1:9") // its subnet does not hold a
	a.misses("10.40.7.7:9") // nobody: does not come back out of the tunnel

	// Between hosts: gossip, join and ping, nothing else.
	h2.echo(7946)
	h2.echo(7947)
	h2.sink(6783)
	h2.sink(22)
	h1.reaches("[fd57:4e1f:aa01:2::2]:7946")
	h1.misses("[fd57:4e1f:aa01:2::2]:7947")
	if err := h1.pour("[fd57:4e1f:aa01:2::2]:6783", 100000); err != nil {
		t.Errorf("join port in the tunnel: %v", err)
	}
	if err := h1.pourFor("[fd57:4e1f:aa01:2::2]:22", 1, moment); err == nil {
		t.Error("another service of the host answers in the tunnel")
	}
	if err := h1.icmp6(h2.c.Control.String(), patience); err != nil {
		t.Errorf("ping in the tunnel: %v", err)
	}
	h1.echo(7946)
	h1.reaches("[" + testControl.String() + "]:7946") // by lo
	// The host's own addresses have no business in the tunnel.
	h1.run("ip", "addr", "add", "198.51.100.7/32", "dev", "lo")
	if err := h1.ask("198.51.100.7", "10.40.0.1:9", moment); err == nil {
		t.Error("the host reaches a remote container")
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	h := newTestHost(t)
	h.run("iptables", "-P", "FORWARD", "DROP")
	h.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "1", "-j", "ACCEPT")
	h.run("ip6tables", "-P", "INPUT", "DROP")
	look := func() string {
		return h.sh("ip -o link | cut -d: -f2; ip route show table all; ip -6 route show table all; iptables -S; ip6tables -S; nft list tables; sysctl -n net.ipv4.ip_forward")
	}
	before := look()
	h.tunnel()
	h.set()
	a := h.container("a", "10.32.0.1/12")
	if look() == before {
		t.Fatal("nothing there to remove")
	}
	for range 2 {
		h.in(func() {
			if err := h.h.Remove(); err != nil {
				t.Errorf("Remove: %v", err)
			}
		})
		if after := look(); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	}
	if got := a.run("ip", "-o", "link"); strings.Contains(got, "ethwe") {
		t.Errorf("the container keeps %s", got)
	}
}

func TestAddWireGuard(t *testing.T) {
	h := newTestHost(t)
	h.in(func() {
		err := h.h.AddWireGuard("weftwg")
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("AddWireGuard: %v", err)
		}
		for range 2 {
			if err := h.h.DeleteLink("weftwg"); err != nil {
				t.Errorf("DeleteLink: %v", err)
			}
		}
		if _, err := net.InterfaceByName("weftwg"); err == nil {
			t.Error("weftwg is still there")
		}
	})
}
