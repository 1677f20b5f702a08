package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"math/big"
	"slices"
	"strconv"
	"testing"

	"filippo.io/edwards25519"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors come from the paper's formulas in plain integers (Python), one for each
// sign of the point; random is 0, 1, … 63.
func TestXEdDSAVectors(t *testing.T) {
	msg := []byte("message of the vector")
	var random [64]byte
	for i := range random {
		random[i] = byte(i)
	}
	for _, v := range []struct{ private, public, sig string }{
		{"49ac5de219edae62f9fdeea0fc3f3af48fd832f22fac50820ac11174d6e068bd", "d1a06301b8773e619b3f78fea2f008e80379069a9a3ab47c8a39a5ac0f8c2f1d",
			"1cbad86c7623a0033d1beed1464668606a9515726b4c473750007ea77cea52d475fa6c1f6bd2a4d5797368920a5cc0f6444fbe49e562d929e00c15eb0950aa07"},
		{"227ba5f2c6c9109fe5c44a0696f393379607493a377f522ee27d9a7ae3227d89", "5aab3387a29e6f09291930016d746ba0e3f45cb0e2a00fa805fa5e922d01d274",
			"5fdcaefa588628a5affb8dcb2634b40eb7b54f1c6f6e068e0245c6120b526497a96a0f45000337ccbca4ee6c6a11d001d962c6c5b018d795c931bf666a26bd06"},
	} {
		private, public, sig := Key(unhex(t, v.private)), Key(unhex(t, v.public)), unhex(t, v.sig)
		if private.public() != public {
			t.Errorf("public key %x", private.public())
		}
		if got := xeddsaSign(private, msg, random); !bytes.Equal(got, sig) {
			t.Errorf("signature %x, want %x", got, sig)
		}
		if !xeddsaVerify(public, msg, sig) {
			t.Errorf("%x is not taken", sig)
		}
	}
}

// libsignal's known signature has the point's sign in its highest bit, so it shows the way
// from key to point and nothing more; as it is, it is none of this scheme.
func TestXEdDSAOfLibsignal(t *testing.T) {
	public := Key(unhex(t, "ab7e717d4a163b7d9a1d8071dfe9dcf8cdcd1cea3339b6356be84d887e322c64"))
	msg := unhex(t, "05edce9d9c415ca78cb7252e72c2c4a554d3eb29485a0e1d503118d1a82d99fb4a")
	sig := unhex(t, "5de88ca9a89b4a115da79109c67c9c7464a3e4180274f1cb8c63c2984e286dfbede82deb9dcd9fae0bfbb821569b3d9001bd8130cd11d486cef047bd60b86e88")
	if xeddsaVerify(public, msg, sig) {
		t.Error("a signature with another bit in it is taken")
	}
	point, ok := edwardsOf(public)
	if !ok {
		t.Fatal("the key is refused")
	}
	point[31] |= 0x80
	sig[63] &= 0x7f
	if !ed25519.Verify(point, msg, sig) {
		t.Errorf("the point is not %x", point)
	}
}

func TestKeyProof(t *testing.T) {
	signs := map[byte]bool{}
	for range 32 {
		id, other := mustIdentity(t), mustIdentity(t)
		proof := id.KeyProof()
		if !VerifyKeyProof(id.Public(), id.WireGuardPublic(), proof) {
			t.Fatalf("the proof of %v does not hold", id.WireGuardPublic())
		}
		e, _ := edwards25519.NewScalar().SetBytesWithClamping(id.wg[:])
		signs[new(edwards25519.Point).ScalarBaseMult(e).Bytes()[31]>>7] = true
		if VerifyKeyProof(other.Public(), id.WireGuardPublic(), proof) {
			t.Error("another identity shows it for its own")
		}
		if VerifyKeyProof(id.Public(), other.WireGuardPublic(), proof) || VerifyKeyProof(id.Public(), id.JoinPublic(), proof) {
			t.Error("it proves another key")
		}
		if VerifyKeyProof(id.Public(), id.WireGuardPublic(), id.Sign(keyProofText(id.Public()))) {
			t.Error("the identity's signature is taken for the key's")
		}
		proof[0] ^= 1 // a copy
		if !bytes.Equal(id.KeyProof(), id.KeyProof()) || bytes.Equal(id.KeyProof(), proof) {
			t.Error("an identity has more than one proof")
		}
	}
	if len(signs) != 2 {
		t.Errorf("only points of signs %v were there", signs)
	}
	id := mustIdentity(t)
	proof := id.KeyProof()
	for i := range 8 * len(proof) {
		bad := slices.Clone(proof)
		bad[i/8] ^= 1 << (i % 8)
		if VerifyKeyProof(id.Public(), id.WireGuardPublic(), bad) {
			t.Errorf("bit %d is not looked at", i)
		}
	}
	for _, bad := range [][]byte{nil, proof[:63], append(slices.Clone(proof), 0)} {
		if VerifyKeyProof(id.Public(), id.WireGuardPublic(), bad) {
			t.Errorf("%d bytes are taken", len(bad))
		}
	}
	again, err := parseIdentity(id.encode())
	if err != nil || !VerifyKeyProof(id.Public(), id.WireGuardPublic(), again.KeyProof()) {
		t.Errorf("after a restart: %v", err)
	}
}

// A key has one form, or two hosts could prove one key; and for a key of low order
// anybody can sign.
func TestKeyProofRefusesOddKeys(t *testing.T) {
	id := mustIdentity(t)
	wg := id.WireGuardPublic()
	wg[31] |= 0x80 // X25519 does not look at this bit
	if VerifyKeyProof(id.Public(), wg, id.KeyProof()) {
		t.Error("a key with the highest bit is taken")
	}
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	number := func(s string) *big.Int {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		return n
	}
	for _, u := range []*big.Int{ // https://cr.yp.to/ecdh.html, "contributory" behaviour
		big.NewInt(0), big.NewInt(1), new(big.Int).Sub(p, big.NewInt(1)), p, new(big.Int).Add(p, big.NewInt(1)),
		number("325606250916557431795983626356110631294008115727848805560023387167927233504"),
		number("39382357235489614581723060781553021112529911719440698176882885853963445705823"),
	} {
		k := Key(u.FillBytes(make([]byte, 32)))
		slices.Reverse(k[:])
		if point, ok := edwardsOf(k); ok {
			t.Errorf("u = %v is a point: %x", u, point)
		}
	}

	// u = 0 is the point of order 2, y = -1: half of all texts are signed without any key.
	point := p.Sub(p, big.NewInt(1)).FillBytes(make([]byte, 32))
	slices.Reverse(point)
	for i := 0; ; i++ {
		msg := []byte(strconv.Itoa(i))
		r := hashToScalar([]byte("any"))
		sig := append(new(edwards25519.Point).ScalarBaseMult(r).Bytes(), r.Bytes()...)
		if !ed25519.Verify(point, msg, sig) {
			continue
		}
		if xeddsaVerify(Key{}, msg, sig) {
			t.Error("a signature of nobody is taken")
		}
		break
	}
}

// FuzzKeyProof looks for a panic, and for a second text, key or signature that is taken.
func FuzzKeyProof(f *testing.F) {
	id := newIdentity([32]byte{1}, Key{2}.clamped(), Key{3}.clamped()) // the same in every process of the fuzzer
	wg, proof := id.WireGuardPublic(), xeddsaSign(id.wg, keyProofText(id.Public()), [64]byte{4})
	f.Add([]byte(id.Public()), wg[:], proof)
	f.Add([]byte{}, make([]byte, 32), make([]byte, 64))
	f.Add([]byte{}, bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, identity, key, sig []byte) {
		if len(key) != len(Key{}) {
			return
		}
		if VerifyKeyProof(identity, Key(key), sig) && (!bytes.Equal(identity, id.Public()) || Key(key) != wg || !bytes.Equal(sig, proof)) {
			t.Errorf("%x proves %x to be of %x", sig, key, identity)
		}
	})
}
