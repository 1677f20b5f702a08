package mesh

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"

	"weft/peer"
)

// Begin is the payload of the first entry of an epoch. It carries what is needed
// to verify the log with nothing else at hand, so that a log can be taken from
// whoever has it.
type Begin struct {
	Identity  ed25519.PublicKey // 32 bytes; hashes to the author
	Admission [16]byte          // proves that the identity was given the secret, at the entry's secret epoch
	BootNonce uint64            // of the start that opened the epoch
	Snapshot  uint32            // entries 1 to Snapshot, this one included, are the author's whole state
	Ext       []TLV
}

// NewBegin fills in the identity and the proof.
func NewBegin(id *peer.Identity, s Secret, secretEpoch uint32, bootNonce uint64, snapshot uint32) Begin {
	return Begin{Identity: id.Public(), Admission: s.admission(secretEpoch, id.Public()), BootNonce: bootNonce, Snapshot: snapshot}
}

// MarshalBinary is identity 32 | admission 16 | boot nonce 8 | snapshot 4 |
// extensions {type u8, length u8, value}… to the end.
func (g Begin) MarshalBinary() ([]byte, error) {
	if len(g.Identity) != ed25519.PublicKeySize || g.Snapshot == 0 {
		return nil, errors.New("encode begin: no identity, or an empty snapshot")
	}
	b := append([]byte{}, g.Identity...)
	b = append(b, g.Admission[:]...)
	b = binary.BigEndian.AppendUint64(b, g.BootNonce)
	b = binary.BigEndian.AppendUint32(b, g.Snapshot)
	return appendTLVs(b, g.Ext)
}

// ParseBegin reads what MarshalBinary wrote.
func ParseBegin(b []byte) (Begin, error) {
	if len(b) > maxPayload {
		return Begin{}, fmt.Errorf("parse begin: %d bytes, more than %d", len(b), maxPayload)
	}
	r := reader{b: b}
	g := Begin{Identity: append(ed25519.PublicKey{}, r.take(ed25519.PublicKeySize)...), Admission: [16]byte(r.take(16)),
		BootNonce: r.u64(), Snapshot: r.u32()}
	g.Ext = r.tlvs(len(r.b))
	if r.err == nil && g.Snapshot == 0 {
		r.fail("empty snapshot")
	}
	if err := r.end(); err != nil {
		return Begin{}, fmt.Errorf("parse begin: %w", err)
	}
	return g, nil
}

// VerifyBegin proves a whole first entry: it parses the payload, which names the
// identity, and checks the entry's signature and the admission with it.
func VerifyBegin(e Entry, s Secret) (Begin, error) {
	if e.Kind != KindBegin {
		return Begin{}, fmt.Errorf("verify begin of %v: entry is of kind %d", e.Author, e.Kind)
	}
	g, err := ParseBegin(e.Payload)
	if err != nil {
		return Begin{}, err
	}
	if err := e.Verify(g.Identity, s.MeshID()); err != nil {
		return Begin{}, err
	}
	want := s.admission(e.SecretEpoch, g.Identity)
	if !hmac.Equal(want[:], g.Admission[:]) {
		return Begin{}, fmt.Errorf("verify begin of %v: admission proof is not of this mesh's secret", e.Author)
	}
	return g, nil
}
