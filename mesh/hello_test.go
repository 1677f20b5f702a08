package mesh

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func wireHello(t testing.TB) hello {
	f, err := wireFounding().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return hello{Proto: 1, Purpose: purposeProbe, ProbeNonce: 0x1122334455667788, Observed: netip.MustParseAddrPort("192.0.2.7:40000"),
		Record: wireSigned(t, wireIdentity(t), wireRecord()), Founding: f, Ext: []TLV{{Type: 3, Value: []byte("later")}}}
}

func TestHello(t *testing.T) {
	full := wireHello(t)
	v6 := full
	v6.Observed = netip.MustParseAddrPort("[2001:db8::7]:40000")
	for _, h := range []hello{full, v6, {Proto: 1, Record: []byte{}, Founding: []byte{}}, {Purpose: 99, Record: []byte{1}, Founding: []byte{}}} {
		b, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseHello(b); err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("%+v came back as %+v, %v", h, got, err)
		}
	}
	b, _ := full.encode()
	for n := range len(b) - len("later") - 2 { // behind it, a cut is a hello without the extension
		if _, err := parseHello(b[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes not noticed", n, len(b))
		}
	}
	if _, err := parseHello(make([]byte, maxHello+1)); err == nil {
		t.Error("endless hello taken")
	}
	if _, err := (hello{Record: make([]byte, maxRecord+1)}).encode(); err == nil {
		t.Error("endless record sent")
	}
	if got := purposeSync.String() + " " + purpose(77).String(); got != "sync purpose 77" {
		t.Error(got)
	}
}

func TestRefusal(t *testing.T) {
	for in, want := range map[Refusal]string{
		{RefusedClone, "identity runs elsewhere"}:    "identity runs elsewhere",
		{RefusedBusy, ""}:                            "refused with code 8",
		{999, "of a later release"}:                  "of a later release",
		{RefusedRange, "two\nlines\x1b[31m \xff"}:    "two lines?[31m ?",
		{RefusedRange, strings.Repeat("ü", 400)}:     strings.Repeat("ü", 250),
		{RefusedRange, "x" + strings.Repeat("ü", 4)}: "xüüüü",
	} {
		got, err := parseRefusal(in.encode())
		if err != nil || got.Code != in.Code || got.Error() != want {
			t.Errorf("%+v came back as %+v, %v, want %q", in, got, err, want)
		}
		// A liar sends control characters too.
		raw := append([]byte{1, 0, 1}, in.Text[:min(len(in.Text), maxRefusalText)]...)
		if got, err := parseRefusal(raw); err != nil || line(got.Text) != got.Text {
			t.Errorf("%q is shown as %q, %v", in.Text, got.Text, err)
		}
	}
	for _, b := range [][]byte{nil, {1}, {1, 0}, {2, 0, 0}, make([]byte, maxRefusal+1)} {
		if _, err := parseRefusal(b); err == nil {
			t.Errorf("%d bytes taken for a verdict", len(b))
		}
	}
}

func FuzzParseHello(f *testing.F) {
	b, _ := wireHello(f).encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseHello(in)
		if err != nil {
			return
		}
		if out, err := h.encode(); err != nil || !bytes.Equal(out, in) {
			t.Errorf("%x is encoded to %x, %v", in, out, err)
		}
	})
}

func FuzzParseRefusal(f *testing.F) {
	f.Add(Refusal{RefusedClone, "a clone"}.encode())
	f.Add([]byte("\x01\x00\x01\xff\xfe\x1b[0m"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := parseRefusal(in)
		if err != nil {
			return
		}
		if !utf8.ValidString(e.Text) || len(e.Text) > maxRefusalText || strings.ContainsFunc(e.Text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%x is shown as %q", in, e.Text)
		}
		if again, err := parseRefusal(e.encode()); err != nil || again != e {
			t.Errorf("%+v came back as %+v, %v", e, again, err)
		}
	})
}
