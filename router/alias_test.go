package router

import (
	"net/netip"
	"strings"
	"testing"

	"weft/dns"
)

func TestAliasWarnings(t *testing.T) {
	alias := func(from, to string) dns.Record {
		return dns.Record{Name: from + ".weft.local.", Target: to + ".weft.local."}
	}
	table := dns.NewTable("weft.local", nil, []dns.Record{
		{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}, alias("a", "b"), alias("b", "c"), alias("x", "y"), alias("y", "x"),
	})
	for _, c := range []struct{ from, to, want string }{
		{"www", "web", ""}, {"www", "nobody", ""}, {"www", "a", ""},
		{"web", "a", "has addresses"},
		{"c", "a", "stands for itself by way of a.weft.local."},
		{"other", "x", ""}, // a ring of others
	} {
		got := strings.Join(aliasWarnings(table, c.from+".weft.local.", c.to+".weft.local."), "; ")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s for %s: %q, want %q", c.from, c.to, got, c.want)
		}
	}
}
