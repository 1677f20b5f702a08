package peer

import (
	"crypto/ed25519"
	"crypto/rand"
)

// keyProofDomain is what the signed text begins with; the identity's public key
// follows. It names no mesh: whose key it is does not depend on one.
const keyProofDomain = "weft wireguard key v1"

// newKeyProof has the WireGuard key sign whose it is.
func newKeyProof(wg Key, identity ed25519.PublicKey) []byte {
	var random [64]byte
	rand.Read(random[:]) // never fails (crypto/rand, Go 1.24)
	return xeddsaSign(wg, keyProofText(identity), random)
}

func keyProofText(identity ed25519.PublicKey) []byte {
	return append([]byte(keyProofDomain), identity...)
}

// KeyProof is the signature, 64 bytes, by which the host's WireGuard key says that it
// belongs to this identity. It is the same as long as the Identity lives.
func (i *Identity) KeyProof() []byte { return append([]byte(nil), i.proof...) }

// VerifyKeyProof says whether who made the proof for this identity has the private
// half of the WireGuard key. Without that, a host could name another's key for its own.
func VerifyKeyProof(identity ed25519.PublicKey, wg Key, proof []byte) bool {
	return xeddsaVerify(wg, keyProofText(identity), proof)
}
