package host

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func TestForwardPolicyDrop(t *testing.T) {
	h := newTestHost(t)
	h.sh("iptables -P FORWARD DROP; iptables -A FORWARD -i eth9 -j DROP; iptables -P INPUT DROP; iptables -P OUTPUT DROP")
	h.set()
	a := h.container("a", "10.32.0.1/12")
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)
	h.echoAt("169.254.53.1:53")
	want := []string{
		"-A FORWARD -i weft -o weft -m comment --comment weft -j ACCEPT",
		"-A FORWARD -i weft -o weftwg -m comment --comment weft -j ACCEPT",
		"-A FORWARD -i weftwg -o weft -m comment --comment weft -j ACCEPT",
		"-A FORWARD -i eth9 -j DROP",
	}
	check := func() {
		t.Helper()
		out := h.run("iptables", "-S", "FORWARD")
		if got := strings.Split(strings.TrimSpace(out), "\n")[1:]; strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("FORWARD:\n%s", out)
		}
		out = h.run("iptables", "-S")
		for _, rule := range []string{
			"-A INPUT -d 169.254.53.1/32 -i weft -p icmp -m comment --comment weft -j ACCEPT\n",
			"-A INPUT -d 169.254.53.1/32 -i weft -p udp -m udp --dport 53 -m comment --comment weft -j ACCEPT\n",
			"-A INPUT -d 169.254.53.1/32 -i weft -p tcp -m tcp --dport 53 -m comment --comment weft -j ACCEPT\n",
			"-A OUTPUT -s 169.254.53.1/32 -o weft -p udp -m udp --sport 53 -m comment --comment weft -j ACCEPT\n",
			"-A OUTPUT -s 169.254.53.1/32 -o weft -p tcp -m tcp --sport 53 -m comment --comment weft -j ACCEPT\n",
		} {
			if strings.Count(out, rule) != 1 {
				t.Errorf("the table holds %q not once:\n%s", rule, out)
			}
		}
		a.reaches("10.32.0.2:9")
		a.reaches("169.254.53.1:53")
	}
	check()
	h.set()
	check()
	// iptables-restore reads back what iptables-save wrote of ours; then all is
	// there twice but for our care.
	h.sh("iptables-save > /dev/null; iptables-save | iptables-restore")
	h.set()
	check()
	h.sh("iptables-save | grep -e '^.A FORWARD.*weft' | sed s/-A/-I/ | while read rule; do eval iptables $rule; done")
	h.set()
	check()
	h.run("iptables", "-F")
	a.misses("10.32.0.2:9")
	h.set()
	want = want[:3]
	check()
	// Docker puts its jumps in front at its start: no reason to move.
	h.sh("iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER")
	h.set()
	want = append([]string{"-A FORWARD -j DOCKER-USER"}, want...)
	check()
}

func TestOtherFirewallsAreNamed(t *testing.T) {
	for name, test := range map[string]struct{ setup, what, hint string }{
		"nftables, policy": {
			`nft 'add table inet filter; add chain inet filter transit { type filter hook forward priority 0; policy drop; }'`,
			"chain transit of table inet filter (nftables)", `nft 'insert rule inet filter transit iifname "weft*" oifname "weft*" accept'`},
		"nftables, last rule": {
			`nft 'add table ip my; add chain ip my in { type filter hook input priority 5; }; add rule ip my in ct state established accept; add rule ip my in counter reject'`,
			"chain in of table ip my (nftables)", `nft 'insert rule ip my in iifname "weft*" accept'`},
		"iptables-legacy": {
			`iptables-legacy -P FORWARD DROP; iptables-legacy -A FORWARD -i docker0 -j ACCEPT`,
			"chain FORWARD of iptables-legacy", "iptables-legacy -I FORWARD -i weft+ -o weft+ -j ACCEPT"},
		"iptables-legacy, last rule": {
			`iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -j REJECT`,
			"chain INPUT of iptables-legacy", "iptables-legacy -I INPUT -i weft+ -j ACCEPT"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			h.set()
			a := h.container("a", "10.32.0.1/12")
			b := h.container("b", "10.32.0.2/12")
			b.echo(9)
			h.echoAt("169.254.53.1:53")
			works := func() bool {
				return a.ask("", "10.32.0.2:9", moment) == nil && a.ask("", "169.254.53.1:53", moment) == nil
			}
			if !works() {
				t.Fatal("does not work to begin with")
			}
			h.sh(test.setup)
			err := h.trySet()
			blocked, ok := errors.AsType[*BlockedError](err)
			if !ok || !strings.Contains(err.Error(), test.what) || blocked.Hint() != test.hint {
				t.Fatalf("got %v, %+v; want %q and the hint %q", err, blocked, test.what, test.hint)
			}
			if works() {
				t.Error("works although it is said to be blocked")
			}
			h.sh(blocked.Hint())
			if err := h.trySet(); err != nil {
				t.Errorf("after the hint's command: %v", err)
			}
			if !works() {
				t.Error("does not work after the hint's command")
			}
		})
	}
}

func TestOpenedBySetOfInterfaces(t *testing.T) {
	h := newTestHost(t)
	h.sh(`nft 'add table inet filter; add chain inet filter transit { type filter hook forward priority 0; policy drop; };
		add rule inet filter transit iifname { "eth0", "weft", "weftwg" } accept'`)
	h.set()
}

func TestFirewalldIsNamed(t *testing.T) {
	h := newTestHost(t)
	h.sh(`nft -f - <<'END'
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state established,related accept
		jump filter_FORWARD_ZONES
		reject with icmpx type admin-prohibited
	}
	chain filter_FORWARD_ZONES {
		goto filter_FWD_public
	}
	chain filter_FWD_public {
		reject
	}
}
END`)
	err := h.trySet()
	if blocked, ok := errors.AsType[*BlockedError](err); !ok || !strings.Contains(err.Error(), "firewalld") ||
		!strings.Contains(blocked.Hint(), "firewall-cmd --permanent --zone=trusted --add-interface=weft ") {
		t.Fatalf("got %v", err)
	}
	// What firewalld does when told so.
	h.sh(`nft 'add chain inet firewalld filter_FWD_trusted; add rule inet firewalld filter_FWD_trusted accept;
		insert rule inet firewalld filter_FORWARD_ZONES iifname "weft" goto filter_FWD_trusted'`)
	h.set()
}

// legacyEntry is one rule of ip_tables with a standard verdict.
func legacyEntry(in string, verdict int32) []byte {
	e := make([]byte, entrySize+targetSize+8)
	copy(e[entryIn:], in)
	for i := range len(in) {
		e[entryIn+32+i] = 0xff
	}
	binary.NativeEndian.PutUint16(e[entryTarget:], entrySize)
	binary.NativeEndian.PutUint16(e[entryTarget+2:], uint16(len(e)))
	binary.NativeEndian.PutUint32(e[entrySize+targetSize:], uint32(verdict))
	return e
}

func TestLegacyVerdict(t *testing.T) {
	const acceptIt, dropIt = -2, -1
	table := func(entries ...[]byte) *legacyTable {
		l := &legacyTable{}
		for i, e := range entries {
			if i == len(entries)-1 {
				l.underflow[hookForward] = uint32(len(l.blob))
			}
			l.blob = append(l.blob, e...)
		}
		return l
	}
	for name, test := range map[string]struct {
		table *legacyTable
		want  bool
	}{
		"policy drop":             {table(legacyEntry("", dropIt)), true},
		"policy accept":           {table(legacyEntry("", acceptIt)), false},
		"accepted before":         {table(legacyEntry("weft", acceptIt), legacyEntry("", dropIt)), false},
		"another interface":       {table(legacyEntry("eth0", acceptIt), legacyEntry("", dropIt)), true},
		"dropped before":          {table(legacyEntry("weft", dropIt), legacyEntry("", acceptIt)), true},
		"cut off":                 {&legacyTable{blob: legacyEntry("", dropIt)[:90]}, false},
		"an entry without an end": {&legacyTable{blob: make([]byte, 200)}, false},
	} {
		if got := test.table.drops(hookForward, "weft", "weftwg"); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func FuzzLegacyTable(f *testing.F) {
	f.Add(append(legacyEntry("weft", -1), legacyEntry("", -2)...), uint32(0), uint32(152))
	f.Fuzz(func(t *testing.T, blob []byte, entry, underflow uint32) {
		l := &legacyTable{blob: blob}
		l.entry[hookForward], l.underflow[hookForward] = entry, underflow
		l.drops(hookForward, "weft", "weftwg")
		l.drops(hookForward, "weft", "")
	})
}
