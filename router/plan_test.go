package router

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// planOf makes the plan of host 1 in a mesh of n hosts that share the range.
func planOf(n int, change func(*inputs)) plan {
	whole := pfx("10.32.0.0/12")
	ids := make([]peer.ID, n+1)
	for i := range ids {
		ids[i] = peer.ID{byte(i)}
	}
	gs := []ipam.Grant{ipam.Seed(whole, ipam.Owner(ids[1]))}
	if n > 1 {
		gs = append(gs, ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: ipam.Owner(ids[1]), To: ipam.Owner(ids[2]), Version: 2})
	}
	ring, _ := ipam.NewRing(whole, gs)
	in := inputs{
		Self: ids[1], Key: peer.Key{1}, MeshID: mesh.MeshID{9}, Ring: ring, Range: whole, Port: 6783, Gossip: 7946, MTU: 1420,
		PSK:     func(k peer.Key) peer.Key { return peer.Key{k[0], 77} },
		Observe: func(peer.ID) []netip.AddrPort { return nil },
		Holds:   func(peer.Key, peer.ID) bool { return false },
	}
	for i := 1; i <= n; i++ {
		in.Hosts = append(in.Hosts, mesh.Host{ID: ids[i], Self: i == 1, Liveness: mesh.Alive,
			Record: mesh.Record{WireGuard: peer.Key{byte(i)}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:6783", i))}}})
	}
	if change != nil {
		change(&in)
	}
	return makePlan(in)
}

func TestPlanPeers(t *testing.T) {
	control := func(i byte) netip.Prefix { return host128(peer.ControlAddr(mesh.MeshID{9}.Control(), peer.ID{i})) }
	p := planOf(3, func(in *inputs) {
		in.Claims = []hostClaim{{Addr: pfx("172.30.5.2/24"), Host: peer.ID{3}}, {Addr: pfx("172.30.5.2/24"), Host: peer.ID{2}},
			{Addr: pfx("10.32.0.7/12"), Host: peer.ID{3}}, // inside the range: the ring alone decides
			{Addr: control(2), Host: peer.ID{3}}}
	})
	if len(p.Peers) != 2 {
		t.Fatalf("%d peers, want the other two", len(p.Peers))
	}
	for i, want := range [][]netip.Prefix{{pfx("10.40.0.0/13"), pfx("172.30.5.2/32"), control(2)}, {control(3)}} {
		c := p.Peers[i].Config
		if !slices.Equal(c.AllowedIPs, want) {
			t.Errorf("peer %d: allowed IPs %v, want %v", i+2, c.AllowedIPs, want)
		}
		if c.PresharedKey != (peer.Key{byte(i + 2), 77}) || c.Keepalive != keepalive || c.PublicKey != (peer.Key{byte(i + 2)}) {
			t.Errorf("peer %d: %+v", i+2, c)
		}
	}
	if len(p.ClaimConflicts) != 1 || !strings.Contains(p.ClaimConflicts[0], "172.30.5.2") {
		t.Errorf("conflicts %q", p.ClaimConflicts)
	}
}

// A member can name any endpoint and claim any address; neither may lead this
// host's own traffic astray.
func TestPlanRefusesWhatWouldLeadAstray(t *testing.T) {
	p := planOf(2, func(in *inputs) {
		in.Hosts[1].Record.Endpoints = []netip.AddrPort{
			netip.AddrPortFrom(peer.ControlAddr(in.MeshID.Control(), peer.ID{1}), 6783), // a tunnel in itself
			netip.MustParseAddrPort("10.33.0.1:6783"),                                   // likewise
			netip.MustParseAddrPort("192.0.2.2:6783"), netip.MustParseAddrPort("192.0.2.2:6783")}
		in.Claims = []hostClaim{{Addr: pfx("8.8.8.8/1"), Host: peer.ID{2}}}
	})
	if got := p.Peers[0].Try; !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:6783")}) {
		t.Errorf("endpoints to try %v", got)
	}
	if !slices.Equal(p.Host.Covered, []netip.Prefix{pfx("10.32.0.0/12")}) {
		t.Errorf("covered %v: a claim elsewhere drew a route", p.Host.Covered)
	}
}

func TestPlanLocal(t *testing.T) {
	p := planOf(1, func(in *inputs) {
		in.Local = []*attachment{
			{Key: "b", running: true, Addrs: []netip.Prefix{pfx("172.30.5.1/24"), pfx("10.32.0.2/12")}},
			{Key: "a", running: false, Addrs: []netip.Prefix{pfx("172.31.0.1/24"), pfx("10.32.0.1/12")}},
		}
	})
	if len(p.Host.Local) != 1 || !slices.Equal(p.Host.Local[0].Addrs, []netip.Prefix{pfx("10.32.0.2/12"), pfx("172.30.5.1/24")}) {
		t.Errorf("local %v, want what runs", p.Host.Local)
	}
	// A subnet outside the range stays covered while its container is down:
	// what is for it must not leave in clear.
	want := []netip.Prefix{pfx("10.32.0.0/12"), pfx("172.30.5.0/24"), pfx("172.31.0.0/24")}
	if !slices.Equal(p.Host.Covered, want) || !slices.Equal(p.Reverse, want) {
		t.Errorf("covered %v, reverse %v, want %v", p.Host.Covered, p.Reverse, want)
	}
}

// Equal states give equal plans, whatever the order of the inputs; a departed
// host has no tunnel.
func TestPlanIsAFunctionOfTheState(t *testing.T) {
	fill := func(in *inputs) {
		in.Claims = []hostClaim{{pfx("172.30.5.2/24"), peer.ID{2}}, {pfx("172.30.5.3/24"), peer.ID{2}}}
		in.Local = []*attachment{{Key: "x", running: true, Addrs: []netip.Prefix{pfx("10.32.0.1/12")}}, {Key: "y", running: true, Addrs: []netip.Prefix{pfx("10.32.0.2/12")}}}
	}
	a := planOf(5, fill)
	b := planOf(5, func(in *inputs) {
		fill(in)
		slices.Reverse(in.Hosts)
		slices.Reverse(in.Claims)
		slices.Reverse(in.Local)
	})
	if !reflect.DeepEqual(a, b) {
		t.Errorf("the order of the inputs shows:\n%+v\n%+v", a, b)
	}
	if c := planOf(5, func(in *inputs) { in.Gone = map[peer.ID]bool{{2}: true} }); len(c.Peers) != 3 {
		t.Errorf("%d peers, want 3 without the departed one", len(c.Peers))
	}
}
