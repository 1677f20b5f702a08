package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// purpose says what a session is for; the client decides.
type purpose uint8

const (
	purposeJoin  purpose = 1 // become or refresh a peer: records both ways, tunnels, logs
	purposeSync  purpose = 2 // exchange of log entries, through the tunnel
	purposeCall  purpose = 3 // a request to the router, through the tunnel
	purposeProbe purpose = 4 // is the host with this boot nonce still there?
)

func (p purpose) String() string {
	switch p {
	case purposeJoin:
		return "join"
	case purposeSync:
		return "sync"
	case purposeCall:
		return "call"
	case purposeProbe:
		return "probe"
	}
	return fmt.Sprintf("purpose %d", uint8(p))
}

// hello is the first message that each side sends in a session, the server
// first. A server does not know the purpose yet and sends 0.
type hello struct {
	Proto      uint8          // protocol version of the session
	Purpose    purpose        // 0 from the server
	ProbeNonce uint64         // purposeProbe: the boot nonce that is asked for
	Observed   netip.AddrPort // where the sender sees the receiver; zero: not known
	Record     []byte         // the sender's host record, signed; not verified by parseHello
	Founding   []byte         // Founding.MarshalBinary; empty: not known
	Ext        []TLV
}

const (
	helloVersion = 1
	maxHello     = 2048 // bytes: what ReadMsg is to be called with
)

// encode is version u8 = 1 | proto u8 | purpose u8 | probe nonce 8 | observed
// {family u8 (0: none), address, port 2} | length u16, record | length u16,
// founding | extensions {type u8, length u8, value}… to the end.
func (h hello) encode() ([]byte, error) {
	b := []byte{helloVersion, h.Proto, uint8(h.Purpose)}
	b = binary.BigEndian.AppendUint64(b, h.ProbeNonce)
	b = appendAddrPort(b, h.Observed)
	for _, f := range [][]byte{h.Record, h.Founding} {
		if len(f) > maxRecord {
			return nil, fmt.Errorf("encode hello: field of %d bytes, more than %d", len(f), maxRecord)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(f)))
		b = append(b, f...)
	}
	b, err := appendTLVs(b, h.Ext)
	if err == nil && len(b) > maxHello {
		err = fmt.Errorf("%d bytes, more than %d", len(b), maxHello)
	}
	if err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	return b, nil
}

// parseHello reads what encode wrote. Record and founding are copies, and are
// only bytes yet. A purpose that is not known here is no error: it is refused by name.
func parseHello(b []byte) (hello, error) {
	if len(b) > maxHello {
		return hello{}, fmt.Errorf("parse hello: %d bytes, more than %d", len(b), maxHello)
	}
	r := reader{b: b}
	if v := r.u8(); r.err == nil && v != helloVersion {
		return hello{}, fmt.Errorf("parse hello: format %d is not known here", v)
	}
	h := hello{Proto: r.u8(), Purpose: purpose(r.u8()), ProbeNonce: r.u64(), Observed: r.addrPort()}
	h.Record = append([]byte{}, r.take(int(r.u16()))...)
	h.Founding = append([]byte{}, r.take(int(r.u16()))...)
	if len(h.Record) > maxRecord || len(h.Founding) > maxRecord {
		r.fail("record of %d bytes or founding of %d, more than %d", len(h.Record), len(h.Founding), maxRecord)
	}
	h.Ext = r.tlvs(len(r.b))
	if err := r.end(); err != nil {
		return hello{}, fmt.Errorf("parse hello: %w", err)
	}
	return h, nil
}

// RefusalCode says why a host does not go on with a session.
type RefusalCode uint16

// The reasons. A code that is not known here is kept; its text says enough.
const (
	Accepted        RefusalCode = 0 // not a refusal: go on
	RefusedClone    RefusalCode = 1 // the same identity runs elsewhere
	RefusedFounding RefusalCode = 2 // the two meshes were founded apart
	RefusedRange    RefusalCode = 3 // another address range was asked for
	RefusedSelf     RefusalCode = 4 // the caller is the host itself
	RefusedRecord   RefusalCode = 5 // the host record does not verify, or is not of this session's key
	RefusedPurpose  RefusalCode = 6 // purpose not known, or not served on this address
	RefusedNonce    RefusalCode = 7 // probe: this is another start of the host
	RefusedBusy     RefusalCode = 8 // over a limit: try later
	RefusedEvicted  RefusalCode = 9 // the mesh has put the identity out
)

// Refusal is the verdict that each side sends after the hellos, the server
// first; with a code other than Accepted it is the error that both sides report.
type Refusal struct {
	Code RefusalCode
	Text string // one printable line, at most 500 bytes
}

const (
	maxRefusal     = 512 // bytes: what ReadMsg is to be called with
	maxRefusalText = 500
)

func (e *Refusal) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("refused with code %d", e.Code)
	}
	return e.Text
}

// encode is version u8 = 1 | code u16 | text to the end. The text is made one
// printable line and cut to 500 bytes.
func (e Refusal) encode() []byte {
	b := binary.BigEndian.AppendUint16([]byte{helloVersion}, uint16(e.Code))
	return append(b, line(e.Text)...)
}

// parseRefusal reads what encode wrote; what cannot be shown in a terminal is
// replaced.
func parseRefusal(b []byte) (Refusal, error) {
	if len(b) > maxRefusal {
		return Refusal{}, fmt.Errorf("parse verdict: %d bytes, more than %d", len(b), maxRefusal)
	}
	r := reader{b: b}
	if v := r.u8(); r.err == nil && v != helloVersion {
		return Refusal{}, fmt.Errorf("parse verdict: format %d is not known here", v)
	}
	e := Refusal{Code: RefusalCode(r.u16())}
	if r.err != nil {
		return Refusal{}, fmt.Errorf("parse verdict: %w", r.err)
	}
	e.Text = line(string(r.b))
	return e, nil
}

// line makes any text one printable line of at most 500 bytes.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar:
			return '?'
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s[:min(len(s), 4*maxRefusalText)])
	for len(s) > maxRefusalText {
		s = strings.ToValidUTF8(s[:maxRefusalText], "")
	}
	return s
}
