package host

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// events starts to listen; each call returns the changes since the last.
func (s *space) events() func() []string {
	s.t.Helper()
	var socks []*nl.NetlinkSocket
	s.in(func() {
		a, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF)
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		if err != nil {
			s.t.Fatal(err)
		}
		socks = append(socks, a, b)
	})
	s.t.Cleanup(func() {
		for _, c := range socks {
			c.Close()
		}
	})
	return func() (got []string) {
		for _, c := range socks {
			for {
				wait := unix.NsecToTimeval(int64(20 * time.Millisecond))
				c.SetReceiveTimeout(&wait)
				batch, _, err := c.Receive()
				if err != nil {
					break
				}
				for _, m := range batch {
					got = append(got, fmt.Sprintf("message %d", m.Header.Type))
				}
			}
		}
		return got
	}
}

func TestWatchHealsDrift(t *testing.T) {
	h := newTestHost(t)
	h.tunnel()
	h.run("iptables", "-P", "FORWARD", "DROP")
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)

	ctx, cancel := context.WithCancel(t.Context())
	pokes, ended := make(chan struct{}, 1), make(chan error, 1)
	go h.in(func() {
		ended <- h.h.Watch(ctx, func() {
			select {
			case pokes <- struct{}{}:
			default:
			}
		})
	})
	whole := func() string {
		return h.sh("nft list table inet weft; nft list table bridge weft; iptables -S; ip route; ip -6 route; ip -o addr show weft; ip -o addr show weftwg | sed s/deprecated//")
	}
	<-pokes // it is awake
	want := whole()
	for _, harm := range []string{
		"iptables -F FORWARD",
		"nft delete table inet weft",
		"nft flush chain bridge weft prerouting",
		"nft insert rule inet weft forward accept",
		"nft flush set inet weft local",
		"nft add element inet weft local '{ 10.32.0.7 . 10.32.0.0/12 }'",
		"nft delete rule inet weft output handle $(nft -a list chain inet weft output | sed -n 's/.*iifname.*handle //p;s/.*weftwg.*drop.*handle //p' | head -1)",
		"nft add chain inet weft extra",
		"ip route del 10.32.0.0/12 dev weftwg",
		"ip route del unreachable 10.32.0.0/12 metric 4000000",
		"ip route del 10.32.0.1 dev weft",
		"ip route add 10.99.0.0/16 dev weftwg proto 87",
		"ip addr del 169.254.53.1/32 dev weft",
		"ip addr add 198.51.100.1/24 dev weft",
		"ip addr flush dev weftwg",
		"ip link set weftwg down",
		"ip link set " + VethName("a") + " nomaster",
	} {
		h.sh(harm)
		deadline := time.After(patience)
		for healed := false; !healed; {
			select {
			case <-pokes:
				h.set()
				healed = whole() == want
			case <-deadline:
				t.Errorf("not healed after %q:\n%s\nwant:\n%s", harm, whole(), want)
				healed = true
			}
		}
	}
	a.reaches("10.32.0.2:9")
	// A Set that changes nothing wakes nobody.
	for quiet := false; !quiet; {
		select {
		case <-pokes:
			h.set()
		case <-time.After(moment):
			quiet = true
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

func TestBridgeMadeAnew(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)
	a.reaches("10.32.0.2:9")
	mac := func() string { return h.sh("ip -o link show weft | sed 's/.*ether //;s/ .*//'") }
	before := mac()
	h.run("ip", "link", "del", "weft")
	h.set()
	a.reaches("10.32.0.2:9")
	if now := mac(); now != before { // the containers' neighbour entries still hold
		t.Errorf("MAC of the bridge was %s, is %s", before, now)
	}
}

func TestEventsThatMatter(t *testing.T) {
	h, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	table := func(name string) []byte {
		return append([]byte{2, 0, 0, 0, byte(5 + len(name)), 0, 1, 0}, name+"\x00"...)
	}
	rule := uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE)
	for name, want := range map[string]bool{"weft": true, "filter": true, "firewalld": true, "nat": false, "": false} {
		if got := ofFirewall(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: rule}, Data: table(name)}); got != want {
			t.Errorf("rule of table %q: %t", name, got)
		}
	}
	if ofFirewall(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN}}) {
		t.Error("a generation matters")
	}
	cached := make([]byte, unix.SizeofRtMsg)
	cached[4] = unix.RT_TABLE_LOCAL
	if h.ofNetwork(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWROUTE}, Data: cached}) {
		t.Error("a route of table local matters")
	}
	link := func(name, kind string) syscall.NetlinkMessage {
		data := append(nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize(), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize()...)
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.ZeroTerminated(kind))
		if kind != "" { // a network card has none
			data = append(data, info.Serialize()...)
		}
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: data}
	}
	for _, c := range []struct {
		name, kind string
		want       bool
	}{
		{"eth0", "", true}, {"weft", "bridge", true}, {"weftwg", "wireguard", true}, {VethName("a"), "veth", true}, {"tap0", "tun", true},
		{"docker0", "bridge", false}, {"br-0123456789ab", "bridge", false}, {"vethabc", "veth", false},
		{"br-port", "vxlan", true}, {"vethport", "", true}, // ports of a bridge, perhaps
	} {
		if got := h.ofNetwork(link(c.name, c.kind)); got != c.want {
			t.Errorf("%s of kind %q: %t", c.name, c.kind, got)
		}
	}
}

func FuzzEvents(f *testing.F) {
	h, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(unix.RTM_NEWLINK), make([]byte, 40))
	f.Add(uint16(unix.RTM_NEWROUTE), make([]byte, 12))
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE), []byte("\x02\x00\x00\x00\x09\x00\x01\x00weft\x00"))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		if kind == unix.RTM_NEWLINK || kind == unix.RTM_DELLINK {
			return // the attributes are the library's to parse, and the kernel's to write
		}
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
		h.ofNetwork(m)
		ofFirewall(m)
		if s := firstString(data); strings.Contains(s, "\x00") {
			t.Errorf("%q", s)
		}
	})
}
