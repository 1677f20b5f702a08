package mesh

import (
	"net/netip"
	"strings"
	"testing"

	"weft/peer"
)

func wireFounding() Founding {
	return Founding{Founder: peer.ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Nonce: 0x0123456789abcdef,
		Range: netip.MustParsePrefix("10.32.0.0/12"), Subnet: netip.MustParsePrefix("10.32.4.0/24")}
}

func TestFounding(t *testing.T) {
	f := wireFounding()
	if got, want := f.String(), f.Founder.String()+"/0123456789abcdef"; got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	v6 := f
	v6.Range, v6.Subnet = netip.MustParsePrefix("fd00:1::/32"), netip.MustParsePrefix("fd00:1:2::/48")
	noIPAM := f
	noIPAM.Range, noIPAM.Subnet = netip.Prefix{}, netip.Prefix{}
	noSubnet := f
	noSubnet.Subnet = netip.Prefix{}
	for _, f := range []Founding{{}, f, v6, noIPAM, noSubnet} {
		b, err := f.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseFounding(b); err != nil || !got.Equal(f) || got.IsZero() != f.IsZero() {
			t.Errorf("%v came back as %v, %v", f, got, err)
		}
		for n := 1; n < len(b); n++ {
			if _, err := ParseFounding(b[:n]); err == nil {
				t.Errorf("%v cut to %d of %d bytes was accepted", f, n, len(b))
			}
		}
		if len(b) > 0 {
			if _, err := ParseFounding(append(b, 0)); err == nil {
				t.Error("a byte too many was accepted")
			}
		}
	}
}

func TestFoundingRefused(t *testing.T) {
	for want, change := range map[string]func(*Founding){
		"no founder":                      func(f *Founding) { f.Founder = peer.ID{} },
		"range 10.32.0.1/12 is not":       func(f *Founding) { f.Range = netip.MustParsePrefix("10.32.0.1/12") },
		"range ::ffff:10.32.0.0/108 is":   func(f *Founding) { f.Range = netip.MustParsePrefix("::ffff:10.32.0.0/108") },
		"subnet 10.32.4.1/24 is not":      func(f *Founding) { f.Subnet = netip.MustParsePrefix("10.32.4.1/24") },
		"no address of the range":         func(f *Founding) { f.Subnet = netip.MustParsePrefix("10.0.0.0/16") },
		"no address of the range invalid": func(f *Founding) { f.Range = netip.Prefix{} },
	} {
		f := wireFounding()
		change(&f)
		if b, err := f.MarshalBinary(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v encoded to %x, %v, want %q", f, b, err, want)
		}
	}
}

func FuzzParseFounding(f *testing.F) {
	b, _ := wireFounding().MarshalBinary()
	f.Add(b)
	f.Add(b[:19])
	f.Fuzz(func(t *testing.T, in []byte) {
		g, err := ParseFounding(in)
		if err != nil {
			return
		}
		if out, err := g.MarshalBinary(); err != nil || string(out) != string(in) {
			t.Errorf("%x is encoded to %x, %v", in, out, err)
		}
	})
}
