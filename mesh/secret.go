package mesh

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/argon2"

	"weft/peer"
)

// hidden is all that a Secret or a Token ever prints.
const hidden = "(secret)"

// Secret is what admits a host to a mesh: 256 bits from which every other key
// is derived. The zero value is no secret.
//
// It cannot be printed: not by fmt with any verb, not by slog, not by
// encoding/json. The bytes sit in a closure because fmt calls no methods on a
// Secret inside an unexported field of another struct, and follows pointers
// there; of a func it shows the address. == is forbidden: use Equal.
type Secret struct {
	key func() *[32]byte // nil: no secret
}

func hide(k [32]byte) Secret { return Secret{key: func() *[32]byte { return &k }} }

// NewSecret makes a random secret, as a founding host does.
func NewSecret() Secret {
	var k [32]byte
	rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	return hide(k)
}

// passwordSalt is fixed so that all hosts of a mesh come to the same secret
// without a word exchanged; it only keeps weft's hashes apart from others'.
const passwordSalt = "weft password v1"

// SecretFromPassword stretches a password into a secret with argon2id (RFC 9106;
// 64 MiB, 3 passes, 2 lanes: about half a second). A fake member can test
// guesses at that price, so a weak password is refused with a *WeakPasswordError
// unless force is set.
func SecretFromPassword(password string, force bool) (Secret, error) {
	if password == "" {
		return Secret{}, errors.New("read password: it is empty")
	}
	if reason := weakness(password); reason != "" && !force {
		return Secret{}, &WeakPasswordError{Reason: reason}
	}
	sum := argon2.IDKey([]byte(password), []byte(passwordSalt), 3, 64*1024, 2, 32)
	return SecretFromBytes(sum)
}

// SecretFromBytes takes 32 bytes, as Bytes gave them. All zero is refused.
func SecretFromBytes(b []byte) (Secret, error) {
	if len(b) != 32 {
		return Secret{}, fmt.Errorf("read secret: %d bytes, want 32", len(b))
	}
	if bytes.Equal(b, make([]byte, 32)) {
		return Secret{}, errors.New("read secret: all zero")
	}
	return hide([32]byte(b)), nil
}

// Bytes is a copy of the 32 bytes, for the token and its file only; nil for no secret.
func (s Secret) Bytes() []byte {
	if s.key == nil {
		return nil
	}
	return bytes.Clone(s.key()[:])
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool {
	if s.IsZero() || o.IsZero() {
		return s.IsZero() && o.IsZero()
	}
	return subtle.ConstantTimeCompare(s.key()[:], o.key()[:]) == 1
}

// String hides the secret, as all the methods below do.
func (Secret) String() string { return hidden }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return hidden }

// Format hides the secret from every verb of fmt.
func (Secret) Format(f fmt.State, _ rune) { f.Write([]byte(hidden)) }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the secret from text encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON hides the secret from encoding/json.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// derive is HKDF-SHA256 (RFC 5869, no salt) with
// info = label | epoch as 4 bytes, big endian | context.
// Labels have no common prefix, so no two (label, epoch, context) are the same info.
func (s Secret) derive(label string, epoch uint32, context []byte, n int) []byte {
	if s.key == nil {
		s = NewSecret() // of no secret: keys that open nothing, rather than keys that all can know
	}
	info := binary.BigEndian.AppendUint32([]byte(label), epoch)
	info = append(info, context...)
	out, err := hkdf.Key(sha256.New, s.key()[:], nil, string(info), n)
	if err != nil {
		panic(err) // only for n > 255*32, a constant of this file
	}
	return out
}

// joinKey is the preshared key of the join handshake.
func (s Secret) joinKey(epoch uint32) [32]byte {
	return [32]byte(s.derive("weft join-key v1", epoch, nil, 32))
}

// admissionKey is the key of the proof in host records; see admission.
func (s Secret) admissionKey(epoch uint32) [32]byte {
	return [32]byte(s.derive("weft admission-key v1", epoch, nil, 32))
}

// admission proves that whoever holds identity was given the secret: the first
// 128 bits of an HMAC-SHA256 over the identity.
func (s Secret) admission(epoch uint32, identity []byte) [16]byte {
	key := s.admissionKey(epoch)
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("weft admission v1"))
	h.Write(identity)
	return [16]byte(h.Sum(nil)[:16])
}

// GossipKey is the 32-byte key of memberlist's keyring in that epoch.
func (s Secret) GossipKey(epoch uint32) []byte {
	return s.derive("weft gossip-key v1", epoch, nil, 32)
}

// WireGuardPSK is the preshared key between two hosts, from their WireGuard
// public keys in either order.
func (s Secret) WireGuardPSK(a, b peer.Key) peer.Key {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return peer.Key(s.derive("weft wg-psk v1", 0, append(a[:], b[:]...), 32))
}

// MeshID names a mesh. It is derived from the secret at epoch 0, so that the
// secret can rotate without moving addresses, and never travels in clear.
type MeshID [10]byte

// MeshID is the ID of the mesh that the secret admits to.
func (s Secret) MeshID() MeshID {
	return MeshID(s.derive("weft mesh-id v1", 0, nil, 10))
}

// idEncoding is RFC 4648 base32 in lower case without padding, as peer.ID uses.
var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String is 16 characters of lower-case base32.
func (m MeshID) String() string { return idEncoding.EncodeToString(m[:]) }

// Control is the part of the ID that control addresses carry.
func (m MeshID) Control() [5]byte { return [5]byte(m[:5]) }
