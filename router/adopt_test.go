package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"weft/ipam"
)

func TestAdopted(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("10.32.0.2/12"), netip.MustParsePrefix("10.32.0.3/12")
	for _, tc := range []struct {
		name   string
		stored map[string][]netip.Prefix
		real   map[string][]netip.Prefix
		doubt  bool
		want   string
	}{
		{"as it should be", map[string][]netip.Prefix{"x": {a}}, map[string][]netip.Prefix{"x": {a}}, true, ""},
		{"nothing runs", map[string][]netip.Prefix{"x": {a}}, nil, true, ""},
		{"unknown to the state", nil, map[string][]netip.Prefix{"x": {a, b}}, false, "x[10.32.0.1/12 10.32.0.2/12] "},
		{"another really has it", map[string][]netip.Prefix{"x": {a, c}}, map[string][]netip.Prefix{"y": {a}}, false, "x[10.32.0.3/12] y[10.32.0.1/12] "},
		{"stored, not wired yet", map[string][]netip.Prefix{"x": {a, b}}, map[string][]netip.Prefix{"x": {a}}, false, ""},
		{"stored long ago", map[string][]netip.Prefix{"x": {a, b}}, map[string][]netip.Prefix{"x": {c}}, true, "x[10.32.0.3/12] "},
	} {
		stored := map[string]*attachment{}
		for k, as := range tc.stored {
			stored[k] = &attachment{Key: k, Addrs: as}
		}
		changed := adopted(stored, tc.real, tc.doubt)
		slices.SortFunc(changed, func(a, b *attachment) int { return compareStrings(a.Key, b.Key) })
		got := ""
		for _, x := range changed {
			got += fmt.Sprintf("%s%v ", x.Key, x.Addrs)
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// While containers run whose addresses nobody knows, none are given out; when they
// have ended, or are known, they are.
func TestStrangersHoldAddressesBack(t *testing.T) {
	r := newFounder(t).start()
	r.strangers = []string{"one", "two"}
	for _, c := range []struct {
		attached []string
		held     bool
	}{{[]string{"one", "two", "three"}, true}, {[]string{"two"}, true}, {[]string{"three"}, false}} {
		r.keepStrangers(c.attached)
		if _, _, err := r.tryAllocate("c", netip.Prefix{}); errors.Is(err, ipam.ErrUnproven) != c.held {
			t.Errorf("with %v on the mesh: %v", c.attached, err)
		}
	}
}
