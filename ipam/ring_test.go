package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRing(t *testing.T) {
	for _, tc := range []struct{ name, whole, grants, want, conflicts string }{
		{"nothing", "10.32.0.0/12", "", "", ""},
		{"seed", "10.32.0.0/12", "10.32.0.0/12 v1 - A", "10.32.0.0/12 A v1", ""},
		{
			"halves", "10.32.0.0/12", `
			10.32.0.0/12 v1 - A
			10.40.0.0/13 v2 A B
			10.44.0.0/14 v3 B C`, `
			10.32.0.0/13 A v1
			10.40.0.0/14 B v2
			10.44.0.0/14 C v3`, "",
		},
		{
			"a grant before its predecessor waits", "10.32.0.0/12", `
			10.32.0.0/12 v1 - A
			10.44.0.0/14 v3 B C`, `
			10.32.0.0/12 A v1`, "",
		},
		{"no seed", "10.32.0.0/12", "10.40.0.0/13 v2 A B", "", ""},
		{
			"nobody gives what is another's", "10.32.0.0/12", `
			10.32.0.0/12 v1 - A
			10.40.0.0/13 v2 C C
			10.40.0.0/13 v2 C B`, `
			10.32.0.0/12 A v1`, "",
		},
		{
			"small grants, then a larger one over them", "10.0.0.0/28", `
			10.0.0.0/28 v1 - A
			10.0.0.0/30 v2 A B
			10.0.0.4/30 v2 A B
			10.0.0.0/29 v3 B C`, `
			10.0.0.0/29 C v3
			10.0.0.8/29 A v1`, "",
		},
		{
			"a larger grant where only a part has got so far", "10.0.0.0/28", `
			10.0.0.0/28 v1 - A
			10.0.0.0/30 v2 A B
			10.0.0.0/29 v3 B C`, `
			10.0.0.0/30 C v3
			10.0.0.4/30 A v1
			10.0.0.8/29 A v1`, "",
		},
		{
			"to and fro", "10.0.0.0/28", `
			10.0.0.0/28 v1 - A
			10.0.0.0/28 v2 A B
			10.0.0.0/28 v3 B A
			10.0.0.8/29 v4 A B`, `
			10.0.0.0/29 A v3
			10.0.0.8/29 B v4`, "",
		},
		{
			"twice given: the lowest taker, and an alarm", "10.0.0.0/28", `
			10.0.0.0/28 v1 - A
			10.0.0.8/29 v2 A C
			10.0.0.8/30 v2 A B
			10.0.0.12/30 v3 C D`, `
			10.0.0.0/29 A v1
			10.0.0.8/30 B v2
			10.0.0.12/30 D v3`, `
			10.0.0.8/29 v2 B C`,
		},
		{
			"two founders", "10.0.0.0/28", `
			10.0.0.0/28 v1 - B
			10.0.0.0/28 v1 - A
			10.0.0.8/29 v2 B C`, `
			10.0.0.0/28 A v1`, `
			10.0.0.0/28 v1 A B`,
		},
		{
			"several seeds, as an election makes them", "10.0.0.0/28", `
			10.0.0.0/30 v1 - A
			10.0.0.4/30 v1 - B
			10.0.0.12/30 v1 - C`, `
			10.0.0.0/30 A v1
			10.0.0.4/30 B v1
			10.0.0.12/30 C v1`, "",
		},
		{
			"outside the range", "10.0.0.0/28", `
			10.0.0.0/8 v1 - A
			10.0.1.0/28 v1 - A
			fd00::/64 v1 - A`, "", "",
		},
		{
			"the end of all addresses", "255.255.255.0/24", `
			255.255.255.0/24 v1 - A
			255.255.255.255/32 v2 A B
			255.255.255.0/32 v2 A B`, `
			255.255.255.0/32 B v2
			255.255.255.1/32 A v1
			255.255.255.2/31 A v1
			255.255.255.4/30 A v1
			255.255.255.8/29 A v1
			255.255.255.16/28 A v1
			255.255.255.32/27 A v1
			255.255.255.64/26 A v1
			255.255.255.128/26 A v1
			255.255.255.192/27 A v1
			255.255.255.224/28 A v1
			255.255.255.240/29 A v1
			255.255.255.248/30 A v1
			255.255.255.252/31 A v1
			255.255.255.254/32 A v1
			255.255.255.255/32 B v2`, "",
		},
		{
			"IPv6", "fd00::/48", `
			fd00::/48 v1 - A
			fd00:0:0:8000::/49 v2 A B`, `
			fd00::/49 A v1
			fd00:0:0:8000::/49 B v2`, "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gs := grants(t, tc.grants)
			for range 10 {
				r, conflicts := NewRing(pfx(tc.whole), gs)
				if diff := cmp.Diff(lines(tc.want), lines(show(r))); diff != "" {
					t.Errorf("ring (-want +got):\n%s", diff)
				}
				got := ""
				for _, c := range conflicts {
					got += fmt.Sprintf("%v v%d %s %s\n", c.Prefix, c.Version, letter(c.A), letter(c.B))
				}
				if diff := cmp.Diff(lines(tc.conflicts), lines(got)); diff != "" {
					t.Errorf("conflicts (-want +got):\n%s", diff)
				}
				gs = append(gs, gs...)[:min(2*len(gs), 40)] // repeated, and in another order
				rand.Shuffle(len(gs), func(i, j int) { gs[i], gs[j] = gs[j], gs[i] })
			}
		})
	}
}

func TestRingOwnerAndOwned(t *testing.T) {
	r, _ := NewRing(pfx("10.32.0.0/12"), grants(t, `
		10.32.0.0/12 v1 - A
		10.40.0.0/13 v2 A B
		10.40.0.0/14 v3 B A`))
	for a, want := range map[string]string{
		"10.31.255.255": "-", "10.32.0.0": "A", "10.39.255.255": "A", "10.40.0.0": "A", "10.43.255.255": "A",
		"10.44.0.0": "B", "10.47.255.255": "B", "10.48.0.0": "-", "::ffff:10.44.0.0": "B", "::1": "-", "0.0.0.0": "-",
	} {
		if got := letter(r.Owner(netip.MustParseAddr(a))); got != want {
			t.Errorf("owner of %s is %s, want %s", a, got, want)
		}
	}
	if !r.Owner(netip.Addr{}).IsZero() {
		t.Error("no address has an owner")
	}
	if got, want := r.Owned(host(1)), []netip.Prefix{pfx("10.32.0.0/13"), pfx("10.40.0.0/14")}; !slices.Equal(got, want) {
		t.Errorf("A owns %v, want %v: versions do not matter", got, want)
	}
	if got := r.Owned(host(3)); got != nil {
		t.Errorf("C owns %v", got)
	}
	want := []Share{{host(1), 3 << 18, 0.75}, {host(2), 1 << 18, 0.25}}
	if diff := cmp.Diff(want, r.Shares()); diff != "" {
		t.Error(diff)
	}
	if got := r.Donors(host(3), pfx("10.32.0.0/12")); !slices.Equal(got, []Owner{host(1), host(2)}) {
		t.Errorf("donors: %v", got)
	}
	first := map[Owner]int{}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		got := r.Asked(host(3), pfx("10.32.0.0/12"), rng.Float64)
		if len(got) != 2 {
			t.Fatalf("asked: %v", got)
		}
		first[got[0]]++
	}
	if n := first[host(1)]; n < 7350 || n > 7650 { // of three quarters; more than three standard deviations
		t.Errorf("who has three quarters is asked first %d times of 10,000", n)
	}
	if got := r.Donors(host(1), pfx("10.44.1.0/24")); !slices.Equal(got, []Owner{host(2)}) {
		t.Errorf("donors in B's part: %v", got)
	}
}

func TestNoRing(t *testing.T) {
	var r *Ring
	if r.Seeded() || r.Parts() != nil || r.Shares() != nil || r.Owned(host(1)) != nil || !r.Owner(netip.MustParseAddr("10.0.0.1")).IsZero() || r.Whole().IsValid() {
		t.Error("a nil ring has owners")
	}
	if Donate(r, host(1), host(2), none, netip.Prefix{}) != nil || HandOver(r, host(1), host(2)) != nil || r.Donors(host(1), pfx("10.0.0.0/8")) != nil {
		t.Error("a nil ring gives")
	}
	if r, _ := NewRing(netip.Prefix{}, grants(t, "10.32.0.0/12 v1 - A")); r.Seeded() || r.Shares() != nil {
		t.Error("a ring without a range is seeded")
	}
}

func TestSharesOfIPv6(t *testing.T) {
	r, _ := NewRing(pfx("fd00::/48"), grants(t, "fd00::/48 v1 - A\nfd00:0:0:8000::/49 v2 A B"))
	for _, s := range r.Shares() {
		if s.Addresses != 1<<64-1 || s.Fraction != 0.5 {
			t.Errorf("%+v", s)
		}
	}
}

// manyGrants makes n grants as they come about: the newest host asks, what was given is split further, and whole blocks go to and fro.
func manyGrants(n int) (netip.Prefix, []Grant) {
	whole := pfx("10.0.0.0/8")
	gs := []Grant{Seed(whole, host(1))}
	blocks := []Part{{whole, host(1), 1}}
	rng := rand.New(rand.NewPCG(1, 2))
	for len(gs) < n {
		i := rng.IntN(len(blocks))
		b := &blocks[i]
		g := Grant{Prefix: b.Prefix, From: b.Owner, To: host(1 + rng.IntN(100)), Version: b.Version + 1}
		if g.To == g.From {
			continue
		}
		if b.Prefix.Bits() < 30 && rng.IntN(4) > 0 {
			low, high := halves(b.Prefix)
			g.Prefix, b.Prefix = high, low
			blocks = append(blocks, Part{high, g.To, g.Version})
		} else {
			b.Owner, b.Version = g.To, g.Version
		}
		gs = append(gs, g)
	}
	return whole, gs
}

// A whole range that went to and fro thousands of times, and thousands of blocks cut out of it at the end: with a cost of one step per
// grant and region this would take minutes.
func pingPong(n int) (netip.Prefix, []Grant) {
	whole := pfx("10.0.0.0/8")
	gs := []Grant{Seed(whole, host(1))}
	for v := uint32(2); len(gs) < n/2; v++ {
		gs = append(gs, Grant{Prefix: whole, From: host(int(1 + v%2)), To: host(int(1 + (v+1)%2)), Version: v})
	}
	last := gs[len(gs)-1]
	a := whole.Addr()
	for len(gs) < n {
		gs = append(gs, Grant{Prefix: netip.PrefixFrom(a, 32), From: last.To, To: host(3), Version: last.Version + 1})
		a = a.Next().Next().Next()
	}
	return whole, gs
}

func TestManyGrants(t *testing.T) {
	whole, gs := pingPong(40000)
	r, conflicts := NewRing(whole, gs)
	if len(conflicts) > 0 || len(r.Owned(host(3))) != 20000 {
		t.Errorf("%d conflicts, %d blocks", len(conflicts), len(r.Owned(host(3))))
	}
	whole, gs = manyGrants(40000)
	r, conflicts = NewRing(whole, gs)
	var sum float64
	for _, s := range r.Shares() {
		sum += s.Fraction
	}
	if len(conflicts) > 0 || sum < 0.999999 || sum > 1.000001 {
		t.Errorf("%d conflicts, shares add up to %v", len(conflicts), sum)
	}
}

func BenchmarkNewRing(b *testing.B) {
	for name, make := range map[string]func(int) (netip.Prefix, []Grant){"splits": manyGrants, "pingpong": pingPong} {
		for _, n := range []int{1000, 40000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				whole, gs := make(n)
				b.ReportAllocs()
				for b.Loop() {
					NewRing(whole, gs)
				}
			})
		}
	}
}

func BenchmarkOwner(b *testing.B) {
	r, _ := NewRing(manyGrants(40000))
	a := netip.MustParseAddr("10.77.1.2")
	for b.Loop() {
		r.Owner(a)
	}
}

// Both halves of the range were seeded for a; the chain that was granted for the whole has no address to its name, so it conflicts with nobody.
func TestNoConflictWithoutAddresses(t *testing.T) {
	a, b, c := host(1), host(2), host(3)
	whole := pfx("10.0.0.0/28")
	_, conflicts := NewRing(whole, []Grant{
		{Prefix: pfx("10.0.0.0/29"), To: a, Version: 1},
		{Prefix: pfx("10.0.0.8/29"), To: a, Version: 1},
		{Prefix: whole, To: b, Version: 1},
		{Prefix: whole, From: b, To: a, Version: 2},
		{Prefix: whole, From: b, To: c, Version: 2},
	})
	if want := []Conflict{{Prefix: whole, Version: 1, A: a, B: b}}; !slices.Equal(conflicts, want) {
		t.Errorf("conflicts are %v, want %v", conflicts, want)
	}
}

func TestSpares(t *testing.T) {
	r, _ := NewRing(pfx("10.0.0.0/24"), grants(t, "10.0.0.0/24 v1 - A\n10.0.0.128/25 v2 A B\n10.0.0.64/27 v2 A C\n10.0.0.96/28 v2 A D"))
	// A has 80 addresses, B 128, C 32 and D 16.
	all := []Owner{host(1), host(2), host(3), host(4)}
	for self, want := range map[Owner][]Owner{host(1): nil, host(2): nil, host(3): {host(1), host(2)}, host(4): {host(1), host(2)}, host(5): all} {
		if got := r.Spares(all, self, pfx("10.0.0.0/24")); !slices.Equal(got, want) {
			t.Errorf("%s asks %v, want %v", letter(self), got, want)
		}
	}
	if got := r.Spares(all, host(4), pfx("10.0.0.128/25")); !slices.Equal(got, []Owner{host(2)}) {
		t.Errorf("in a part that is B's, %v are asked", got)
	}
}
