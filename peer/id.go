package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// ID names a host for ever: the first 80 bits of SHA-256 over its Ed25519
// public key. Its text is 16 characters of lower-case base32.
type ID [10]byte

// idText is RFC 4648 base32 in lower case and without padding: 10 bytes are
// exactly 16 characters, so that every ID has one text.
var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// IDOf gives the ID of the host with this identity key.
func IDOf(pub ed25519.PublicKey) ID {
	sum := sha256.Sum256(pub)
	return ID(sum[:len(ID{})])
}

// ParseID reads the 16 characters of an ID, in any case.
func ParseID(s string) (ID, error) {
	// The length is checked first since the decoder skips line breaks.
	if len(s) != idText.EncodedLen(len(ID{})) {
		return ID{}, fmt.Errorf("parse peer ID %q: want 16 characters, have %d", clip(s), len(s))
	}
	b, err := idText.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("parse peer ID %q: only the letters a-z and the digits 2-7 can be in it", clip(s))
	}
	return ID(b), nil
}

// clip keeps an error about foreign text short.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// String gives the 16 characters.
func (id ID) String() string { return idText.EncodeToString(id[:]) }

// IsZero says that this is nobody's ID.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs by their bytes: -1, 0 or 1. Their texts sort otherwise,
// since base32 has its digits behind its letters and ASCII has them before.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText gives the 16 characters (encoding.TextMarshaler).
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID (encoding.TextUnmarshaler).
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
