package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// Identity is the private half of a host: an Ed25519 key that signs and two
// X25519 keys, one for the WireGuard device and one for the join handshake,
// each used for nothing else, but that the device's signs once whose it is
// ([Identity.KeyProof]). However it is printed, it shows its ID only.
type Identity struct {
	sign           ed25519.PrivateKey
	wg, join       Key // private
	wgPub, joinPub Key
	proof          []byte // that wg is of this identity
	id             ID
}

// NewIdentity makes an identity in memory, for tests. A host's own comes from
// [LoadIdentity].
func NewIdentity() (*Identity, error) {
	var seed [ed25519.SeedSize]byte
	rand.Read(seed[:]) // never fails (crypto/rand, Go 1.24)
	return newIdentity(seed, newPrivateKey(), newPrivateKey()), nil
}

func newIdentity(seed [ed25519.SeedSize]byte, wg, join Key) *Identity {
	sign := ed25519.NewKeyFromSeed(seed[:])
	public := sign.Public().(ed25519.PublicKey)
	return &Identity{
		sign: sign,
		wg:   wg, wgPub: wg.public(),
		join: join, joinPub: join.public(),
		proof: newKeyProof(wg, public),
		id:    IDOf(public),
	}
}

// ID is the host's peer ID.
func (i *Identity) ID() ID { return i.id }

// Public is the key that verifies what [Identity.Sign] signed.
func (i *Identity) Public() ed25519.PublicKey { return i.sign.Public().(ed25519.PublicKey) }

// Sign gives the 64 bytes of the Ed25519 signature over msg (RFC 8032).
func (i *Identity) Sign(msg []byte) []byte { return ed25519.Sign(i.sign, msg) }

// WireGuardPublic is the public key of the host's WireGuard device.
func (i *Identity) WireGuardPublic() Key { return i.wgPub }

// WireGuardPrivate is the device's private key, for [Options]. Never print it.
func (i *Identity) WireGuardPrivate() Key { return i.wg }

// JoinPublic is the public static key of the join handshake.
func (i *Identity) JoinPublic() Key { return i.joinPub }

// JoinPrivate is the private static key of the join handshake. Never print it.
func (i *Identity) JoinPrivate() Key { return i.join }

// The methods below have value receivers, so that a copy prints as little as a
// pointer does.

// String gives the ID.
func (i Identity) String() string { return i.id.String() }

// Format prints the ID for every verb, %#v and %x included.
func (i Identity) Format(f fmt.State, _ rune) { io.WriteString(f, i.id.String()) }

// LogValue logs the ID.
func (i Identity) LogValue() slog.Value { return slog.StringValue(i.id.String()) }

// MarshalJSON gives the ID.
func (i Identity) MarshalJSON() ([]byte, error) { return json.Marshal(i.id) }
