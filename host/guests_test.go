package host

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A bridge is inside unless it is a way out, or a port of it may lead to another machine.
func TestInside(t *testing.T) {
	h, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "br-lan"}}
	port := netlink.LinkAttrs{Index: 3, Name: "port", MasterIndex: 2}
	for _, c := range []struct {
		what  string
		ports []netlink.Link
		ways  []int
		want  bool
	}{
		{"no port", nil, nil, true},
		{"a container", []netlink.Link{&netlink.Veth{LinkAttrs: port}}, nil, true},
		{"a virtual machine", []netlink.Link{&netlink.Tuntap{LinkAttrs: port}}, nil, true},
		{"a network card", []netlink.Link{&netlink.Device{LinkAttrs: port}}, nil, false},
		{"a container and a network card", []netlink.Link{&netlink.Device{LinkAttrs: port}, &netlink.Veth{LinkAttrs: port}}, nil, false},
		{"a VLAN", []netlink.Link{&netlink.Vlan{LinkAttrs: port}}, nil, false},
		{"a bond", []netlink.Link{&netlink.Bond{LinkAttrs: port}}, nil, false},
		{"a tunnel", []netlink.Link{&netlink.Vxlan{LinkAttrs: port}}, nil, false},
		{"the default route", nil, []int{2}, false},
	} {
		if got := h.inside(append(c.ports, bridge), c.ways)[2]; got != c.want {
			t.Errorf("%s: inside %v", c.what, got)
		}
	}
}

func TestGuestsAreFollowed(t *testing.T) {
	h := newTestHost(t)
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
	<-pokes // it is awake
	for _, c := range []struct {
		do   string
		want []string
	}{
		{"ip link add br-net type bridge; ip link set br-net address 0a:00:00:00:00:01; ip addr add 172.30.0.1/24 dev br-net", []string{"172.30.0.0/24"}},
		{"ip link add vmcable type veth peer vmend; ip addr add 192.0.2.1/24 dev vmcable; ip link set vmend master br-net", []string{"172.30.0.0/24", "192.0.2.1/32"}},
		{"ip link add br-out type vxlan id 5 dstport 4789 dev lo; ip link set br-out master br-net", []string{"172.30.0.1/32", "192.0.2.1/32"}},
		{"ip link del br-out", []string{"172.30.0.0/24", "192.0.2.1/32"}},
		{"ip link set br-net up; ip addr flush dev br-net scope link; ip route add default via 172.30.0.9", []string{"172.30.0.1/32", "192.0.2.1/32"}},
		{"ip link del br-net", []string{"192.0.2.1/32"}},
	} {
		h.sh(c.do)
		want := slices.Sorted(slices.Values(append(c.want, "127.0.0.0/8", "127.0.0.1/32", "::1/128", "::1/128")))
		deadline := time.After(patience)
		for got := []string{}; !slices.Equal(got, want); {
			select {
			case <-pokes:
			case <-deadline:
				t.Fatalf("after %q: %v, want %v", c.do, got, want)
			}
			var ps []netip.Prefix
			var err error
			h.in(func() { ps, err = h.h.Guests() })
			if err != nil {
				t.Fatal(err)
			}
			got = got[:0]
			for _, p := range ps {
				got = append(got, fmt.Sprint(p))
			}
			slices.Sort(got)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
