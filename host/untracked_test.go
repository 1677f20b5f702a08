package host

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
		{"Docker's rules before conntrack", "iptables -t raw -A PREROUTING -d 172.17.0.3/32 ! -i docker0 -j DROP; " +
			"iptables -t raw -A PREROUTING -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 ! -i lo -m comment --comment published -j DROP", false},
		{"iptables before conntrack, by its state", "iptables -t raw -A PREROUTING -m conntrack --ctstate UNTRACKED -j DROP", true},
		{"nftables before conntrack, by a set", "iptables -t raw -F; nft 'add table inet my; add chain inet my pre { type filter hook prerouting priority -250; }; " +
			"add rule inet my pre iifname != docker0 ip daddr { 172.17.0.3, 172.17.0.4 } drop'", false},
		{"by its state", "nft 'add rule inet my pre ct state untracked drop'", true},
		{"by a mark, of another's making", "nft 'flush chain inet my pre; add rule inet my pre meta mark 1 drop'", true},
		{"in another chain", "nft 'flush chain inet my pre; add chain inet my more; add rule inet my pre jump more; add rule inet my more ct state untracked drop'", true},
		{"none of that either", "nft delete table inet my", false},
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

// Before conntrack, at the two hooks where it is, a chain judges by it only if a rule may tell what it knows.
func TestChainsBeforeConntrack(t *testing.T) {
	drop, state := &expr.Verdict{Kind: expr.VerdictDrop}, &expr.Ct{Key: expr.CtKeySTATE}
	accept, jump := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "more"}
	header := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME}, &expr.Payload{}, &expr.Bitwise{}, &expr.Lookup{}, &expr.Cmp{}, &expr.Counter{}}
	policy := nftables.ChainPolicyDrop
	for _, c := range []struct {
		what   string
		rules  [][]expr.Any
		policy *nftables.ChainPolicy
		before bool // what is said of it there
		behind bool
	}{
		{"no rules", nil, nil, false, false},
		{"a drop by headers", [][]expr.Any{append(header, drop)}, nil, false, true},
		{"a drop by state", [][]expr.Any{{state, drop}}, nil, true, true},
		{"a drop of all but some states", [][]expr.Any{{state, accept}, {drop}}, nil, true, true},
		{"the same as a policy", [][]expr.Any{{state, accept}}, &policy, true, true},
		{"a policy, and accepts by headers", [][]expr.Any{append(header, accept)}, &policy, false, true},
		{"a policy alone", nil, &policy, false, true},
		{"a jump", [][]expr.Any{{jump}}, nil, true, true},
		{"a drop by a mark", [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyMARK}, drop}}, nil, true, true},
		{"a mark that is given", [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true}}, {drop}}, nil, false, true},
		{"iptables' matches by headers", [][]expr.Any{{&expr.Match{Name: "multiport"}, drop}}, nil, false, true},
		{"iptables' match by state", [][]expr.Any{{&expr.Match{Name: "conntrack"}, drop}}, nil, true, true},
		{"a match that is not known", [][]expr.Any{{&expr.Match{Name: "bpf"}, drop}}, nil, true, true},
		{"a target of iptables", [][]expr.Any{{&expr.Target{Name: "NFQUEUE"}}}, nil, true, true},
		{"a state and no drop", [][]expr.Any{{state, accept}}, nil, false, false},
		{"a map of verdicts", [][]expr.Any{{&expr.Payload{}, &expr.Lookup{IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}}}, nil, true, true},
	} {
		var rules []*nftables.Rule
		for _, es := range c.rules {
			rules = append(rules, &nftables.Rule{Exprs: es})
		}
		for _, at := range []struct {
			hook     *nftables.ChainHook
			priority nftables.ChainPriority
			want     bool
		}{
			{nftables.ChainHookPrerouting, -300, c.before}, {nftables.ChainHookOutput, -201, c.before}, {nftables.ChainHookPrerouting, -200, c.behind},
			{nftables.ChainHookOutput, 0, c.behind}, {nftables.ChainHookInput, -300, c.behind}, {nftables.ChainHookPostrouting, -300, c.behind},
		} {
			if got := mayRefuse(&nftables.Chain{Hooknum: at.hook, Priority: &at.priority, Policy: c.policy}, rules); got != at.want {
				t.Errorf("%s, at hook %d with priority %d: %v", c.what, *at.hook, at.priority, got)
			}
		}
	}
}
