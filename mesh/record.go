package mesh

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"weft/peer"
)

// Record is a host record: who a host is and where it is reached, signed by
// itself. It is also memberlist's node meta, which must stay below 512 bytes.
type Record struct {
	Identity    ed25519.PublicKey // 32 bytes
	WireGuard   peer.Key          // public key of its tunnel
	Join        peer.Key          // public static key of its sessions
	BootNonce   uint64            // drawn at each start of the router
	Epoch       uint64            // of its log; grows with each start
	Serial      uint32            // grows with each change of the record within an epoch
	ProtoMin    uint8             // protocol versions that it speaks
	ProtoMax    uint8
	SecretEpoch uint32           // of the keys that Admission was made with
	Admission   [16]byte         // proves that the identity was given the secret
	Nickname    string           // at most 32 bytes, printable, no spaces; only for display
	Endpoints   []netip.AddrPort // at most 6, of its WireGuard port on the underlay
	Ext         []TLV
}

const (
	recordVersion = 1
	maxRecord     = 464 // bytes
	maxNickname   = 32  // bytes
	maxEndpoints  = 6

	recordDomain = "weft record v1"
)

// ID is the peer ID of the host.
func (r Record) ID() peer.ID { return peer.IDOf(r.Identity) }

// Name is the memberlist name: "peerID/boot nonce", 16 characters each.
func (r Record) Name() string { return nodeName(r.ID(), r.BootNonce) }

func nodeName(id peer.ID, nonce uint64) string { return fmt.Sprintf("%v/%016x", id, nonce) }

// SignRecord fills the keys, the proof of the tunnel's key and the admission proof
// into r, signs it and returns the bytes, at most 464. It refuses what VerifyRecord
// would refuse.
//
// Layout, big endian: version u8 = 1 | identity 32 | wireguard 32 | join 32 |
// boot nonce 8 | epoch 8 | serial 4 | protoMin 1 | protoMax 1 | secret epoch 4 |
// admission 16 | length u8, nickname | number u8, endpoints {family u8 = 4 or 6,
// address 4 or 16, port 2}… | length u16, extensions {type u8, length u8, value}…
// | signature 64 over "weft record v1" and all before it.
func SignRecord(id *peer.Identity, s Secret, r Record) ([]byte, error) {
	if s.IsZero() {
		return nil, errors.New("sign host record: no secret")
	}
	r.Identity, r.WireGuard, r.Join = id.Public(), id.WireGuardPublic(), id.JoinPublic()
	r.Admission = s.admission(r.SecretEpoch, r.Identity)
	r.Ext = append(slices.DeleteFunc(slices.Clone(r.Ext), func(x TLV) bool { return x.Type == extKeyProof }), TLV{extKeyProof, id.KeyProof()})
	b, err := r.encode()
	if err == nil {
		err = r.check(s.MeshID())
	}
	if err != nil {
		return nil, fmt.Errorf("sign host record: %w", err)
	}
	b = append(b, id.Sign(append([]byte(recordDomain), b...))...)
	if len(b) > maxRecord {
		return nil, fmt.Errorf("sign host record: %d bytes, more than %d", len(b), maxRecord)
	}
	return b, nil
}

// encode is all but the signature.
func (r Record) encode() ([]byte, error) {
	if len(r.Nickname) > maxNickname || len(r.Endpoints) > maxEndpoints {
		return nil, errors.Join(checkNickname(r.Nickname), checkCount(len(r.Endpoints)))
	}
	b := append([]byte{recordVersion}, r.Identity...)
	b = append(b, r.WireGuard[:]...)
	b = append(b, r.Join[:]...)
	b = binary.BigEndian.AppendUint64(b, r.BootNonce)
	b = binary.BigEndian.AppendUint64(b, r.Epoch)
	b = binary.BigEndian.AppendUint32(b, r.Serial)
	b = append(b, r.ProtoMin, r.ProtoMax)
	b = binary.BigEndian.AppendUint32(b, r.SecretEpoch)
	b = append(b, r.Admission[:]...)
	b = append(b, uint8(len(r.Nickname)))
	b = append(b, r.Nickname...)
	b = append(b, uint8(len(r.Endpoints)))
	for _, e := range r.Endpoints {
		b = appendAddrPort(b, e)
	}
	ext, err := appendTLVs(nil, r.Ext)
	if err != nil {
		return nil, err
	}
	if len(ext) > maxRecord {
		return nil, fmt.Errorf("extensions of %d bytes, more than fit", len(ext))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)))
	return append(b, ext...), nil
}

// ParseRecord reads the structure only: nothing in it is proven.
func ParseRecord(b []byte) (Record, error) {
	r, _, err := parseRecord(b)
	if err != nil {
		return Record{}, fmt.Errorf("parse host record: %w", err)
	}
	return r, nil
}

// recordID is whose record b says that it is, without a look at the rest.
func recordID(b []byte) (peer.ID, bool) {
	if len(b) < 1+ed25519.PublicKeySize || b[0] != recordVersion {
		return peer.ID{}, false
	}
	return peer.IDOf(ed25519.PublicKey(b[1 : 1+ed25519.PublicKeySize])), true
}

func parseRecord(b []byte) (r Record, signed int, err error) {
	if len(b) > maxRecord {
		return r, 0, fmt.Errorf("%d bytes, more than %d", len(b), maxRecord)
	}
	in := reader{b: b}
	if v := in.u8(); in.err == nil && v != recordVersion {
		return r, 0, fmt.Errorf("format %d is not known here", v)
	}
	r.Identity = append(ed25519.PublicKey{}, in.take(ed25519.PublicKeySize)...)
	r.WireGuard, r.Join = peer.Key(in.take(32)), peer.Key(in.take(32))
	r.BootNonce, r.Epoch, r.Serial = in.u64(), in.u64(), in.u32()
	r.ProtoMin, r.ProtoMax = in.u8(), in.u8()
	r.SecretEpoch, r.Admission = in.u32(), [16]byte(in.take(16))
	r.Nickname = string(in.take(int(in.u8())))
	n := int(in.u8())
	if in.err == nil {
		in.err = errors.Join(checkNickname(r.Nickname), checkCount(n), checkProto(r.ProtoMin, r.ProtoMax))
	}
	for range min(n, maxEndpoints) {
		e := in.addrPort()
		if !e.IsValid() {
			in.fail("endpoint without an address")
		}
		r.Endpoints = append(r.Endpoints, e)
	}
	r.Ext = in.tlvs(int(in.u16()))
	signed = len(b) - len(in.b)
	in.take(ed25519.SignatureSize)
	return r, signed, in.end()
}

// VerifyRecord parses b and proves it: signed by its identity, which was given
// the secret s, with endpoints that can be dialled from another host. If it shows
// a proof of the tunnel's key, that holds (see Record.ProvesKey).
func VerifyRecord(b []byte, s Secret) (Record, error) {
	r, signed, err := parseRecord(b)
	if err != nil {
		return Record{}, fmt.Errorf("parse host record: %w", err)
	}
	want := s.admission(r.SecretEpoch, r.Identity)
	switch {
	case !ed25519.Verify(r.Identity, append([]byte(recordDomain), b[:signed]...), b[signed:]):
		err = errors.New("signature is not of its identity")
	case !hmac.Equal(want[:], r.Admission[:]):
		err = errors.New("admission proof is not of this mesh's secret")
	default:
		err = r.check(s.MeshID())
	}
	if err != nil {
		return Record{}, fmt.Errorf("verify host record of %v: %w", r.ID(), err)
	}
	return r, nil
}

// check returns all that is wrong with the fields.
func (r Record) check(mesh MeshID) error {
	errs := []error{checkNickname(r.Nickname), checkCount(len(r.Endpoints)), checkProto(r.ProtoMin, r.ProtoMax)}
	for _, e := range r.Endpoints {
		errs = append(errs, checkEndpoint(e, mesh))
	}
	if r.WireGuard.IsZero() || r.Join.IsZero() {
		errs = append(errs, errors.New("a public key is all zero"))
	}
	if proof, ok := r.ext(extKeyProof); ok && !peer.VerifyKeyProof(r.Identity, r.WireGuard, proof) {
		errs = append(errs, errors.New("it does not have the WireGuard key that it says it has"))
	}
	return errors.Join(errs...)
}

func checkCount(endpoints int) error {
	if endpoints > maxEndpoints {
		return fmt.Errorf("%d endpoints, more than %d", endpoints, maxEndpoints)
	}
	return nil
}

func checkProto(lo, hi uint8) error {
	if lo == 0 || lo > hi {
		return fmt.Errorf("protocol range %d to %d is not a range", lo, hi)
	}
	return nil
}

// checkEndpoint refuses what no other host can dial, and addresses inside the
// mesh: a tunnel in itself.
func checkEndpoint(e netip.AddrPort, mesh MeshID) error {
	a := e.Addr()
	var why string
	switch {
	case !a.IsValid() || e.Port() == 0:
		why = "has no address or no port"
	case a.Is4In6() || a.Zone() != "":
		why = "has a zone, or is IPv4 in IPv6 form"
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		why = "is not an address of one host on a network"
	case peer.ControlPrefix(mesh.Control()).Contains(a):
		why = "is inside the mesh itself"
	default:
		return nil
	}
	return fmt.Errorf("endpoint %v %s", e, why)
}

// checkNickname keeps what is shown in terminals and tables harmless.
func checkNickname(s string) error {
	switch {
	case len(s) > maxNickname:
		return fmt.Errorf("nickname of %d bytes, more than %d", len(s), maxNickname)
	case s != cleanNickname(s):
		return fmt.Errorf("nickname %q has spaces or unprintable characters", s)
	}
	return nil
}

// cleanNickname makes a nickname of any text, such as a hostname: what a
// nickname cannot hold becomes "-", and it ends after 32 bytes.
func cleanNickname(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return '-'
		}
		return r
	}, s)
	for len(s) > maxNickname {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
