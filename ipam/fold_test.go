package ipam

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// chain follows the chain of one address the way the package comment tells it.
func chain(a netip.Addr, gs []Grant) (owner Owner, version uint32) {
	for v := uint32(1); v <= 4; v++ {
		var next Owner
		for _, g := range gs {
			if g.Version == v && g.From == owner && g.Prefix.Contains(a) && (next.IsZero() || g.To.Compare(next) < 0) {
				next = g.To
			}
		}
		if !next.IsZero() {
			owner, version = next, v
		}
	}
	return owner, version
}

func drawGrant(t *rapid.T, whole netip.Prefix) Grant {
	bits := rapid.IntRange(whole.Bits(), whole.Addr().BitLen()).Draw(t, "bits")
	a := whole.Addr()
	for range rapid.IntRange(0, 15).Draw(t, "address") {
		a = a.Next()
	}
	g := Grant{Prefix: netip.PrefixFrom(a, bits).Masked(), Version: uint32(rapid.IntRange(1, 4).Draw(t, "version"))}
	g.To = host(rapid.IntRange(1, 3).Draw(t, "to"))
	if g.Version > 1 {
		g.From = host(rapid.IntRange(1, 3).Draw(t, "from"))
	}
	return g
}

// Any set of grants, lies and gaps among them, folds to the chain of each address, in any order and with repetitions.
func TestFoldIsOrderFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.SampledFrom([]netip.Prefix{pfx("10.0.0.0/28"), pfx("fd00::/124"), pfx("255.255.255.240/28")}).Draw(t, "whole")
		gs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Grant { return drawGrant(t, whole) }), 0, 24).Draw(t, "grants")
		valid := slices.DeleteFunc(slices.Clone(gs), func(g Grant) bool { return g.check() != nil })

		r, conflicts := NewRing(whole, gs)
		for _, a := range addrs(whole) {
			owner, _ := chain(a, valid)
			if got := r.Owner(a); got != owner {
				t.Fatalf("owner of %v is %s, its chain says %s", a, letter(got), letter(owner))
			}
		}
		checkParts(t, r, valid)
		checkConflicts(t, whole, valid, conflicts)

		again := rapid.Permutation(append(slices.Clone(gs), gs...)).Draw(t, "permutation")
		r2, conflicts2 := NewRing(whole, again)
		if !slices.Equal(r.Parts(), r2.Parts()) || !slices.Equal(conflicts, conflicts2) {
			t.Fatalf("another order folds to\n%s%v\ninstead of\n%s%v", show(r2), conflicts2, show(r), conflicts)
		}
	})
}

// checkParts wants the parts sorted, aligned, disjoint, and of one owner and version; and Owned and Shares to agree with them.
func checkParts(t *rapid.T, r *Ring, valid []Grant) {
	var owned []netip.Addr
	for i, p := range r.Parts() {
		if p.Prefix != p.Prefix.Masked() || i > 0 && r.parts[i-1].Prefix.Overlaps(p.Prefix) {
			t.Fatalf("parts are not aligned and disjoint:\n%s", show(r))
		}
		for _, a := range addrs(p.Prefix) {
			if owner, version := chain(a, valid); owner != p.Owner || version != p.Version {
				t.Fatalf("%v is in %v %s v%d, its chain says %s v%d", a, p.Prefix, letter(p.Owner), p.Version, letter(owner), version)
			}
			owned = append(owned, a)
		}
	}
	if !slices.IsSortedFunc(owned, netip.Addr.Compare) {
		t.Fatalf("parts are not sorted:\n%s", show(r))
	}
	for _, s := range r.Shares() {
		n := 0
		for _, p := range r.Owned(s.Owner) {
			for _, a := range addrs(p) {
				n++
				if r.Owner(a) != s.Owner {
					t.Fatalf("%v is in what %s owns, but is %s's", a, letter(s.Owner), letter(r.Owner(a)))
				}
			}
		}
		if uint64(n) != s.Addresses {
			t.Fatalf("%s owns %d addresses, its share is %d", letter(s.Owner), n, s.Addresses)
		}
	}
}

// checkConflicts wants a conflict exactly for the grants that continue a chain but were not preferred.
func checkConflicts(t *rapid.T, whole netip.Prefix, valid []Grant, got []Conflict) {
	for _, g := range valid {
		lost := false
		for _, a := range addrs(g.Prefix) {
			older := slices.DeleteFunc(slices.Clone(valid), func(o Grant) bool { return o.Version >= g.Version })
			upTo := slices.DeleteFunc(slices.Clone(valid), func(o Grant) bool { return o.Version > g.Version })
			owner, _ := chain(a, older)
			winner, _ := chain(a, upTo)
			lost = lost || owner == g.From && winner != g.To
		}
		reported := slices.ContainsFunc(got, func(c Conflict) bool {
			return c.Prefix == g.Prefix && c.Version == g.Version && c.From == g.From && c.B == g.To
		})
		if within(g.Prefix, whole) && lost != reported {
			t.Fatalf("%v lost: %v, reported: %v", g, lost, reported)
		}
	}
}
