package mesh

import (
	"crypto/sha256"
	"reflect"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	s := wireSecret(t)
	for _, eps := range [][]string{nil, {"192.0.2.1"}, {"host1.example.org:6783", "[2001:db8::1]:6783"}} {
		text := Token{Secret: s, Endpoints: eps}.Encode()
		for name, in := range map[string]string{
			"as is": text, "upper case": strings.ToUpper(text), "broken": "  " + text[:20] + "\r\n " + text[20:50] + "\t" + text[50:] + "\n",
		} {
			got, err := ParseToken(in)
			if err != nil || !got.Secret.Equal(s) || !reflect.DeepEqual(got.Endpoints, eps) {
				t.Errorf("%s: %q came back as %q, %v", name, eps, got.Endpoints, err)
			}
		}
		// One wrong character anywhere is noticed.
		for i := range text {
			c := byte('a')
			if text[i] == c {
				c = 'b'
			}
			if _, err := ParseToken(text[:i] + string(c) + text[i+1:]); err == nil {
				t.Errorf("wrong character at %d of %d not noticed", i, len(text))
			}
		}
	}
	if (Token{}).Encode() != "" {
		t.Error("token without a secret")
	}
	many := make([]string, 40)
	for i := range many {
		many[i] = strings.Repeat("h", 1+i*10)
	}
	many[3] = "with space"
	got, err := ParseToken(Token{Secret: s, Endpoints: many}.Encode())
	if err != nil || len(got.Endpoints) != maxTokenEndpoints || got.Endpoints[3] != many[4] {
		t.Errorf("long list came back as %d endpoints, %v", len(got.Endpoints), err)
	}
}

func TestParseTokenErrors(t *testing.T) {
	s := wireSecret(t)
	good := Token{Secret: s, Endpoints: []string{"a:1"}}.Encode()
	// made puts a right checksum behind a changed body.
	made := func(f func(b []byte) []byte) string {
		b, err := idEncoding.DecodeString(strings.TrimPrefix(good, tokenPrefix))
		if err != nil {
			t.Fatal(err)
		}
		b = f(b[:len(b)-tokenSum])
		sum := sha256.Sum256(b)
		return tokenPrefix + idEncoding.EncodeToString(append(b, sum[:tokenSum]...))
	}
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "not a join token"},
		{"host", "192.0.2.1:6783", "not a join token"},
		{"host named weft", "weft-host1", "not a join token"},
		{"host named weft1x", "weft1x-host1", "not a join token"},
		{"endless", strings.Repeat("weft1-", 4000), "not a join token"},
		{"newer prefix", "weft2-abcdef", "newer weft"},
		{"newer format", made(func(b []byte) []byte { b[0] = 2; return b }), "newer weft"},
		{"older format", made(func(b []byte) []byte { b[0] = 0; return b }), "damaged"},
		{"nothing behind", "weft1-", "damaged"},
		{"half", good[:len(good)/2], "damaged"},
		{"alien letters", good[:10] + "!" + good[11:], "damaged"},
		{"other mesh ID", made(func(b []byte) []byte { b[40]++; return b }), "damaged"},
		{"no secret", made(func(b []byte) []byte { clear(b[1:33]); return b }), "damaged"},
		{"more endpoints than there are", made(func(b []byte) []byte { b[43] = 2; return b }), "damaged"},
		{"more endpoints than allowed", made(func(b []byte) []byte { b[43] = 255; return b }), "damaged"},
		{"bytes behind", made(func(b []byte) []byte { return append(b, 1) }), "damaged"},
		{"control character", made(func(b []byte) []byte { b[45] = 7; return b }), "damaged"},
	} {
		if _, err := ParseToken(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	s := wireSecret(f)
	f.Add(Token{Secret: s}.Encode())
	f.Add(Token{Secret: s, Endpoints: []string{"192.0.2.1:6783", "host"}}.Encode())
	f.Add("weft2-abc")
	f.Fuzz(func(t *testing.T, in string) {
		tok, err := ParseToken(in)
		if err != nil {
			return
		}
		if text := strings.ToLower(strings.Join(strings.Fields(in), "")); tok.Encode() != text {
			t.Errorf("%q encodes to another token", text)
		}
	})
}

// FuzzTokenBody gets behind the checksum, where chance does not.
func FuzzTokenBody(f *testing.F) {
	text, _ := strings.CutPrefix(Token{Secret: wireSecret(f), Endpoints: []string{"192.0.2.1:6783", "host"}}.Encode(), tokenPrefix)
	b, _ := idEncoding.DecodeString(text)
	f.Add(b[:len(b)-tokenSum])
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		text := tokenPrefix + idEncoding.EncodeToString(append(b, sum[:tokenSum]...))
		if tok, err := ParseToken(text); err == nil && tok.Encode() != text {
			t.Errorf("%q encodes to another token", text)
		}
	})
}
