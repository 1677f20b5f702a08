package host

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// tracked is how many connections to a port conntrack has come to know since the last call.
func (s *space) tracked(port uint16) (n int) {
	s.t.Helper()
	var flows []*netlink.ConntrackFlow
	var err error
	s.in(func() {
		if flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4); err == nil {
			err = netlink.ConntrackTableFlush(netlink.ConntrackTable)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range flows {
		if f.Forward.DstPort == port {
			n++
		}
	}
	return n
}

// nameServer answers at an address over UDP and TCP, each with what it got.
func (s *space) nameServer(addr string) {
	s.t.Helper()
	s.echoAt(addr)
	var l net.Listener
	var err error
	s.in(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.CopyN(c, c, 5)
			c.Close()
		}
	}()
	s.t.Cleanup(func() { l.Close(); <-done })
}

// askTCP is ask over TCP.
func (s *space) askTCP(to string) error {
	var err error
	s.in(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", to, patience); err != nil {
			return
		}
		defer c.Close()
		if _, err = c.Write([]byte("hello")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 5))
		}
	})
	return err
}

// Questions and answers take no place in conntrack's table, unless somebody else's firewall may judge them by it: then they pass
// that as before.
func TestQuestionsAreNotTracked(t *testing.T) {
	h := newTestHost(t)
	docker := netip.MustParseAddrPort("172.17.0.1:53")
	h.sh("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up")
	h.c.DNS = append(h.c.DNS, docker)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := newSpace(t) // in Docker's network only
	h.sh("ip link add vethb type veth peer endb; ip link set vethb master docker0 up; ip link set endb netns " + b.path())
	b.sh("ip addr add 172.17.0.2/16 dev endb; ip link set endb up")
	h.nameServer("169.254.53.1:53")
	h.nameServer("169.254.53.1:5353")
	h.nameServer(docker.String())

	// A port that any user of the host may take is no proof of a question.
	ports := h.c.DNS
	h.c.DNS = []netip.AddrPort{netip.AddrPortFrom(Gateway, 5353)}
	h.set()
	a.reaches("169.254.53.1:5353")
	if h.tracked(5353) == 0 {
		t.Error("a question to a port of any user was not tracked")
	}
	h.c.DNS = ports

	const strict = "iptables -P INPUT DROP; iptables -P OUTPUT DROP; for c in INPUT OUTPUT; do iptables -A $c -m conntrack --ctstate ESTABLISHED -j ACCEPT; done"
	for _, c := range []struct {
		what, do string
		tracked  bool
	}{
		{"no other firewall", "true", false},
		{"iptables", strict, false},
		{"iptables, with a jump before ours", "iptables -N theirs; iptables -A theirs -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A theirs -o weft -j DROP; iptables -I OUTPUT -j theirs", true},
		{"iptables again", "iptables -D OUTPUT -j theirs", false},
		{"nftables at the output", "nft 'add table inet my; add chain inet my out { type filter hook output priority 5; policy drop; }; add rule inet my out ct state established accept'", true},
		{"nftables that only counts", "nft 'delete chain inet my out; add chain inet my out { type filter hook output priority 5; }; add rule inet my out ct state established accept; add rule inet my out counter'", false},
		{"nftables by a map", "nft 'flush chain inet my out; add rule inet my out ct state vmap { established : accept, untracked : drop }'", true},
		{"nftables at the input", "nft 'delete chain inet my out; add chain inet my in { type filter hook input priority 5; }; add rule inet my in ip daddr { 169.254.53.1, 172.17.0.1 } ct state new,established accept; " +
			"add rule inet my in ip protocol != icmp drop'", true},
		{"nftables before the routing", "nft 'delete chain inet my in; add chain inet my pre { type filter hook prerouting priority 0; }; add rule inet my pre ct state untracked drop'", true},
		{"nftables behind it", "nft 'delete chain inet my pre; add chain inet my post { type filter hook postrouting priority 0; }; add rule inet my post ct state untracked drop'", true},
		{"none of that", "nft delete table inet my", false},
		{"iptables-legacy", "iptables-legacy -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables-legacy -P OUTPUT DROP", true},
		{"iptables-legacy without rules", "iptables-legacy -F; iptables-legacy -P OUTPUT ACCEPT", false},
	} {
		h.sh(c.do)
		h.set()
		h.tracked(53)
		for range 3 {
			for from, to := range map[*space]string{a: "169.254.53.1:53", b: docker.String()} {
				if err := errors.Join(from.ask("", to, patience), from.askTCP(to)); err != nil {
					t.Errorf("%s: %s: %v", c.what, to, err)
				}
			}
		}
		a.reaches(docker.String())
		if n := h.tracked(53); n > 0 != c.tracked {
			t.Errorf("%s: conntrack has taken in %d questions", c.what, n)
		}
	}
}
