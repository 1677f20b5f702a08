package mesh

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"weft/peer"
)

// wireSecret is a fixed secret whose bytes are easy to find in any output.
func wireSecret(t testing.TB) Secret {
	t.Helper()
	s, err := SecretFromBytes([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZ-12345"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wireIdentity(t testing.TB) *peer.Identity {
	t.Helper()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wireLeaks lists the forms in which the bytes of s could show up in text.
func wireLeaks(s Secret) []string {
	b := s.Bytes()
	dec := strings.Trim(fmt.Sprint(b[:6]), "[]")
	var gosyntax []string
	for _, c := range b[:6] {
		gosyntax = append(gosyntax, fmt.Sprintf("%#x", c))
	}
	return []string{
		string(b[:6]), hex.EncodeToString(b[:6]), strings.ToUpper(hex.EncodeToString(b[:6])), dec,
		strings.ReplaceAll(dec, " ", ","), strings.Join(gosyntax, ", "),
		base64.StdEncoding.EncodeToString(b)[:8], idEncoding.EncodeToString(b)[:8],
		Token{Secret: s}.Encode()[8:24],
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := wireSecret(t)
	tok := Token{Secret: s, Endpoints: []string{"192.0.2.1:6783"}}
	type exported struct {
		S  Secret
		T  Token
		PS *Secret
	}
	type unexported struct { // fmt calls no methods here
		s  Secret
		t  Token
		ps *Secret
		e  exported
	}
	e := exported{s, tok, &s}
	u := unexported{s, tok, &s, e}
	values := []any{s, &s, tok, &tok, e, &e, u, &u, []Secret{s}, []Token{tok}, map[string]Secret{"a": s},
		map[string]any{"a": tok}, struct{ error }{fmt.Errorf("x %v %s", s, tok)}, newHandshaker(wireIdentity(t), s)}

	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%#x", "%c", "%U", "%o", "%b", "%t", "%T", "%20v", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		fmt.Fprintln(&out, fmt.Errorf("wrap %v: %w", v, errors.New("cause")))
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).With("with", v).Error("m", "v", v, slog.Group("g", "v", v))
		}
	}
	for _, leak := range wireLeaks(s) {
		if strings.Contains(out.String(), leak) {
			i := strings.Index(out.String(), leak)
			t.Errorf("%q shows in: %s", leak, out.String()[max(0, i-80):i+80])
		}
	}
	for _, v := range []interface {
		fmt.Stringer
		fmt.GoStringer
		encoding.TextMarshaler
	}{s, tok} {
		if b, err := v.MarshalText(); v.String() != hidden || v.GoString() != hidden || string(b) != hidden || err != nil {
			t.Errorf("%T prints as %q, %q, %q", v, v.String(), v.GoString(), b)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if got := fmt.Sprintf(verb, v); got != hidden {
				t.Errorf("%s of %T is %q", verb, v, got)
			}
		}
		if b, err := json.Marshal(v); err != nil || string(b) != `"(secret)"` {
			t.Errorf("JSON of %T is %s, %v", v, b, err)
		}
	}
}

func TestParseErrorsNeverQuoteTheSecret(t *testing.T) {
	s := wireSecret(t)
	good := Token{Secret: s}.Encode()
	for _, text := range []string{good[:len(good)-1], good + "a", "x" + good, strings.Replace(good, "weft1-", "weft2-", 1)} {
		_, err := ParseToken(text)
		if err == nil {
			t.Fatalf("damaged token accepted")
		}
		for _, leak := range append(wireLeaks(s), good[6:20]) {
			if strings.Contains(err.Error(), leak) {
				t.Errorf("error quotes the token: %v", err)
			}
		}
	}
	const pw = "hunter2-hunter2-hunter2"
	if _, err := SecretFromPassword("aaaabbbb", false); err == nil || strings.Contains(err.Error(), "aaaa") {
		t.Errorf("weak password: %v", err)
	}
	if _, err := SecretFromBytes([]byte(pw)); err == nil || strings.Contains(err.Error(), "hunter") {
		t.Errorf("short secret: %v", err)
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	s, other := wireSecret(t), NewSecret()
	seen := map[string]string{}
	add := func(name string, b []byte) {
		t.Helper()
		if was, ok := seen[string(b[:10])]; ok {
			t.Errorf("%s equals %s", name, was)
		}
		seen[string(b[:10])] = name
	}
	a, b := peer.Key{1}, peer.Key{2}
	for name, s := range map[string]Secret{"one": s, "other": other} {
		add(name, s.Bytes())
		id := s.MeshID()
		add(name+" mesh ID", id[:])
		psk := s.WireGuardPSK(a, b)
		add(name+" psk", psk[:])
		for epoch := range uint32(2) {
			join, adm := s.joinKey(epoch), s.admissionKey(epoch)
			proof := s.admission(epoch, a[:])
			add(fmt.Sprint(name, " join ", epoch), join[:])
			add(fmt.Sprint(name, " admission key ", epoch), adm[:])
			add(fmt.Sprint(name, " admission ", epoch), proof[:])
			add(fmt.Sprint(name, " gossip ", epoch), s.GossipKey(epoch))
		}
	}
	if s.WireGuardPSK(a, b) != s.WireGuardPSK(b, a) {
		t.Error("preshared key depends on the order")
	}
	if s.WireGuardPSK(a, b) == s.WireGuardPSK(a, peer.Key{3}) {
		t.Error("preshared key does not depend on the peer")
	}
	if a != (peer.Key{1}) || b != (peer.Key{2}) {
		t.Error("arguments were changed")
	}
}

func TestSecretZero(t *testing.T) {
	var s Secret
	if !s.IsZero() || s.Bytes() != nil || !s.Equal(Secret{}) || s.Equal(wireSecret(t)) || wireSecret(t).Equal(s) {
		t.Error("the zero secret is not zero")
	}
	if one, other := s.joinKey(0), s.joinKey(0); one == other {
		t.Error("no secret gives a key that everybody can know")
	}
	if got := fmt.Sprintf("%v %#v", s, s); got != hidden+" "+hidden {
		t.Error(got)
	}
	if _, err := SecretFromBytes(make([]byte, 32)); err == nil {
		t.Error("32 zero bytes were taken for a secret")
	}
	b := wireSecret(t).Bytes()
	s, _ = SecretFromBytes(b)
	b[0]++
	s.Bytes()[1]++
	if !s.Equal(wireSecret(t)) {
		t.Error("the secret shares its bytes")
	}
}
