package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestIDText(t *testing.T) {
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	id := IDOf(pub)
	// Computed by another program: base32(sha256(3b6a27bc…da29)[:10]).
	if got, want := id.String(), "copdsqhgjnkjc4ra"; got != want {
		t.Errorf("ID %s, want %s", got, want)
	}
	for _, s := range []string{id.String(), strings.ToUpper(id.String())} {
		if back, err := ParseID(s); err != nil || back != id {
			t.Errorf("ParseID(%q) = %v, %v", s, back, err)
		}
	}
	type doc struct{ Peer ID }
	b, err := json.Marshal(doc{id})
	if err != nil || string(b) != `{"Peer":"`+id.String()+`"}` {
		t.Errorf("JSON %s, %v", b, err)
	}
	var back doc
	if err := json.Unmarshal(b, &back); err != nil || back.Peer != id {
		t.Errorf("from JSON: %v, %v", back, err)
	}
	if id.IsZero() || !(ID{}).IsZero() || id.Compare(id) != 0 || id.Compare(ID{}) != 1 || (ID{}).Compare(id) != -1 {
		t.Error("IsZero or Compare is wrong")
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{"", "a", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaa1", "aaaaaaaaaaaaaaa=",
		"aaaaaaaa\naaaaaaa", "aaaaaaaaaaaaaa\r\n", "äaaaaaaaaaaaaaa", strings.Repeat("x", 1000)} {
		id, err := ParseID(s)
		if err == nil {
			t.Errorf("ParseID(%q) = %v", s, id)
		} else if len(err.Error()) > 200 {
			t.Errorf("ParseID of %d bytes: error of %d bytes", len(s), len(err.Error()))
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("copdsqhgjnkjc4ra")
	f.Add("AAAAAAAAAAAAAAAA")
	f.Add("aaaaaaaa\n\naaaaaa")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("%q is read as %s", s, id)
		}
	})
}

func TestControlAddr(t *testing.T) {
	mesh := [5]byte{1, 2, 3, 4, 5}
	id := ID{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9}
	if got, want := ControlAddr(mesh, id), netip.MustParseAddr("fd01:203:405:a0a1:a2a3:a4a5:a6a7:a8a9"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p := ControlPrefix(mesh)
	if p != netip.MustParsePrefix("fd01:203:405::/48") || !p.Contains(ControlAddr(mesh, id)) || !p.Addr().IsPrivate() {
		t.Errorf("prefix %s", p)
	}
}

// TestKeyPublic checks against wg(8): echo QUFB… | wg pubkey.
func TestKeyPublic(t *testing.T) {
	priv := Key(bytes.Repeat([]byte("A"), 32))
	if got, want := priv.public().String(), "ehpOcJvwhaxJSroEabmx7aCrH3ixaqu3n/7akGI+hSI="; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	if priv.clamped() == priv || priv.clamped().public() != priv.public() {
		t.Error("clamping must change this private key, and not its public key")
	}
}
