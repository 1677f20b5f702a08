package mesh

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Token is what a newcomer needs to join: the secret and where to knock.
// It prints as "(secret)"; Encode gives the text to hand to an operator.
type Token struct {
	Secret    Secret
	Endpoints []string // host[:port]
}

const (
	tokenPrefix       = "weft1-"
	tokenVersion      = 1
	tokenSum          = 4  // bytes of SHA-256 at the end
	maxTokenEndpoints = 16 // more do not make a join likelier
	maxTokenText      = 8192
)

var (
	errNoToken      = errors.New("not a join token: one begins with " + tokenPrefix)
	errDamagedToken = errors.New("join token is damaged: copy it whole, as `weft token` prints it")
)

// Encode is "weft1-" and, in lower-case base32, version u8 = 1 | secret 32 |
// mesh ID 10 | number of endpoints u8 | {length u8, text}… | checksum, the first
// 4 bytes of SHA-256 over all before it. Endpoints that are not host[:port] are
// left out, and all after the 16th. It returns "" without a secret.
func (t Token) Encode() string {
	if t.Secret.IsZero() {
		return ""
	}
	var eps []string
	for _, e := range t.Endpoints {
		if len(eps) < maxTokenEndpoints && validTarget(e) {
			eps = append(eps, e)
		}
	}
	id := t.Secret.MeshID()
	b := append([]byte{tokenVersion}, t.Secret.Bytes()...)
	b = append(b, id[:]...)
	b = append(b, uint8(len(eps)))
	for _, e := range eps {
		b = append(b, uint8(len(e)))
		b = append(b, e...)
	}
	sum := sha256.Sum256(b)
	return tokenPrefix + idEncoding.EncodeToString(append(b, sum[:tokenSum]...))
}

// ParseToken reads what Encode wrote, in any case, also when a terminal or a
// mail has broken it into lines. Its errors never contain any of the text.
func ParseToken(text string) (Token, error) {
	if len(text) > maxTokenText {
		return Token{}, errNoToken
	}
	text = strings.ToLower(strings.Join(strings.Fields(text), ""))
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		if newerToken(text) {
			return Token{}, errors.New("join token is of a newer weft: upgrade this one")
		}
		return Token{}, errNoToken
	}
	b, err := idEncoding.DecodeString(body)
	if err != nil || len(b) < tokenSum || idEncoding.EncodeToString(b) != body {
		return Token{}, errDamagedToken
	}
	b, sum := b[:len(b)-tokenSum], b[len(b)-tokenSum:]
	if want := sha256.Sum256(b); !bytes.Equal(sum, want[:tokenSum]) {
		return Token{}, errDamagedToken
	}
	r := reader{b: b}
	if v := r.u8(); v > tokenVersion {
		return Token{}, fmt.Errorf("join token is of a newer weft (format %d): upgrade this one", v)
	} else if v != tokenVersion {
		return Token{}, errDamagedToken
	}
	s, err := SecretFromBytes(r.take(32))
	if err != nil || MeshID(r.take(10)) != s.MeshID() {
		return Token{}, errDamagedToken
	}
	t := Token{Secret: s}
	n := int(r.u8())
	for range n {
		e := string(r.take(int(r.u8())))
		if r.err != nil || n > maxTokenEndpoints || !validTarget(e) {
			return Token{}, errDamagedToken
		}
		t.Endpoints = append(t.Endpoints, e)
	}
	if r.end() != nil {
		return Token{}, errDamagedToken
	}
	return t, nil
}

// newerToken recognises "weft2-" and so on.
func newerToken(text string) bool {
	rest, ok := strings.CutPrefix(text, "weft")
	n, _, dash := strings.Cut(rest, "-")
	return ok && dash && n != "" && n[0] != '0' && strings.Trim(n, "0123456789") == ""
}

// validTarget reports whether e can be host[:port]: printable ASCII without
// spaces. Whether it leads anywhere shows when it is dialled.
func validTarget(e string) bool {
	if e == "" || len(e) > 255 {
		return false
	}
	for _, c := range []byte(e) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// String hides the token, as all the methods below do.
func (Token) String() string { return hidden }

// GoString hides the token from %#v.
func (Token) GoString() string { return hidden }

// Format hides the token from every verb of fmt.
func (Token) Format(f fmt.State, _ rune) { f.Write([]byte(hidden)) }

// LogValue hides the token from slog.
func (Token) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the token from text encoders.
func (Token) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON hides the token from encoding/json.
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
