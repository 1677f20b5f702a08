package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// newAllocator makes host A's allocator on a ring given as grants.
func newAllocator(t testing.TB, ring string) *Allocator {
	t.Helper()
	gs := grants(t, ring)
	r, _ := NewRing(gs[0].Prefix, gs)
	al := NewAllocator(host(1), gs[0].Prefix, netip.Prefix{})
	al.SetRing(r)
	return al
}

func mustAllocate(t testing.TB, al *Allocator, container, subnet string) netip.Prefix {
	t.Helper()
	var s netip.Prefix
	if subnet != "" {
		s = pfx(subnet)
	}
	a, _, err := al.Allocate(container, s)
	if err != nil {
		t.Fatal(err)
	}
	return a.Addr
}

func TestAllocateLowestFree(t *testing.T) {
	al := newAllocator(t, "10.32.0.0/12 v1 - A")
	for i, want := range []string{"10.32.0.1/12", "10.32.0.2/12", "10.32.0.3/12"} {
		if got := mustAllocate(t, al, fmt.Sprint("c", i), ""); got != pfx(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got := mustAllocate(t, al, "c0", "10.32.0.0/24"); got != pfx("10.32.0.4/24") {
		t.Errorf("in another subnet the same container got %v", got)
	}
	if _, isNew, _ := al.Allocate("c1", netip.Prefix{}); isNew {
		t.Error("the second call for c1 made a new address")
	}
	al.Free(start, "c1", netip.MustParseAddr("10.32.0.2"))
	al.Expire(start.Add(Hold))
	if got := mustAllocate(t, al, "c9", ""); got != pfx("10.32.0.2/12") {
		t.Errorf("a freed address was not taken again, but %v", got)
	}
}

func TestAllocateFillsTheSubnet(t *testing.T) {
	for _, tc := range []struct {
		ring, subnet, want string
	}{
		{"10.0.0.0/29 v1 - A", "10.0.0.0/29", "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		{"10.0.0.0/28 v1 - A", "10.0.0.8/30", "10.0.0.9 10.0.0.10"},
		{"10.0.0.0/29 v1 - B\n10.0.0.2/31 v2 B A\n10.0.0.7/32 v2 B A\n10.0.0.0/32 v2 B A", "10.0.0.0/29", "10.0.0.2 10.0.0.3"},
		{"10.0.0.0/28 v1 - B\n10.0.0.4/30 v2 B A", "10.0.0.0/28", "10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7"},
		{"255.255.255.248/29 v1 - A", "255.255.255.248/29", "255.255.255.249 255.255.255.250 255.255.255.251 255.255.255.252 255.255.255.253 255.255.255.254"},
		{"fd00::/126 v1 - A", "fd00::/126", "fd00::1 fd00::2 fd00::3"},
		{"10.0.0.0/28 v1 - B", "10.0.0.0/28", ""},
	} {
		al := newAllocator(t, tc.ring)
		var got []string
		for i := 0; ; i++ {
			a, isNew, err := al.Allocate(fmt.Sprint("c", i), pfx(tc.subnet))
			if errors.Is(err, ErrNoSpace) {
				break
			}
			if err != nil || !isNew || a.Addr.Masked() != pfx(tc.subnet) || i > 99 {
				t.Fatalf("%s: %v, %v, %v", tc.ring, a, isNew, err)
			}
			got = append(got, a.Addr.Addr().String())
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s in %s: allocated %s, want %s", tc.subnet, tc.ring, s, tc.want)
		}
	}
}

func TestAllocateRefuses(t *testing.T) {
	al := newAllocator(t, "10.32.0.0/12 v1 - A")
	var re *RangeError
	if _, _, err := al.Allocate("c", pfx("192.168.0.0/24")); !errors.As(err, &re) || !strings.Contains(err.Error(), "ip:192.168.0.1/24") {
		t.Error(err)
	}
	if _, _, err := al.Allocate("c", pfx("10.0.0.0/8")); !errors.As(err, &re) {
		t.Error(err)
	}
	if _, _, err := al.Allocate("c", pfx("fd00::/64")); !errors.As(err, &re) {
		t.Error(err)
	}
	if _, _, err := al.Allocate("c", pfx("10.32.0.0/31")); err == nil {
		t.Error("allocated in a subnet of two addresses")
	}
	if _, _, err := al.Allocate("", netip.Prefix{}); err == nil {
		t.Error("allocated for no container")
	}
	al.SetRing(nil)
	if _, _, err := al.Allocate("c", netip.Prefix{}); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	if _, _, err := al.Claim("c", pfx("10.32.0.5/12")); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	al = NewAllocator(host(1), netip.Prefix{}, netip.Prefix{})
	if _, _, err := al.Allocate("c", netip.Prefix{}); err == nil || !strings.Contains(err.Error(), "no address range") {
		t.Error(err)
	}
	if _, _, err := al.Claim("c", pfx("10.32.0.5/12")); err != nil {
		t.Error("without a range, a claim was refused:", err)
	}
}

func TestClaim(t *testing.T) {
	al := newAllocator(t, "10.32.0.0/12 v1 - A\n10.40.0.0/13 v2 A B")
	claim := func(c, addr string) (bool, error) {
		a, isNew, err := al.Claim(c, pfx(addr))
		if err == nil && (a.Addr != pfx(addr) || a.Container != c) {
			t.Errorf("%s claimed %s and got %v", c, addr, a)
		}
		return isNew, err
	}
	for _, addr := range []string{"10.32.0.5/12", "192.168.77.7/24", "fd00::1/64"} {
		if isNew, err := claim("c", addr); !isNew || err != nil {
			t.Error(addr, isNew, err)
		}
		if isNew, err := claim("c", addr); isNew || err != nil {
			t.Error("again", addr, isNew, err)
		}
		var used *InUseError
		if _, err := claim("d", addr); !errors.As(err, &used) || used.By != "c" {
			t.Error("by another", addr, err)
		}
	}
	if isNew, err := claim("c", "10.32.0.5/24"); !isNew || err != nil || len(al.Lookup("c")) != 3 {
		t.Error("with another length", isNew, err, al.Lookup("c"))
	}
	var not *NotOwnedError
	if _, err := claim("c", "10.40.0.5/12"); !errors.As(err, &not) || not.Owner != host(2) {
		t.Error("another host's", err)
	}
	for _, addr := range []string{"127.0.0.1/8", "224.0.0.1/24", "169.254.1.1/16", "10.32.0.0/12", "10.47.255.255/12", "fe80::1/64", "0.0.0.0/0"} {
		if _, err := claim("c", addr); err == nil {
			t.Error(addr, "was claimed")
		}
	}
	if _, _, err := al.Claim("c", netip.Prefix{}); err == nil {
		t.Error("nothing was claimed")
	}
	if _, err := claim("", "10.32.0.9/12"); err == nil {
		t.Error("no container claimed")
	}
	// Allocation steps over claims, and a claim in the very subnet is the container's address there.
	if got := mustAllocate(t, al, "e", ""); got != pfx("10.32.0.1/12") {
		t.Error(got)
	}
	if _, err := claim("f", "10.32.0.2/12"); err != nil {
		t.Error(err)
	}
	if got := mustAllocate(t, al, "g", ""); got != pfx("10.32.0.3/12") {
		t.Error(got)
	}
	if got := mustAllocate(t, al, "f", ""); got != pfx("10.32.0.2/12") {
		t.Error(got)
	}
	// A container keeps what it has, whoever owns it now.
	al.SetRing(nil)
	if isNew, err := claim("f", "10.32.0.2/12"); isNew || err != nil {
		t.Error(isNew, err)
	}
	if a, isNew, err := al.Allocate("f", netip.Prefix{}); isNew || err != nil || a.Addr != pfx("10.32.0.2/12") {
		t.Error(a, isNew, err)
	}
}

func TestHold(t *testing.T) {
	al := newAllocator(t, "10.0.0.0/29 v1 - A")
	a := mustAllocate(t, al, "c", "")
	al.Claim("c", pfx("192.168.0.1/24"))
	if _, ok := al.Free(start, "d", a.Addr()); ok {
		t.Error("d freed c's address")
	}
	if got := al.FreeAll(start, "c"); len(got) != 2 || len(al.All()) != 0 || al.Lookup("c") != nil {
		t.Error("freed", got, "left", al.All())
	}
	if _, ok := al.Free(start, "c", a.Addr()); ok {
		t.Error("freed twice")
	}
	if !al.Used(netip.PrefixFrom(a.Addr(), 32)) || al.Used(pfx("192.168.0.0/24")) {
		t.Error("only addresses of the range are held")
	}
	if got := mustAllocate(t, al, "d", ""); got == a {
		t.Error("a held address was given to another container")
	}
	if got, isNew, _ := al.Allocate("c", netip.Prefix{}); got.Addr != a || !isNew {
		t.Error("the same container did not get its held address back", got)
	}
	al.Free(start, "c", a.Addr())
	if next := al.Expire(start.Add(Hold - 1)); !next.Equal(start.Add(Hold)) || !al.Used(netip.PrefixFrom(a.Addr(), 32)) {
		t.Error("the hold ended early", next)
	}
	if next := al.Expire(start.Add(Hold)); !next.IsZero() || al.Used(netip.PrefixFrom(a.Addr(), 32)) {
		t.Error("the hold did not end", next)
	}
	b := mustAllocate(t, al, "e", "")
	al.Free(start, "e", b.Addr())
	if got, isNew, err := al.Claim("f", b); err != nil || !isNew || got.Container != "f" {
		t.Error("a held address could not be claimed", got, isNew, err)
	}
	if next := al.Expire(start.Add(time.Hour)); !next.IsZero() || len(al.Lookup("f")) != 1 {
		t.Error("a claimed address was still on hold")
	}
	// What was on hold is not given back to its container after it was given to another host.
	c := mustAllocate(t, al, "g", "")
	al.Free(start, "g", c.Addr())
	r, _ := NewRing(pfx("10.0.0.0/29"), grants(t, "10.0.0.0/29 v1 - B"))
	al.SetRing(r)
	if _, _, err := al.Allocate("g", netip.Prefix{}); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
}

// An allocator in the place of another holds back what that one did, for as long.
func TestKeepHolds(t *testing.T) {
	old := newAllocator(t, "10.0.0.0/29 v1 - A")
	a, b, c := mustAllocate(t, old, "a", ""), mustAllocate(t, old, "b", ""), mustAllocate(t, old, "c", "")
	old.Free(start, "a", a.Addr())
	old.Free(start, "b", b.Addr())
	al := newAllocator(t, "10.0.0.0/29 v1 - A")
	al.Restore([]Allocation{{Container: "x", Addr: b}})
	al.KeepHolds(old)
	if all := al.All(); len(all) != 1 || all[0].Container != "x" {
		t.Error(all)
	}
	if got := mustAllocate(t, al, "d", ""); got != c {
		t.Errorf("d gets %v", got)
	}
	if next := al.Expire(start); !next.Equal(start.Add(Hold)) || !al.Used(netip.PrefixFrom(a.Addr(), 32)) {
		t.Errorf("the next hold ends %v", next)
	}
	if got := mustAllocate(t, al, "a", ""); got != a {
		t.Errorf("a gets %v", got)
	}
}

func TestRestore(t *testing.T) {
	al := newAllocator(t, "10.32.0.0/12 v1 - A")
	mustAllocate(t, al, "c", "")
	mustAllocate(t, al, "d", "10.32.1.0/24")
	al.Claim("c", pfx("192.168.0.1/24"))
	saved := al.All()

	again := NewAllocator(host(1), pfx("10.32.0.0/12"), netip.Prefix{})
	if errs := again.Restore(append(slices.Clone(saved), saved...)); errs != nil {
		t.Error(errs)
	}
	if !slices.Equal(again.All(), saved) {
		t.Errorf("restored %v, want %v", again.All(), saved)
	}
	again.SetRing(al.ring)
	if got := mustAllocate(t, again, "c", ""); got != pfx("10.32.0.1/12") {
		t.Error("c was given", got)
	}
	errs := again.Restore([]Allocation{
		{Container: "x", Addr: pfx("10.32.0.1/12")}, {Container: "", Addr: pfx("10.32.0.9/12")},
		{Container: "x", Addr: pfx("127.0.0.1/8")}, {Container: "x"}, {Container: "x", Addr: pfx("10.32.0.10/12")},
	})
	if len(errs) != 4 || len(again.Lookup("x")) != 1 {
		t.Error(errs, again.Lookup("x"))
	}
}

func TestUsed(t *testing.T) {
	al := newAllocator(t, "10.32.0.0/12 v1 - A")
	al.Claim("c", pfx("10.32.0.5/12"))
	for p, want := range map[string]bool{
		"10.32.0.5/32": true, "10.32.0.4/30": true, "10.32.0.0/12": true, "10.32.0.0/30": false, "10.32.0.6/31": false, "10.40.0.0/13": false, "fd00::/8": false,
	} {
		if got := al.Used(pfx(p)); got != want {
			t.Errorf("%s used: %v", p, got)
		}
	}
}

// A range that is narrower than the default subnet: containers have addresses of the range, and the subnet's length.
func TestRangeWithinTheSubnet(t *testing.T) {
	whole := pfx("10.1.0.0/30")
	al := NewAllocator(host(1), whole, pfx("10.1.0.0/16"))
	r, _ := NewRing(whole, []Grant{Seed(whole, host(1))})
	al.SetRing(r)
	got := ""
	for i := range 4 {
		a, _, err := al.Allocate(fmt.Sprint("c", i), netip.Prefix{})
		got += fmt.Sprint(a.Addr, errors.Is(err, ErrNoSpace), " ")
	}
	if want := "10.1.0.1/16 false 10.1.0.2/16 false 10.1.0.3/16 false invalid Prefix true "; got != want {
		t.Errorf("allocated %s, want %s", got, want)
	}
	if _, _, err := al.Claim("d", pfx("10.1.77.1/16")); err != nil {
		t.Errorf("the operator's part of the subnet: %v", err)
	}
}

func TestFull(t *testing.T) {
	al := NewAllocator(host(1), pfx("10.32.0.0/12"), netip.Prefix{})
	r, _ := NewRing(pfx("10.32.0.0/12"), []Grant{Seed(pfx("10.32.0.0/12"), host(1))})
	al.SetRing(r)
	for _, a := range []string{"10.32.0.7/12", "10.32.0.8/12", "10.32.0.9/12", "10.32.0.12/12"} {
		if _, _, err := al.Claim("c", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	al.Free(start, "c", netip.MustParseAddr("10.32.0.9")) // on hold
	for p, want := range map[string]bool{"10.32.0.8/32": true, "10.32.0.8/31": true, "10.32.0.8/30": false, "10.32.0.10/31": false, "10.32.0.12/31": false, "10.32.0.13/32": false,
		"10.32.0.12/32": true, "10.32.0.6/31": false, "10.32.0.0/12": false, "fd00::/64": false} {
		if got := al.Full(netip.MustParsePrefix(p)); got != want {
			t.Errorf("%s is full: %v", p, got)
		}
	}
}
