package ipam

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func TestGrantWireForm(t *testing.T) {
	// The bytes are the format's promise: other versions of weft read them.
	for _, tc := range []struct{ grant, hex string }{
		{"10.32.0.0/12 v1 - A", "01040c0a200000" + "00000000000000000000" + "01000000000000000001" + "00000001"},
		{"10.40.0.0/13 v2 A B", "01040d0a280000" + "01000000000000000001" + "02000000000000000001" + "00000002"},
		{"fd00:1::/64 v65536 B C", "010640fd000001000000000000000000000000" + "02000000000000000001" + "03000000000000000001" + "00010000"},
	} {
		g := grant(t, tc.grant)
		b, err := g.AppendBinary(nil)
		if err != nil || hex.EncodeToString(b) != tc.hex {
			t.Errorf("%s: encoded as %x, %v; want %s", tc.grant, b, err, tc.hex)
		}
		back, err := ParseGrant(b)
		if err != nil || back != g {
			t.Errorf("%s: came back as %v, %v", tc.grant, back, err)
		}
	}
}

func TestParseGrantRefuses(t *testing.T) {
	good, _ := grant(t, "10.40.0.0/13 v2 A B").AppendBinary(nil)
	at := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"are too few":         good[:2],
		"form 2 is unknown":   at(0, 2),
		"address family 5":    at(1, 5),
		"instead of":          good[:len(good)-1],
		"bytes instead of 31": append(bytes.Clone(good), 0),
		"is not aligned":      at(6, 1),
		"no prefix":           at(2, 33),
		"version 0":           at(30, 0),
		"has version 1":       at(30, 1),
		"to its own giver":    at(17, 1),
		"to nobody":           append(bytes.Clone(good[:17]), append(make([]byte, 10), good[27:]...)...),
	} {
		if g, err := ParseGrant(b); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, %v", name, g, err)
		}
	}
	mapped := Grant{Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104), To: host(1), Version: 1}
	if _, err := mapped.AppendBinary(nil); err == nil {
		t.Error("a grant of IPv4-mapped space was encoded")
	}
}

func TestSignedGrantCheck(t *testing.T) {
	seed, gift := grant(t, "10.32.0.0/12 v1 - A"), grant(t, "10.40.0.0/13 v2 A B")
	for _, tc := range []struct {
		g    SignedGrant
		good bool
	}{
		{SignedGrant{Grant: seed, By: host(1)}, true},
		{SignedGrant{Grant: seed, By: host(2)}, false},
		{SignedGrant{Grant: gift, By: host(1)}, true},
		{SignedGrant{Grant: gift, By: host(2)}, false},
		{SignedGrant{Grant: gift, By: host(2), Carried: true}, true},
		{SignedGrant{Grant: gift, By: host(3), Carried: true}, false},
		{SignedGrant{Grant: seed}, false},
		{SignedGrant{Grant: Grant{}, By: host(1)}, false},
	} {
		if err := tc.g.Check(); (err == nil) != tc.good {
			t.Errorf("%v by %v, carried %v: %v", tc.g.Grant, letter(tc.g.By), tc.g.Carried, err)
		}
	}
}

func TestOwnerText(t *testing.T) {
	if s := (Owner{}).String(); s != "aaaaaaaaaaaaaaaa" {
		t.Error(s)
	}
	if s := host(1).String(); len(s) != 16 || s != strings.ToLower(s) {
		t.Error(s)
	}
}

func FuzzParseGrant(f *testing.F) {
	for _, s := range []string{"10.32.0.0/12 v1 - A", "10.40.0.0/13 v2 A B", "fd00:1::/64 v65536 B C", "0.0.0.0/0 v1 - A"} {
		b, _ := grant(f, s).AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGrant(b)
		if err != nil {
			return
		}
		back, err := g.AppendBinary(nil)
		if err != nil || !bytes.Equal(b, back) {
			t.Fatalf("%x parsed as %v, which encodes as %x, %v", b, g, back, err)
		}
		r, _ := NewRing(g.Prefix, []Grant{g})
		if owner := r.Owner(lastAddr(g.Prefix)); g.From.IsZero() && owner != g.To {
			t.Fatalf("%v gave the last address to %v", g, owner)
		}
	})
}
