package host

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestEndpointsAndMTU(t *testing.T) {
	h := newTestHost(t)
	check := func(want string, mtu int, to ...string) {
		t.Helper()
		var addrs []netip.Addr
		for _, a := range to {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		h.in(func() {
			got, err := h.h.Endpoints()
			if err != nil || fmt.Sprint(got) != want {
				t.Errorf("Endpoints: %v, %v; want %s", got, err, want)
			}
			if got, err := h.h.UnderlayMTU(addrs); err != nil || got != mtu {
				t.Errorf("UnderlayMTU %v: %d, %v; want %d", to, got, err, mtu)
			}
		})
	}
	check("[]", 1500)
	for i, link := range []string{"eth0", "eth1", "docker0", "br-0123", "veth9"} {
		h.sh(fmt.Sprintf("ip link add %s type bridge; ip link set %s mtu %d up; ip addr add 192.0.%d.1/24 dev %s; ip addr add fd0%d::1/64 nodad dev %s", link, link, 1400-i, i, link, i, link))
	}
	h.set()
	h.container("a", "10.32.0.1/12")
	check("[192.0.0.1 192.0.1.1 fd00::1 fd01::1]", 1399)
	h.sh("ip route add default via 192.0.1.2")
	check("[192.0.1.1 fd01::1 192.0.0.1 fd00::1]", 1399)
	check("[192.0.1.1 fd01::1 192.0.0.1 fd00::1]", 1400, "192.0.0.9")
	check("[192.0.1.1 fd01::1 192.0.0.1 fd00::1]", 1399, "192.0.0.9", "8.8.8.8")
	check("[192.0.1.1 fd01::1 192.0.0.1 fd00::1]", 1400, "fd00::9")
	h.sh("ip route add 203.0.113.0/24 via 192.0.0.9 mtu 1300")
	check("[192.0.1.1 fd01::1 192.0.0.1 fd00::1]", 1300, "203.0.113.1")
	h.run("ip", "link", "set", "eth1", "down")
	check("[192.0.0.1 fd00::1]", 1400)
}

func TestOverlaps(t *testing.T) {
	h := newTestHost(t)
	h.sh("ip link add eth0 type bridge; ip link set eth0 up; ip addr add 10.40.1.1/24 dev eth0; ip route add default via 10.40.1.2; ip route add unreachable 10.80.0.0/16")
	h.c.Covered = prefixes("10.32.0.0/16")
	h.set()
	for p, want := range map[string]string{
		"10.32.0.0/12":   "10.40.1.0/24 eth0 true",
		"10.40.1.128/25": "10.40.1.0/24 eth0 true",
		"10.32.0.0/16":   "invalid Prefix  false", // ours
		"10.64.0.0/12":   "invalid Prefix  false", // only the default route
		"10.80.1.0/24":   "10.80.0.0/16  true",
	} {
		h.in(func() {
			got, dev, found, err := h.h.Overlaps(netip.MustParsePrefix(p))
			if s := fmt.Sprintf("%v %s %t", got, dev, found); err != nil || s != want {
				t.Errorf("Overlaps(%s): %s, %v; want %s", p, s, err, want)
			}
		})
	}
}
