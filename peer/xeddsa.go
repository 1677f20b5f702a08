package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// XEdDSA lets an X25519 key sign: "The XEdDSA and VXEdDSA Signature Schemes",
// revision 1 (https://signal.org/docs/specifications/xeddsa/), section 2. What it
// signs is an Ed25519 signature (RFC 8032) of the one point with sign 0 that the
// X25519 key stands for. libsignal puts the sign into the signature instead, which
// is not the scheme of the paper, and not taken here.

// xeddsaNonce is what hash_1 begins with: 2^256 - 2, little endian. No point has
// that encoding, so that no other hash of Ed25519 begins like it.
var xeddsaNonce = append([]byte{0xfe}, bytes.Repeat([]byte{0xff}, 31)...)

// xeddsaSign signs msg with an X25519 private key. random is to be fresh and secret.
func xeddsaSign(private Key, msg []byte, random [64]byte) []byte {
	a, err := edwards25519.NewScalar().SetBytesWithClamping(private[:])
	if err != nil {
		panic("peer: a scalar refused 32 bytes: " + err.Error()) // only the length can be wrong
	}
	point := new(edwards25519.Point).ScalarBaseMult(a).Bytes()
	if point[31]>>7 == 1 {
		a.Negate(a) // -A has the other sign
		point[31] &= 0x7f
	}
	r := hashToScalar(xeddsaNonce, a.Bytes(), msg, random[:])
	sig := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	h := hashToScalar(sig, point, msg)
	return append(sig, edwards25519.NewScalar().MultiplyAdd(h, a, r).Bytes()...)
}

// xeddsaVerify says whether the owner of an X25519 public key has signed msg.
func xeddsaVerify(public Key, msg, sig []byte) bool {
	point, ok := edwardsOf(public)
	return ok && len(sig) == ed25519.SignatureSize && ed25519.Verify(point, msg, sig)
}

// edwardsOf is the point with sign 0 that a public key stands for: y = (u-1)/(u+1)
// (RFC 7748, section 4.1). It refuses what no private key has: two forms of one
// number, points of the twist, and those of low order, for which anybody can sign.
func edwardsOf(public Key) (ed25519.PublicKey, bool) {
	u, err := new(field.Element).SetBytes(public[:]) // ignores the highest bit, and reduces
	if err != nil || !bytes.Equal(u.Bytes(), public[:]) {
		return nil, false
	}
	one := new(field.Element).One()
	y := new(field.Element).Invert(new(field.Element).Add(u, one)) // of 0 it is 0, as the paper wants it
	y.Multiply(y, new(field.Element).Subtract(u, one))
	point, err := new(edwards25519.Point).SetBytes(y.Bytes())
	if err != nil {
		return nil, false
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, false
	}
	return y.Bytes(), true
}

func hashToScalar(parts ...[]byte) *edwards25519.Scalar {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	s, err := edwards25519.NewScalar().SetUniformBytes(h.Sum(nil))
	if err != nil {
		panic("peer: a scalar refused a SHA-512: " + err.Error()) // only the length can be wrong
	}
	return s
}
