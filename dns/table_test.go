package dns

import (
	"fmt"
	"maps"
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

func TestValidPattern(t *testing.T) {
	for name, want := range map[string]string{
		"*.x": "*.x.weft.local.", "*.X.weft.local": "*.x.weft.local.", "*.weft.local.": "*.weft.local.", "web": "web.weft.local.",
		"*": "", "*x": "", "a.*.weft.local": "", "*.*.weft.local": "", "*.example.com": "", "*.": "",
	} {
		if got, err := ValidPattern(name, "weft.local"); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
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
		{Name: "Web.Weft.Local.", Addr: netip.MustParseAddr("10.32.0.9"), Owner: "c1", Host: "far"},
		{Name: "web.weft.local", Addr: netip.MustParseAddr("10.32.0.1"), Owner: "c2", Host: "near"},
		{Name: "web.weft.local", Addr: netip.MustParseAddr("10.32.0.9"), Owner: "c1", Host: "mid"}, // same address again
		{Name: "web.weft.local", Addr: netip.MustParseAddr("::ffff:10.32.0.5"), Host: "mid"},
		{Name: "web.weft.local", Addr: netip.Addr{}},
		{Name: "web.example.com", Addr: netip.MustParseAddr("10.32.0.7")},
		{Name: `bad\name.weft.local`, Addr: netip.MustParseAddr("10.32.0.8")},
	}
	e := NewTable("Weft.local", nil, rs).Edit()
	e.SetHost("mid", HostState{Rank: 1})
	e.SetHost("far", HostState{Rank: 2})
	table := e.Done()
	for _, name := range []string{"web", "WEB.", "web.weft.local", "Web.WEFT.local."} {
		got := table.Lookup(name)
		if len(got) == 3 {
			slices.SortFunc(got[1:], netip.Addr.Compare) // of one rank
		}
		if want := mustAddrs("10.32.0.1", "10.32.0.5", "10.32.0.9"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"", ".", "weft.local", "nosuch", "local", "web.example.com", "8.0.32.10.in-addr.arpa"} {
		if got := table.Lookup(name); got != nil {
			t.Errorf("%q: %v", name, got)
		}
	}
	if got := table.Records(); len(got) != 4 || got[0].Owner != "c2" || got[2].Host != "far" || got[3].Name != "web.weft.local." {
		t.Errorf("records %+v", got)
	}
	if rs[0].Name != "Web.Weft.Local." {
		t.Error("the caller's records were changed")
	}
}

func TestRecordsThatCannotBe(t *testing.T) {
	e := NewTable("weft.local", nil, nil).Edit()
	one := netip.MustParseAddr("10.0.0.1")
	for _, r := range []Record{
		{Name: "web.weft.local"},
		{Name: "web.weft.local", Addr: one, Text: "x"},
		{Name: "web.weft.local", Port: 80},
		{Name: "web.weft.local", Target: "a b"},
		{Name: "web.weft.local", Text: strings.Repeat("x", 256)},
		{Name: "*.*.weft.local", Addr: one},
		{Name: "a.*.weft.local", Addr: one},
		{Name: "*.example.com", Addr: one},
	} {
		if e.Add(r) == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	if err := e.Add(Record{Name: "*.weft.local", Addr: one}); err != nil {
		t.Error(err)
	}
	if got := e.Done().Records(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// Containers that call themselves unhealthy are left out, unless all are; what
// is hidden does not exist.
func TestHealthAndHiding(t *testing.T) {
	a := Record{Name: "web.weft.local", Addr: netip.MustParseAddr("10.0.0.1"), Host: "h1", Owner: "a"}
	b := Record{Name: "web.weft.local", Addr: netip.MustParseAddr("10.0.0.2"), Host: "h2", Owner: "b"}
	table := NewTable("weft.local", nil, []Record{a, b})
	edit := func(f func(*Edit)) {
		e := table.Edit()
		f(e)
		table = e.Done()
	}
	check := func(what string, want ...netip.Addr) {
		t.Helper()
		got := table.Lookup("web")
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("both", a.Addr, b.Addr)
	a.Down = true
	edit(func(e *Edit) { e.Add(a) })
	check("one is unhealthy", b.Addr)
	edit(func(e *Edit) { e.SetHost("h2", HostState{Hidden: true}) })
	check("the other's host has failed", a.Addr)
	edit(func(e *Edit) { e.SetHost("h2", HostState{}); b.Down = true; e.Add(b) })
	check("both are unhealthy", a.Addr, b.Addr)
	edit(func(e *Edit) { e.SetHost("h2", HostState{Hidden: true}); e.SetHost("h1", HostState{Hidden: true}) })
	check("both hosts have failed")
	if f := table.find([]byte(toWire("web.weft.local."))); f.node != nil {
		t.Error("a name that all its hosts hide exists")
	}
	edit(func(e *Edit) { a.Down = false; e.Remove(a); e.SetHost("h1", HostState{}); e.SetHost("h2", HostState{}) })
	check("one is gone", b.Addr)
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
		table := NewTable("weft.local", []netip.Prefix{p}, records("h", "x.weft.local", a.String()))
		wire := []byte(toWire(rev))
		if in := table.zoneOf(wire) >= 0; in != p.Contains(a) {
			t.Fatalf("%v in %v: zone says %v", a, p, in)
		}
		if n := table.names.get(wire); p.Contains(a) && (n == nil || len(n.entries) != 1 || n.entries[0].data != toWire("x.weft.local.")) {
			t.Fatalf("PTR of %v: %+v", a, n)
		}
	})
}

// What a failed host has below a name makes no difference to what is said of the name.
func TestHiddenBelow(t *testing.T) {
	rs := records("h1", "*.apps.weft.local", "10.0.0.1", "x.weft.local", "10.0.0.2")
	rs = append(rs, records("h2", "foo.apps.weft.local", "10.0.0.3", "bar.apps.weft.local", "10.0.0.4", "lone.weft.local", "10.0.0.5")...)
	for _, name := range []string{"foo.apps.weft.local", "lone.weft.local"} {
		rs = append(rs, Record{Name: "_http._tcp." + name, Port: 80, Target: name, Host: "h2"})
	}
	e := NewTable("weft.local", nil, rs).Edit()
	e.SetHost("h2", HostState{Hidden: true})
	s := newServer(t, Options{})
	s.SetTable(e.Done())
	addr := listen(t, s)
	run(t, s)
	for name, want := range map[string]string{
		"foo.apps.weft.local.":        "NOERROR aa foo.apps.weft.local. A 10.0.0.1",
		"bar.apps.weft.local.":        "NOERROR aa bar.apps.weft.local. A 10.0.0.1",
		"_tcp.foo.apps.weft.local.":   "NOERROR aa _tcp.foo.apps.weft.local. A 10.0.0.1",
		"apps.weft.local.":            "NOERROR aa ns weft.local. SOA",
		"lone.weft.local.":            "NXDOMAIN aa ns weft.local. SOA",
		"_http._tcp.lone.weft.local.": "NXDOMAIN aa ns weft.local. SOA",
	} {
		if got := tell(ask(t, "udp", addr, question(name, miekg.TypeA))); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// A host for which there is no room is refused, instead of being taken for another.
func TestTooManyHosts(t *testing.T) {
	own := Record{Name: "web.weft.local", Addr: netip.MustParseAddr("10.0.0.1")}
	e := NewTable("weft.local", nil, []Record{own}).Edit()
	for n := range maxHosts - 2 {
		e.SetHost(fmt.Sprint(n), HostState{Rank: 1})
	}
	other := own
	other.Host = "the last"
	if err := e.Add(other); err != nil {
		t.Error(err)
	}
	other.Host = "one more"
	if err := e.Add(other); err == nil {
		t.Error("one host too many was taken")
	}
	e.SetHost(other.Host, HostState{Hidden: true})
	table := e.Done()
	if rs := table.At("web.weft.local."); table.Hosts() != maxHosts || len(rs) != 2 || rs[0].Host != "" || rs[1].Host != "the last" {
		t.Errorf("%d hosts, %+v", table.Hosts(), rs)
	}
}

// What is changed of hosts shows in the table that is made, and neither in the one before nor in others that are made of it.
func TestEditsOfHosts(t *testing.T) {
	rs := records("h1", "a.weft.local", "10.0.0.1")
	old := NewTable("weft.local", nil, rs)
	old.Edit().SetHost("h1", HostState{Hidden: true}) // given up
	for _, host := range []string{"h2", "h3", "h2"} {
		e := old.Edit()
		e.SetHost("h1", HostState{Hidden: true})
		for _, r := range records(host, "b.weft.local", "10.0.0.2") {
			e.Add(r)
		}
		e.SetHost(host, HostState{Rank: 1})
		if got := e.Done().Records(); len(got) != 1 || got[0].Host != host {
			t.Errorf("%s: %+v", host, got)
		}
		if got := old.Records(); len(got) != 1 || got[0].Host != "h1" {
			t.Errorf("before: %+v", got)
		}
	}
}

// A table that was edited step by step is the one that is made of what is left, and
// so is what [Table.Since] tells.
func TestEdits(t *testing.T) {
	ranges := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.32.1.0/24")}
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b.a", "c.b.a", "*.a", "d", "e.f.g"}
		draw := func(label string) Record {
			r := Record{Name: rapid.SampledFrom(names).Draw(t, label) + ".weft.local.", Host: rapid.SampledFrom([]string{"h1", "h2", ""}).Draw(t, "host"),
				Owner: rapid.SampledFrom([]string{"", "c"}).Draw(t, "owner"), Down: rapid.Bool().Draw(t, "down")}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				r.Text = rapid.SampledFrom([]string{"x=1", "y"}).Draw(t, "text")
			case 1:
				r.Target = "d.weft.local."
			case 2:
				r.Port, r.Target = rapid.Uint16Range(1, 2).Draw(t, "port"), "d.weft.local."
			default:
				r.Addr = netip.AddrFrom4([4]byte{10, 32, rapid.Byte().Draw(t, "net") % 3, rapid.Byte().Draw(t, "addr") % 3})
			}
			return r
		}
		key := func(r Record) Record { r.Down = false; return r }
		table, model := NewTable("weft.local", ranges, nil), map[Record]Record{}
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			before := table
			e := table.Edit()
			for range rapid.IntRange(0, 6).Draw(t, "steps") {
				r := draw("name")
				if rapid.Bool().Draw(t, "add") {
					if err := e.Add(r); err != nil {
						t.Fatal(err)
					}
					model[key(r)] = r
				} else {
					e.Remove(r)
					delete(model, key(r))
				}
			}
			hidden := rapid.Bool().Draw(t, "hidden")
			e.SetHost("h2", HostState{Hidden: hidden})
			table = e.Done()

			fresh, shown := NewTable("weft.local", ranges, slices.Collect(maps.Values(model))), maps.Clone(model)
			e = fresh.Edit()
			e.SetHost("h2", HostState{Hidden: hidden})
			fresh = e.Done()
			if got, want := table.Records(), fresh.Records(); !slices.Equal(got, want) {
				t.Fatalf("edited\n%+v\nmade\n%+v", got, want)
			}
			if table.Len() != fresh.Len() || table.stars != fresh.stars {
				t.Fatalf("%d names and %d stars, want %d and %d", table.Len(), table.stars, fresh.Len(), fresh.stars)
			}
			maps.DeleteFunc(shown, func(_, r Record) bool { return hidden && r.Host == "h2" })
			exist := NewTable("weft.local", ranges, slices.Collect(maps.Values(shown)))
			fresh.names.all(func(name string, want *node) {
				got := table.names.get([]byte(name))
				if got == nil || len(got.entries) != len(want.entries) {
					t.Fatalf("%s: %+v, want %+v", fromWire(name), got, want)
				}
				if is, want := table.exists(got), exist.names.get([]byte(name)) != nil; is != want {
					t.Fatalf("%s, h2 hidden %v: exists %v, want %v", fromWire(name), hidden, is, want)
				}
			})
			came, went := table.Since(before)
			told := before.Records()
			told = slices.DeleteFunc(told, func(r Record) bool { return slices.Contains(went, r) })
			told = append(told, came...)
			slices.SortFunc(told, Record.compare)
			if want := table.Records(); !slices.Equal(told, want) {
				t.Fatalf("by changes\n%+v\nwant\n%+v", told, want)
			}
		}
	})
}

// Every name between an apex and a name that exists, exists.
func TestNoNameHangsInTheAir(t *testing.T) {
	table := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.32.1.0/24")},
		records("h", "a.b.c.weft.local", "10.32.1.4", "x.weft.local", "10.7.8.9"))
	table.names.all(func(name string, _ *node) {
		for name = name[1+name[0]:]; len(name) > 1 && table.zoneOf([]byte(name)) >= 0; name = name[1+name[0]:] {
			if table.names.get([]byte(name)) == nil {
				t.Errorf("%s is missing", fromWire(name))
			}
		}
	})
	inner := []byte(toWire("4.1.32.10.in-addr.arpa."))
	if table.names.get([]byte(toWire("32.10.in-addr.arpa."))) == nil || string(inner[table.zoneOf(inner):]) != toWire("1.32.10.in-addr.arpa.") {
		t.Error("the inner zone hangs in the air")
	}
}

// A container's name by its ID leads to it and is not what it is called, unless it has no other.
func TestNoWayBackToAnID(t *testing.T) {
	addr := netip.MustParseAddr("10.32.0.1")
	rs := []Record{{Name: "web.weft.local.", Addr: addr, Owner: "c1", Host: "h"}, {Name: "c1.web.weft.local.", Addr: addr, Owner: "c1", Host: "h"}, {Name: "c1.weft.local.", Addr: addr, Owner: "c1", Host: "h"}}
	tab := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}, rs)
	back := func() (names []string) {
		for _, x := range tab.names.get([]byte(toWire(reverseOf(addr)))).entries {
			names = append(names, x.data)
		}
		slices.Sort(names)
		return names
	}
	if got, want := back(), []string{toWire("c1.weft.local."), toWire("web.weft.local.")}; !slices.Equal(got, want) {
		t.Errorf("back lead %q, want %q", got, want)
	}
	if len(tab.At("c1.web.weft.local.")) != 1 {
		t.Error("the ID does not lead to the container")
	}
	e := tab.Edit()
	for _, r := range rs {
		e.Remove(r)
	}
	if tab = e.Done(); tab.names.get([]byte(toWire(reverseOf(addr)))) != nil {
		t.Errorf("%q is left", back())
	}
}
