package peer

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// config reads "A psk=1 at=192.0.2.1:1 ka=25 10.0.0.0/8 …"; the letter is the key.
func config(s string) Config {
	f := strings.Fields(s)
	c := Config{PublicKey: letter(f[0])}
	for _, w := range f[1:] {
		switch name, v, _ := strings.Cut(w, "="); name {
		case "psk":
			c.PresharedKey = letter(v)
		case "at":
			c.Endpoint = netip.MustParseAddrPort(v)
		case "ka":
			c.Keepalive, _ = time.ParseDuration(v + "s")
		default:
			c.AllowedIPs = append(c.AllowedIPs, netip.MustParsePrefix(w))
		}
	}
	return c
}

func configs(lines string) (out []Config) {
	for l := range strings.Lines(lines) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, config(l))
		}
	}
	return out
}

func letter(s string) Key { return Key{0: s[0]} }

// words replaces the keys of the letters by the letters.
func words(s string) string {
	for c := 'A'; c <= 'Z'; c++ {
		s = strings.ReplaceAll(s, letter(string(c)).String(), string(c))
	}
	return s
}

func TestPlan(t *testing.T) {
	for _, c := range []struct{ name, have, want, steps string }{
		{"nothing", "", "", ""},
		{"first peer", "",
			"A psk=1 at=192.0.2.1:6783 ka=25 10.32.0.0/13 fd00::1/128",
			"add A psk endpoint 192.0.2.1:6783 keepalive 25s allowed 10.32.0.0/13 fd00::1/128"},
		{"bare peer", "", "A", "add A"},
		{"same, in another order, unmasked, twice",
			"B 10.0.0.0/8 fd00::/8\nA at=192.0.2.1:1",
			"A at=192.0.2.1:1\nB fd00::/8 10.1.2.3/8 10.0.0.0/8", ""},
		{"zero endpoint leaves the learnt one", "A at=192.0.2.9:9", "A", ""},
		{"4-in-6 endpoint is the same", "A at=192.0.2.9:9", "A at=[::ffff:192.0.2.9]:9", ""},
		{"each field alone",
			"A psk=1 at=192.0.2.1:1 ka=25\nB psk=1 ka=25\nC at=192.0.2.1:1\nD ka=25",
			"A psk=2 at=192.0.2.1:1 ka=25\nB ka=25\nC at=192.0.2.2:2\nD",
			"update A psk\nupdate B psk off\nupdate C endpoint 192.0.2.2:2\nupdate D keepalive 0s"},
		{"a third host joins", "A 10.32.0.0/13\nB 10.40.0.0/13", "A 10.32.0.0/13\nB 10.40.0.0/13\nC",
			"add C"},
		{"unwanted peer", "A 10.0.0.0/8\nB", "B", "remove A"},
		{"add before remove", "A 10.0.0.0/8", "B 10.0.0.0/8", "add B allowed 10.0.0.0/8\nremove A"},
		{"move: the taker takes, the giver is not touched",
			"A 10.32.0.0/14 10.36.0.0/14\nB",
			"A 10.32.0.0/14\nB 10.36.0.0/14",
			"update B allowed 10.36.0.0/14"},
		{"swap", "A 10.0.0.0/9\nB 10.128.0.0/9", "A 10.128.0.0/9\nB 10.0.0.0/9",
			"update A allowed 10.128.0.0/9\nupdate B allowed 10.0.0.0/9"},
		{"split: the halves are there before the whole goes",
			"A 10.32.0.0/13\nB",
			"A 10.32.0.0/14\nB 10.36.0.0/14",
			"update A allowed 10.32.0.0/14\nupdate B allowed 10.36.0.0/14\ndrop allowed 10.32.0.0/13"},
		{"granted to this host: nobody's, the rest stays",
			"A 10.32.0.0/14 10.36.0.0/14\nB 10.40.0.0/14 10.44.0.0/14",
			"A 10.32.0.0/14\nB 10.44.0.0/14",
			"drop allowed 10.36.0.0/14 10.40.0.0/14"},
		{"what a removed peer had needs no drop", "A 10.32.0.0/14\nB", "B", "remove A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			have, err := normalise(configs(c.have), letter("Z"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := normalise(configs(c.want), letter("Z"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range plan(have, want) {
				got = append(got, words(s.String()))
			}
			if d := cmp.Diff(c.steps, strings.Join(got, "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNormaliseReports(t *testing.T) {
	bad := []Config{
		config("B 10.0.0.0/8"), config("A 10.0.0.0/8 10.64.0.0/16"), config("A"), config("Z"), {},
		{PublicKey: letter("C"), Keepalive: time.Millisecond, Endpoint: netip.MustParseAddrPort("0.0.0.0:1"),
			AllowedIPs: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104"), netip.MustParsePrefix("fd00::/8")}},
		{PublicKey: letter("D"), Keepalive: 100000 * time.Second, Endpoint: netip.MustParseAddrPort("192.0.2.1:0")},
	}
	good, err := normalise(bad, letter("Z"))
	for _, want := range []string{
		"set peer: it has no public key", "set peer A: it is in the list twice", "set peer Z: that is this host's own key",
		"set peer B: allowed IP 10.0.0.0/8 is peer A's", "set peer C: keepalive 1ms is not a number of seconds",
		"set peer C: no packet can be sent to endpoint 0.0.0.0:1", "set peer C: allowed IP invalid Prefix is not a prefix",
		"set peer C: allowed IP ::ffff:10.0.0.0/104 is not a prefix", "set peer D: keepalive 27h46m40s", "set peer D: no packet can be sent to endpoint 192.0.2.1:0",
	} {
		if err == nil || !strings.Contains(words(err.Error()), want) {
			t.Errorf("not reported: %s", want)
		}
	}
	var got []string
	for _, p := range good {
		got = append(got, words(fmt.Sprintf("%s %v", p.PublicKey, p.AllowedIPs)))
	}
	want := []string{"A [10.0.0.0/8 10.64.0.0/16]", "B []", "C [fd00::/8]", "D []"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(bad[1].AllowedIPs) != 2 || bad[0].PublicKey != letter("B") {
		t.Error("normalise changed its argument")
	}
}

// model is a WireGuard device: what each step does to its peers.
type model map[Key]Config

func (m model) do(s step) {
	take := func(from Key) {
		c := m[from]
		c.AllowedIPs = slices.DeleteFunc(slices.Clone(c.AllowedIPs), func(p netip.Prefix) bool { return slices.Contains(s.allowed, p) })
		m[from] = c
	}
	for k := range m {
		if len(s.allowed) > 0 {
			take(k)
		}
	}
	switch s.verb {
	case stepRemove:
		delete(m, s.key)
	case stepAdd, stepUpdate:
		c := m[s.key]
		c.PublicKey = s.key
		if s.psk != nil {
			c.PresharedKey = *s.psk
		}
		if s.endpoint.IsValid() {
			c.Endpoint = s.endpoint
		}
		if s.keepalive != nil {
			c.Keepalive = *s.keepalive
		}
		c.AllowedIPs = append(c.AllowedIPs, s.allowed...)
		m[s.key] = c
	}
}

// lookup is the peer that a packet to a goes to.
func (m model) lookup(a netip.Addr) (owner Key) {
	best := -1
	for k, c := range m {
		for _, p := range c.AllowedIPs {
			if p.Contains(a) && p.Bits() > best {
				owner, best = k, p.Bits()
			}
		}
	}
	return owner
}

func genConfigs(t *rapid.T, label string) []Config {
	var out []Config
	used := make(map[netip.Prefix]bool)
	for _, l := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"A", "B", "C", "D"}), 0, 4, rapid.ID[string]).Draw(t, label) {
		c := Config{PublicKey: letter(l), Keepalive: time.Duration(rapid.IntRange(0, 1).Draw(t, "ka")) * 25 * time.Second}
		if rapid.Bool().Draw(t, "psk") {
			c.PresharedKey = letter("1")
		}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 7).Draw(t, "o") << 5)}), rapid.IntRange(8, 11).Draw(t, "bits")).Masked()
			if !used[p] {
				used[p] = true
				c.AllowedIPs = append(c.AllowedIPs, p)
			}
		}
		out = append(out, c)
	}
	return out
}

// TestPlanModel: after the steps the device is as wanted, a second plan is
// empty, and an address that has an owner before and after always has one.
func TestPlanModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, err1 := normalise(genConfigs(t, "have"), letter("Z"))
		want, err2 := normalise(genConfigs(t, "want"), letter("Z"))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		start := func(ps []peerState) model {
			m := make(model)
			for _, p := range ps {
				m[p.PublicKey] = p.Config
			}
			return m
		}
		m, before, after := start(have), start(have), start(want)
		for _, s := range plan(have, want) {
			m.do(s)
			for i := range 8 {
				a := netip.AddrFrom4([4]byte{10, byte(i << 5), 0, 1})
				old, now, new := before.lookup(a), m.lookup(a), after.lookup(a)
				// A third peer is possible for a moment: one that gets a whole
				// of which another gets a part in a later step.
				if now.IsZero() && !old.IsZero() && !new.IsZero() {
					t.Fatalf("%s: %s went from %v over nobody to %v", words(s.String()), a, old, new)
				}
			}
		}
		end := maps.Clone(m)
		var again []Config
		for _, c := range end {
			again = append(again, c)
		}
		states, err := normalise(again, letter("Z"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range states { // endpoints are not generated
			states[i].Endpoint = netip.AddrPort{}
		}
		if d := cmp.Diff(want, states, cmp.AllowUnexported(peerState{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b []netip.Prefix) bool { return slices.Equal(a, b) })); d != "" {
			t.Fatal(words(d))
		}
		if steps := plan(states, want); len(steps) > 0 {
			t.Fatalf("second plan: %v", steps)
		}
	})
}
