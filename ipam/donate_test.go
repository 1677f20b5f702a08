package ipam

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDonate(t *testing.T) {
	for _, tc := range []struct {
		name, ring, subnet string
		used               []string
		want               string
	}{
		{"the upper half", "10.32.0.0/12 v1 - A", "", nil, "10.40.0.0/13 v2"},
		{"the free half", "10.32.0.0/12 v1 - A", "", []string{"10.40.0.1"}, "10.32.0.0/13 v2"},
		{"two free quarters", "10.32.0.0/12 v1 - A", "", []string{"10.32.0.1", "10.40.0.1"}, "10.44.0.0/14 v2\n10.36.0.0/14 v2"},
		{"half of what is left", "10.32.0.0/12 v1 - A\n10.40.0.0/13 v2 A B", "", []string{"10.32.0.1"}, "10.36.0.0/14 v2"},
		{"within the subnet only", "10.32.0.0/12 v1 - A", "10.32.1.0/24", nil, "10.32.1.128/25 v2"},
		{"a subnet that is another's", "10.32.0.0/12 v1 - A\n10.40.0.0/13 v2 A B", "10.40.0.0/24", nil, ""},
		{"a subnet elsewhere", "10.32.0.0/12 v1 - A", "192.168.0.0/24", nil, ""},
		{"a subnet around the range", "10.32.0.0/12 v1 - A", "10.0.0.0/8", nil, "10.40.0.0/13 v2"},
		{"each part with its version", "10.0.0.0/28 v1 - B\n10.0.0.0/30 v2 B A\n10.0.0.8/30 v2 B C\n10.0.0.8/30 v3 C A", "", []string{"10.0.0.9"}, "10.0.0.0/30 v3"},
		{"everything is used", "10.0.0.0/31 v1 - A", "", []string{"10.0.0.0", "10.0.0.1"}, ""},
		{"one address has no half", "10.0.0.0/24 v1 - B\n10.0.0.7/32 v2 B A", "", nil, ""},
		{"unless it is asked for by name", "10.0.0.0/24 v1 - B\n10.0.0.7/32 v2 B A", "10.0.0.7/32", nil, "10.0.0.7/32 v3"},
		{"not if it is used", "10.0.0.0/24 v1 - B\n10.0.0.7/32 v2 B A", "10.0.0.7/32", []string{"10.0.0.7"}, ""},
		{"one address out of many", "10.32.0.0/12 v1 - A", "10.32.0.9/32", []string{"10.32.0.1"}, "10.32.0.9/32 v2"},
		{"one of two", "10.0.0.0/24 v1 - B\n10.0.0.6/31 v2 B A", "", []string{"10.0.0.6"}, "10.0.0.7/32 v3"},
		{"not the address that nobody can use", "10.0.0.0/24 v1 - B\n10.0.0.0/31 v2 B A", "", []string{"10.0.0.1"}, ""},
		{"nor when a block is cut", "10.0.0.0/24 v1 - B\n10.0.0.0/31 v2 B A", "10.0.0.0/24", nil, "10.0.0.1/32 v3"},
		{"the broadcast address neither", "10.0.0.0/24 v1 - B\n10.0.0.254/31 v2 B A", "10.0.0.0/24", []string{"10.0.0.254"}, ""},
		{"IPv6", "fd00::/64 v1 - A", "", []string{"fd00::1"}, "fd00:0:0:0:8000::/65 v2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gs := grants(t, tc.ring)
			r, _ := NewRing(gs[0].Prefix, gs)
			var subnet netip.Prefix
			if tc.subnet != "" {
				subnet = pfx(tc.subnet)
			}
			got := ""
			for _, g := range Donate(r, host(1), host(9), usedIn(tc.used...), subnet) {
				if g.From != host(1) || g.To != host(9) {
					t.Errorf("%v is not from A to I", g)
				}
				got += fmt.Sprintf("%v v%d\n", g.Prefix, g.Version)
			}
			if diff := cmp.Diff(lines(normal(tc.want)), lines(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// normal writes prefixes the way netip prints them.
func normal(s string) string {
	out := ""
	for l := range lineSeq(s) {
		var p, v string
		fmt.Sscan(l, &p, &v)
		out += pfx(p).String() + " " + v + "\n"
	}
	return out
}

func TestDonateToOneself(t *testing.T) {
	r, _ := NewRing(pfx("10.32.0.0/12"), grants(t, "10.32.0.0/12 v1 - A"))
	for _, gs := range [][]Grant{
		Donate(r, host(1), host(1), none, netip.Prefix{}), Donate(r, host(1), Owner{}, none, netip.Prefix{}),
		Donate(r, Owner{}, host(2), none, netip.Prefix{}), HandOver(r, host(1), host(1)), HandOver(r, host(1), Owner{}), HandOver(r, host(2), host(1)),
	} {
		if gs != nil {
			t.Errorf("gave %v", gs)
		}
	}
}

func TestHandOver(t *testing.T) {
	gs := grants(t, "10.32.0.0/12 v1 - A\n10.40.0.0/13 v2 A B\n10.40.0.0/14 v3 B A")
	r, _ := NewRing(gs[0].Prefix, gs)
	r, conflicts := NewRing(gs[0].Prefix, append(gs, HandOver(r, host(1), host(2))...))
	if want := "10.32.0.0/13 B v2\n10.40.0.0/14 B v4\n10.44.0.0/14 B v2"; len(conflicts) > 0 || lines(show(r)) != want {
		t.Errorf("after the hand-over:\n%s", show(r))
	}
}

// Three hosts, each newcomer asking the one with most: about 50, 25 and 25 %, also when everybody has containers.
func TestThreeHostsShare(t *testing.T) {
	whole := pfx("10.32.0.0/12")
	gs := []Grant{Seed(whole, host(1))}
	allocators := map[Owner]*Allocator{}
	for n := 1; n <= 3; n++ {
		self := host(n)
		al := NewAllocator(self, whole, netip.Prefix{})
		allocators[self] = al
		r, _ := NewRing(whole, gs)
		if n > 1 {
			donor := r.Donors(self, whole)[0]
			gs = append(gs, Donate(r, donor, self, allocators[donor].Used, whole)...)
			r, _ = NewRing(whole, gs)
		}
		for _, al := range allocators {
			al.SetRing(r)
		}
		for c := range 20 {
			if _, _, err := al.Allocate(fmt.Sprint(c), netip.Prefix{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, _ := NewRing(whole, gs)
	var got []float64
	for _, s := range r.Shares() {
		got = append(got, s.Fraction)
		if n := len(r.Owned(s.Owner)); n > maxDonation {
			t.Errorf("%s has %d blocks", letter(s.Owner), n)
		}
	}
	for i, want := range []float64{0.25, 0.5, 0.25} {
		if got[i] < want-0.02 || got[i] > want+0.02 {
			t.Errorf("shares are %v", got)
		}
	}
}

// Whatever is owned and used: what is given is free, the giver's, at most half, and folds without conflict.
func TestDonateGivesOnlyFreeSpace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.SampledFrom([]netip.Prefix{pfx("10.0.0.0/27"), pfx("fd00::/123")}).Draw(t, "whole")
		gs := []Grant{Seed(whole, host(1))}
		r, _ := NewRing(whole, gs)
		for range rapid.IntRange(0, 6).Draw(t, "gifts") {
			g := drawGrant(t, whole)
			for _, p := range r.Parts() {
				if q, ok := intersect(p.Prefix, g.Prefix); ok && p.Owner != g.To {
					gs = append(gs, Grant{Prefix: q, From: p.Owner, To: g.To, Version: p.Version + 1})
				}
			}
			r, _ = NewRing(whole, gs)
		}
		taken := map[netip.Addr]bool{}
		for _, a := range addrs(whole) {
			taken[a] = rapid.IntRange(0, 7).Draw(t, "used") == 0
		}
		used := func(p netip.Prefix) bool {
			for _, a := range addrs(p) {
				if taken[a] {
					return true
				}
			}
			return false
		}
		subnet := rapid.SampledFrom([]netip.Prefix{{}, whole, netip.PrefixFrom(whole.Addr(), whole.Bits()+2)}).Draw(t, "subnet")
		gift := Donate(r, host(1), host(4), used, subnet)

		owned, given := 0, 0
		for _, a := range addrs(whole) {
			if r.Owner(a) == host(1) && (!subnet.IsValid() || subnet.Contains(a)) {
				owned++
			}
		}
		for _, g := range gift {
			for _, a := range addrs(g.Prefix) {
				given++
				if taken[a] || r.Owner(a) != host(1) || subnet.IsValid() && !subnet.Contains(a) {
					t.Fatalf("gave %v: used %v, of %s", a, taken[a], letter(r.Owner(a)))
				}
			}
		}
		if given > owned/2 || len(gift) > maxDonation {
			t.Fatalf("gave %d of %d addresses in %d blocks", given, owned, len(gift))
		}
		after, conflicts := NewRing(whole, append(gs, gift...))
		if len(conflicts) > 0 {
			t.Fatal(conflicts)
		}
		for _, g := range gift {
			for _, a := range addrs(g.Prefix) {
				if after.Owner(a) != host(4) {
					t.Fatalf("%v was given and is %s's", a, letter(after.Owner(a)))
				}
			}
		}
	})
}

// Of blocks of one size the one goes that the asker has the other half of.
func TestDonateMerges(t *testing.T) {
	whole := pfx("10.0.0.0/24")
	r, _ := NewRing(whole, []Grant{Seed(whole, host(1)), {Prefix: pfx("10.0.0.64/26"), From: host(1), To: host(2), Version: 2}})
	used := func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr("10.0.0.200")) }
	for who, want := range map[Owner]string{host(2): "10.0.0.0/26", host(3): "10.0.0.128/26"} {
		gs := Donate(r, host(1), who, used, whole)
		if len(gs) == 0 || gs[0].Prefix != pfx(want) {
			t.Errorf("%s is given %v, want %s", letter(who), gs, want)
		}
	}
}
