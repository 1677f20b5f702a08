package peer

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
)

// Key is 32 bytes for Curve25519 (RFC 7748): a public key, a private key, or a
// preshared key. Only public keys may be printed; the types here that hold the
// other kinds hide them.
type Key [32]byte

// IsZero says that there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// String gives base64 as wg(8) prints it. For public keys only.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// newPrivateKey makes an X25519 private key. It is clamped at once: WireGuard
// devices clamp what they are given, and [Open] compares what they hold with
// what it wants.
func newPrivateKey() Key {
	var k Key
	rand.Read(k[:]) // never fails (crypto/rand, Go 1.24)
	return k.clamped()
}

// clamped is k as a private key of X25519 (RFC 7748, section 5).
func (k Key) clamped() Key {
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// public is the public key that belongs to the private key k.
func (k Key) public() Key {
	priv, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("peer: X25519 refused 32 bytes: " + err.Error()) // only the length can be wrong
	}
	return Key(priv.PublicKey().Bytes())
}
