package router

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestAdopted(t *testing.T) {
	a, b, c := netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("10.32.0.2/12"), netip.MustParsePrefix("10.32.0.3/12")
	a24 := netip.MustParsePrefix("10.32.0.1/24")
	for _, tc := range []struct {
		name   string
		stored map[string][]netip.Prefix
		real   map[string][]netip.Prefix
		want   string
	}{
		{"as it should be", map[string][]netip.Prefix{"x": {a}}, map[string][]netip.Prefix{"x": {a}}, ""},
		{"nothing runs", map[string][]netip.Prefix{"x": {a}}, nil, ""},
		{"unknown to the state", nil, map[string][]netip.Prefix{"x": {a, b}}, "x[10.32.0.1/12 10.32.0.2/12] "},
		{"another really has it", map[string][]netip.Prefix{"x": {a, c}}, map[string][]netip.Prefix{"y": {a}}, "x[10.32.0.3/12] y[10.32.0.1/12] "},
		{"stored long ago with another length", map[string][]netip.Prefix{"x": {a}}, map[string][]netip.Prefix{"x": {a24}}, "x[10.32.0.1/24] "},
		{"two really have it", map[string][]netip.Prefix{"y": {a, b}}, map[string][]netip.Prefix{"x": {a, c}, "y": {a, b}}, "x[10.32.0.3/12] "},
		{"two really have what neither is stored with", nil, map[string][]netip.Prefix{"x": {a}, "y": {a, b}}, "x[10.32.0.1/12] y[10.32.0.2/12] "},
		{"stored twice", map[string][]netip.Prefix{"x": {a}, "y": {a, b}}, nil, "y[10.32.0.2/12] "},
		{"changed hands", map[string][]netip.Prefix{"x": {a}, "y": {b}}, map[string][]netip.Prefix{"x": {b}, "y": {a}}, "x[10.32.0.2/12] y[10.32.0.1/12] "},
		{"stored long ago", map[string][]netip.Prefix{"x": {a, b}}, map[string][]netip.Prefix{"x": {c}}, "x[10.32.0.3/12] "},
	} {
		stored := map[string]*attachment{}
		for k, as := range tc.stored {
			stored[k] = &attachment{Key: k, Addrs: as}
		}
		changed := adopted(stored, tc.real)
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
