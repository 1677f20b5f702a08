package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
	"pgregory.net/rapid"
)

func TestValidName(t *testing.T) {
	for _, c := range []struct{ name, want, err string }{
		{"web", "web.weft.local.", ""},
		{"Web.", "web.weft.local.", ""},
		{"WEB.Weft.Local", "web.weft.local.", ""},
		{"a.b.weft.local.", "a.b.weft.local.", ""},
		{"proj_web_1", "proj_web_1.weft.local.", ""},
		{"1", "1.weft.local.", ""},
		{"", "", "empty"},
		{".", "", "empty"},
		{"weft.local", "", "domain itself"},
		{"a.example.com", "", "names end in .weft.local"},
		{"xweft.local", "", "names end in"},
		{"-a", "", "hyphen"},
		{"a-", "", "hyphen"},
		{"a b", "", `holds ' '`},
		{"é", "", "holds"},
		{"*.weft.local", "", `holds '*'`},
		{"a..weft.local", "", "empty label"},
		{strings.Repeat("a", 64), "", "longer than 63"},
		{strings.Repeat("a.", 130) + "weft.local", "", "longer than 253"},
	} {
		got, err := ValidName(c.name, "weft.local")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v", c.name, got, err)
		}
	}
}

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"web", "a.b.weft.local.", "-", "..", `\000`, "A_1.weft.local", "weft.local"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fqdn, err := ValidName(s, "weft.local.")
		if err != nil {
			return
		}
		if again, err := ValidName(fqdn, "weft.local."); err != nil || again != fqdn {
			t.Errorf("%q: %q, then %q, %v", s, fqdn, again, err)
		}
		if _, err := question(fqdn, miekg.TypeA).Pack(); err != nil {
			t.Errorf("%q: pack %q: %v", s, fqdn, err)
		}
	})
}

func TestTable(t *testing.T) {
	rs := []Record{
		{Name: "Web.Weft.Local.", Addr: netip.MustParseAddr("10.32.0.9"), Owner: "c1", Host: "far", Rank: 2},
		{Name: "web.weft.local", Addr: netip.MustParseAddr("10.32.0.1"), Owner: "c2", Host: "near"},
		{Name: "web.weft.local", Addr: netip.MustParseAddr("10.32.0.9"), Owner: "c1", Host: "near", Rank: 1}, // same address again
		{Name: "web.weft.local", Addr: netip.MustParseAddr("::ffff:10.32.0.5"), Rank: 1},
		{Name: "web.weft.local", Addr: netip.Addr{}},
		{Name: "web.example.com", Addr: netip.MustParseAddr("10.32.0.7")},
		{Name: `bad\name.weft.local`, Addr: netip.MustParseAddr("10.32.0.8")},
	}
	table := NewTable("Weft.local", nil, rs)
	for _, name := range []string{"web", "WEB.", "web.weft.local", "Web.WEFT.local."} {
		if got, want := table.Lookup(name), mustAddrs("10.32.0.1", "10.32.0.5", "10.32.0.9"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"", ".", "weft.local", "nosuch", "local", "web.example.com", "8.0.32.10.in-addr.arpa"} {
		if got := table.Lookup(name); got != nil {
			t.Errorf("%q: %v", name, got)
		}
	}
	if got := table.Records(); len(got) != 4 || got[0].Owner != "c2" || got[3].Host != "far" || got[3].Name != "web.weft.local." {
		t.Errorf("records %+v", got)
	}
	if rs[0].Name != "Web.Weft.Local." {
		t.Error("the caller's records were changed")
	}
}

func TestReverseZones(t *testing.T) {
	for p, want := range map[string]string{
		"10.0.0.0/8":     "10.in-addr.arpa.",
		"10.32.1.0/24":   "1.32.10.in-addr.arpa.",
		"10.32.1.77/31":  "76.1.32.10.in-addr.arpa. 77.1.32.10.in-addr.arpa.",
		"10.32.0.0/15":   "32.10.in-addr.arpa. 33.10.in-addr.arpa.",
		"192.0.2.1/32":   "1.2.0.192.in-addr.arpa.",
		"fd00::/8":       "d.f.ip6.arpa.",
		"fd12:3456::/30": "4.5.4.3.2.1.d.f.ip6.arpa. 5.5.4.3.2.1.d.f.ip6.arpa. 6.5.4.3.2.1.d.f.ip6.arpa. 7.5.4.3.2.1.d.f.ip6.arpa.",
	} {
		if got := strings.Join(reverseZones(netip.MustParsePrefix(p)), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", p, got, want)
		}
	}
	if n := len(reverseZones(netip.MustParsePrefix("0.0.0.0/0"))); n != 256 {
		t.Errorf("%d zones", n)
	}
}

// An address's reverse name is in a zone of ours exactly if a range has the address.
func TestReverseZonesAreTheRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 4, 4)
		bits := rapid.IntRange(0, 32)
		if rapid.Bool().Draw(t, "v6") {
			raw = rapid.SliceOfN(rapid.Byte(), 16, 16)
			bits = rapid.IntRange(0, 128)
		}
		base, _ := netip.AddrFromSlice(raw.Draw(t, "base"))
		p := netip.PrefixFrom(base, bits.Draw(t, "bits"))
		a, _ := netip.AddrFromSlice(raw.Draw(t, "addr"))
		if rapid.Bool().Draw(t, "inside") { // most random addresses are not
			b, m := a.AsSlice(), p.Masked().Addr().AsSlice()
			for i := range p.Bits() {
				bit := byte(1) << (7 - i%8)
				b[i/8] = b[i/8]&^bit | m[i/8]&bit
			}
			a, _ = netip.AddrFromSlice(b)
		}
		rev := reverseOf(a)
		if lib, err := miekg.ReverseAddr(a.String()); !a.Is4In6() && (err != nil || lib != rev) {
			t.Fatalf("reverse of %v: %s, want %s, %v", a, rev, lib, err)
		}
		if p.Addr().Is4In6() {
			return
		}
		table := NewTable("weft.local", []netip.Prefix{p}, records("h", 0, "x.weft.local", a.String()))
		if in := table.zone(rev) != ""; in != p.Contains(a) {
			t.Fatalf("%v in %v: zone says %v", a, p, in)
		}
		if n := table.nodes[rev]; p.Contains(a) && (n == nil || !slices.Equal(n.names, []string{"x.weft.local."})) {
			t.Fatalf("PTR of %v: %+v", a, n)
		}
	})
}

// Every name between an apex and a name that exists, exists.
func TestNoNameHangsInTheAir(t *testing.T) {
	table := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.32.1.0/24")},
		records("h", 0, "a.b.c.weft.local", "10.32.1.4", "x.weft.local", "10.7.8.9"))
	for name := range table.nodes {
		for next, end := miekg.NextLabel(name, 0); !end; next, end = miekg.NextLabel(name, 0) {
			if name = name[next:]; table.zone(name) == "" {
				break
			}
			if table.nodes[name] == nil {
				t.Errorf("%s is missing", name)
			}
		}
	}
	if table.nodes["32.10.in-addr.arpa."] == nil || table.zone("4.1.32.10.in-addr.arpa.") != "1.32.10.in-addr.arpa." {
		t.Error("the inner zone hangs in the air")
	}
}
