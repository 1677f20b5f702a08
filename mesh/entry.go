package mesh

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"weft/peer"
)

// Kind says what the payload of an entry is. Kinds that this release does not
// know are kept and forwarded.
type Kind uint16

// The kinds of this release.
const (
	KindBegin Kind = 1 // opens an epoch: a Begin
	KindHost  Kind = 2 // a host record
	KindGrant Kind = 3 // a grant of address space
	KindName  Kind = 4 // a name
	KindClaim Kind = 5 // an address outside the range

	// KindDepart has no payload: the author was reset and will not come back
	// under this identity. What it gave away stays given; its names and claims
	// are gone.
	KindDepart Kind = 6

	// KindTaken names epochs of the author's: for each its number 8 bytes, how many
	// of its entries 8, and the first 8 bytes of their chain's sum. All that counts of
	// those is in this epoch, so that a grant on which nothing rests any more could
	// be left out. What an epoch lacks else of an older one was forgotten; see
	// withdrawal.go.
	KindTaken Kind = 7
)

// Entry is one line of one host's log, signed by that host.
type Entry struct {
	Author      peer.ID
	Epoch       uint64
	Seq         uint64 // from 1 in each epoch
	SecretEpoch uint32
	Kind        Kind
	Payload     []byte // at most 900 bytes; not to be changed
	raw         []byte
}

const (
	entryVersion = 1
	entryHeader  = 1 + 10 + 8 + 8 + 4 + 2 + 2
	maxPayload   = 900
	maxEntry     = entryHeader + maxPayload + ed25519.SignatureSize

	entryDomain = "weft entry v1"
)

// Raw is the entry as received, and as it is forwarded; not to be changed. It is
// nil unless the entry comes from SignEntry, ParseEntry or SplitEntries.
func (e Entry) Raw() []byte { return e.raw }

// SignEntry makes e an entry of id's log in that mesh; Author is filled in.
//
// Layout, big endian: version u8 = 1 | author 10 | epoch 8 | seq 8 | secret
// epoch 4 | kind 2 | length u16, payload | signature 64 over "weft entry v1",
// the mesh ID and all before it.
func SignEntry(id *peer.Identity, mesh MeshID, e Entry) (Entry, error) {
	e.Author = id.ID()
	if err := e.check(); err != nil {
		return Entry{}, fmt.Errorf("sign entry: %w", err)
	}
	b := append(make([]byte, 0, entryHeader+len(e.Payload)+ed25519.SignatureSize), entryVersion)
	b = append(b, e.Author[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = binary.BigEndian.AppendUint32(b, e.SecretEpoch)
	b = binary.BigEndian.AppendUint16(b, uint16(e.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Payload)))
	b = append(b, e.Payload...)
	b = append(b, id.Sign(signedEntry(mesh, b))...)
	e.raw, e.Payload = b, b[entryHeader:len(b)-ed25519.SignatureSize:len(b)-ed25519.SignatureSize]
	return e, nil
}

func (e Entry) check() error {
	switch {
	case e.Seq == 0 || e.Epoch == 0:
		return errors.New("epoch and sequence begin at 1")
	case e.Kind == 0:
		return errors.New("no kind")
	case len(e.Payload) > maxPayload:
		return fmt.Errorf("payload of %d bytes, more than %d", len(e.Payload), maxPayload)
	case (e.Kind == KindBegin) != (e.Seq == 1):
		return fmt.Errorf("kind %d at sequence %d: an epoch begins with its first entry", e.Kind, e.Seq)
	}
	return nil
}

// ParseEntry reads one entry of exactly b, which is copied. The structure only:
// see Verify.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > maxEntry {
		return Entry{}, fmt.Errorf("parse entry: %d bytes, more than %d", len(b), maxEntry)
	}
	b = append([]byte(nil), b...)
	r := reader{b: b}
	if v := r.u8(); r.err == nil && v != entryVersion {
		return Entry{}, fmt.Errorf("parse entry: format %d is not known here", v)
	}
	e := Entry{Author: peer.ID(r.take(10)), Epoch: r.u64(), Seq: r.u64(), SecretEpoch: r.u32(), Kind: Kind(r.u16()), raw: b}
	e.Payload = r.take(int(r.u16()))
	r.take(ed25519.SignatureSize)
	err := r.end()
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return Entry{}, fmt.Errorf("parse entry: %w", err)
	}
	return e, nil
}

// Verify proves that e is of the log of the host with that identity in that mesh.
func (e Entry) Verify(pub ed25519.PublicKey, mesh MeshID) error {
	n := len(e.raw) - ed25519.SignatureSize
	switch {
	case n < entryHeader:
		return errors.New("verify entry: it was not signed or parsed")
	case len(pub) != ed25519.PublicKeySize || peer.IDOf(pub) != e.Author:
		return fmt.Errorf("verify entry of %v: the key is not its author's", e.Author)
	case !ed25519.Verify(pub, signedEntry(mesh, e.raw[:n]), e.raw[n:]):
		return fmt.Errorf("verify entry %d/%d of %v: wrong signature", e.Epoch, e.Seq, e.Author)
	}
	return nil
}

func signedEntry(mesh MeshID, headerAndPayload []byte) []byte {
	b := append([]byte(entryDomain), mesh[:]...)
	return append(b, headerAndPayload...)
}

// AppendEntries appends to b, for each entry, its length as u16 and its bytes.
func AppendEntries(b []byte, es ...Entry) []byte {
	for _, e := range es {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.raw)))
		b = append(b, e.raw...)
	}
	return b
}

// SplitEntries reads what AppendEntries wrote. With an error it also returns the
// entries before the fault.
func SplitEntries(b []byte) ([]Entry, error) {
	if len(b) > maxMsg {
		return nil, fmt.Errorf("split entries: %d bytes, more than %d", len(b), maxMsg)
	}
	var es []Entry
	r := reader{b: b}
	for len(r.b) > 0 {
		raw := r.take(int(r.u16()))
		if r.err != nil {
			return es, fmt.Errorf("split entries: %w", r.err)
		}
		e, err := ParseEntry(raw)
		if err != nil {
			return es, err
		}
		es = append(es, e)
	}
	return es, nil
}
