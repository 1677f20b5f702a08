package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var pfx = netip.MustParsePrefix

// host makes owner number n; number 0 is nobody.
func host(n int) Owner {
	if n == 0 {
		return Owner{}
	}
	return Owner{0: byte(n), 9: 1}
}

// grant reads "10.32.0.0/13 v2 A B": A gives to B; "-" is nobody.
func grant(t testing.TB, s string) Grant {
	t.Helper()
	f := strings.Fields(s)
	if len(f) != 4 {
		t.Fatalf("grant %q: want prefix, version, from, to", s)
	}
	var g Grant
	if _, err := fmt.Sscanf(f[1], "v%d", &g.Version); err != nil {
		t.Fatal(err)
	}
	name := func(s string) Owner {
		if s == "-" {
			return Owner{}
		}
		return host(int(s[0]-'A') + 1)
	}
	g.Prefix, g.From, g.To = pfx(f[0]), name(f[2]), name(f[3])
	return g
}

func letter(o Owner) string {
	if o.IsZero() {
		return "-"
	}
	return string(rune('A' + o[0] - 1))
}

// show writes a ring as lines that an operator can review.
func show(r *Ring) string {
	var b strings.Builder
	for _, p := range r.Parts() {
		fmt.Fprintf(&b, "%v %s v%d\n", p.Prefix, letter(p.Owner), p.Version)
	}
	return b.String()
}

func lines(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func grants(t testing.TB, s string) []Grant {
	t.Helper()
	var gs []Grant
	for l := range strings.Lines(s) {
		if strings.TrimSpace(l) != "" {
			gs = append(gs, grant(t, l))
		}
	}
	return gs
}

// addrs returns all addresses of a small prefix.
func addrs(p netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for a := p.Addr(); p.Contains(a); a = a.Next() {
		out = append(out, a)
	}
	return out
}

func none(netip.Prefix) bool { return false }

// usedIn makes the function that Donate asks.
func usedIn(as ...string) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool {
		return slices.ContainsFunc(as, func(a string) bool { return p.Contains(netip.MustParseAddr(a)) })
	}
}

func lineSeq(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for l := range strings.Lines(s) {
			if l = strings.TrimSpace(l); l != "" && !yield(l) {
				return
			}
		}
	}
}
