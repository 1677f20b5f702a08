package router

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// Payloads of the log entries that the router writes. Each begins with a
// version byte; a reader takes only the versions that it knows and leaves the
// rest to newer hosts. Integers are big endian.
//
//	name   1 | op 1 | family 4 or 6 | address | container length 1 | container | name length 1 | name
//	       2 | op 1 | type 2 | container length 1 | container | name length 1 | name | data length 2 | data
//	claim  version 1 | op 1 | family 4 or 6 | address | subnet length in bits 1
//	grant  1 | ipam.Grant                            written by the giver, or by the founder for the seed
//	       2 | giver's identity key 32 | giver's entry  the taker accepts it; its proof, byte for byte as the giver signed it
//	       3 | author's identity key 32 | author's entry  a copy of another's grant of form 1, 2 or 4: a link in the chain
//	         that proves what this host owns, kept because its author's log may go
//	       4 | ipam.Fact                             what hosts say to each other about the ring, other than grants
//
// All of these are entries of the kind grant: none may ever be withdrawn.

// Type is that of the DNS: of SRV (33) the data is the port, two bytes, and the target; of TXT
// (16) one string; of CNAME (5) the target. Addresses stay in version 1, so that hosts which know
// no other still answer them. Type 65280 says that a container is unhealthy; it has no name
// and no data.

const (
	payloadVersion = 1
	payloadTyped   = 2 // names that are more than an address
)

type op uint8

const (
	opSet op = 1
	opDel op = 2
)

// nameKey is one thing that a name says for one container; a host has it or has
// it not. The container may be empty.
type nameKey struct {
	Name      string     // canonical: lower case, fully qualified with the final dot
	Addr      netip.Addr // of type typeAddr
	Container string
	Type      nameType
	Port      uint16 // of typeSRV
	Data      string // the target of typeSRV and typeCNAME, the text of typeTXT
}

// nameType is what a name says. Those but typeAddr are numbers on the wire.
type nameType uint16

const (
	typeAddr      nameType = 0 // A or AAAA, by the address
	typeCNAME     nameType = 5
	typeTXT       nameType = 16
	typeSRV       nameType = 33
	typeUnhealthy nameType = 65280 // no name: the container's health check fails
)

func (t nameType) known() bool {
	return t == typeCNAME || t == typeTXT || t == typeSRV || t == typeUnhealthy
}

func (k nameKey) compare(o nameKey) int {
	if c := compareStrings(k.Name, o.Name); c != 0 {
		return c
	}
	if c := k.Addr.Compare(o.Addr); c != 0 {
		return c
	}
	return cmp.Or(compareStrings(k.Container, o.Container), cmp.Compare(k.Type, o.Type), cmp.Compare(k.Port, o.Port), compareStrings(k.Data, o.Data))
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

var errPayload = errors.New("malformed payload")

// errNewer is returned for payloads of a version that this host does not know.
var errNewer = errors.New("payload of a newer version")

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		b = append(b, 4)
	} else {
		b = append(b, 6)
	}
	return append(b, a.AsSlice()...)
}

func cutAddr(b []byte) (netip.Addr, []byte, error) {
	if len(b) == 0 {
		return netip.Addr{}, nil, errPayload
	}
	n := 0
	switch b[0] {
	case 4:
		n = 4
	case 6:
		n = 16
	default:
		return netip.Addr{}, nil, errPayload
	}
	if len(b) < 1+n {
		return netip.Addr{}, nil, errPayload
	}
	a, _ := netip.AddrFromSlice(b[1 : 1+n])
	if n == 16 && a.Is4In6() {
		return netip.Addr{}, nil, errPayload
	}
	return a, b[1+n:], nil
}

func cutString(b []byte) (string, []byte, error) {
	if len(b) == 0 {
		return "", nil, errPayload
	}
	n := int(b[0])
	if len(b) < 1+n {
		return "", nil, errPayload
	}
	return string(b[1 : 1+n]), b[1+n:], nil
}

func cutOp(b []byte) (op, []byte, error) {
	if len(b) < 2 {
		return 0, nil, errPayload
	}
	if b[0] != payloadVersion {
		return 0, nil, errNewer
	}
	o := op(b[1])
	if o != opSet && o != opDel {
		return 0, nil, errPayload
	}
	return o, b[2:], nil
}

func encodeName(o op, k nameKey) ([]byte, error) {
	if len(k.Container) > 255 || len(k.Name) > 255 || len(k.Data) > 255 || k.Type == typeAddr && !k.Addr.IsValid() {
		return nil, fmt.Errorf("encode name %q of container %q: too long", k.Name, k.Container)
	}
	if k.Type != typeAddr {
		b := binary.BigEndian.AppendUint16([]byte{payloadTyped, byte(o)}, uint16(k.Type))
		b = append(append(b, byte(len(k.Container))), k.Container...)
		b = append(append(b, byte(len(k.Name))), k.Name...)
		data := k.Data
		if k.Type == typeSRV {
			data = string(binary.BigEndian.AppendUint16(nil, k.Port)) + data
		}
		return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...), nil
	}
	b := appendAddr([]byte{payloadVersion, byte(o)}, k.Addr.Unmap())
	b = append(append(b, byte(len(k.Container))), k.Container...)
	return append(append(b, byte(len(k.Name))), k.Name...), nil
}

func parseName(b []byte) (op, nameKey, error) {
	if len(b) > 0 && b[0] == payloadTyped {
		return parseTyped(b)
	}
	var k nameKey
	o, b, err := cutOp(b)
	if err != nil {
		return 0, k, err
	}
	if k.Addr, b, err = cutAddr(b); err != nil {
		return 0, k, err
	}
	if k.Container, b, err = cutString(b); err != nil {
		return 0, k, err
	}
	if k.Name, b, err = cutString(b); err != nil {
		return 0, k, err
	}
	if len(b) != 0 || k.Name == "" {
		return 0, k, errPayload
	}
	return o, k, nil
}

func parseTyped(b []byte) (op, nameKey, error) {
	var k nameKey
	if len(b) < 4 {
		return 0, k, errPayload
	}
	o := op(b[1])
	if o != opSet && o != opDel {
		return 0, k, errPayload
	}
	k.Type = nameType(binary.BigEndian.Uint16(b[2:]))
	if !k.Type.known() {
		return 0, nameKey{}, errNewer
	}
	var err error
	if k.Container, b, err = cutString(b[4:]); err != nil {
		return 0, k, err
	}
	if k.Name, b, err = cutString(b); err != nil {
		return 0, k, err
	}
	if len(b) < 2 || len(b) != 2+int(binary.BigEndian.Uint16(b)) {
		return 0, k, errPayload
	}
	b = b[2:]
	if k.Type == typeSRV {
		if len(b) < 2 {
			return 0, k, errPayload
		}
		k.Port, b = binary.BigEndian.Uint16(b), b[2:]
	}
	k.Data = string(b)
	if len(k.Data) > 255 || (k.Type == typeUnhealthy) != (k.Name == "" && k.Data == "") || k.Type == typeSRV && k.Port == 0 {
		return 0, k, errPayload
	}
	return o, k, nil
}

func encodeClaim(o op, p netip.Prefix) []byte {
	return append(appendAddr([]byte{payloadVersion, byte(o)}, p.Addr()), byte(p.Bits()))
}

func parseClaim(b []byte) (op, netip.Prefix, error) {
	o, b, err := cutOp(b)
	if err != nil {
		return 0, netip.Prefix{}, err
	}
	a, b, err := cutAddr(b)
	if err != nil {
		return 0, netip.Prefix{}, err
	}
	if len(b) != 1 {
		return 0, netip.Prefix{}, errPayload
	}
	p := netip.PrefixFrom(a, int(b[0]))
	if !p.IsValid() {
		return 0, netip.Prefix{}, errPayload
	}
	return o, p, nil
}

const (
	grantOwn     = 1
	grantCarried = 2
	grantKept    = 3
	grantFact    = 4
)

func encodeGrant(g ipam.Grant) ([]byte, error) { return g.AppendBinary([]byte{grantOwn}) }

func encodeCarried(giver []byte, e mesh.Entry) []byte {
	b := append([]byte{grantCarried}, giver...)
	return append(b, e.Raw()...)
}

// parseGrant reads the grant in an entry of author's log and checks that its
// giver signed it. A host may write the seed to itself, grants of its own
// space, and copies of grants that were made to it; nothing else.
func parseGrant(author peer.ID, payload []byte, id mesh.MeshID) (ipam.Grant, error) {
	var none ipam.Grant
	if len(payload) < 1 {
		return none, errPayload
	}
	switch payload[0] {
	case grantOwn:
		g, err := ipam.ParseGrant(payload[1:])
		if err != nil {
			return none, err
		}
		seed := g.From == (ipam.Owner{}) && g.Version == 1 && g.To == ipam.Owner(author)
		if !seed && g.From != ipam.Owner(author) {
			return none, fmt.Errorf("grant of %v: its author is not the giver", g.Prefix)
		}
		return g, nil
	case grantCarried:
		_, inner, err := parseCopy(payload[1:], id)
		if err != nil {
			return none, fmt.Errorf("carried grant: %w", err)
		}
		if inner.Payload[0] != grantOwn {
			return none, errPayload
		}
		g, err := parseGrant(inner.Author, inner.Payload, id)
		if err != nil {
			return none, err
		}
		if g.To != ipam.Owner(author) {
			return none, fmt.Errorf("carried grant of %v: it was not made to its carrier", g.Prefix)
		}
		return g, nil
	default:
		return none, errNewer
	}
}

// parseCopy reads an entry of another host's log about the ring, as its author signed
// it, with the author's identity key in front. It has a payload.
func parseCopy(b []byte, id mesh.MeshID) (key []byte, e mesh.Entry, err error) {
	if len(b) < 32 {
		return nil, e, errPayload
	}
	if e, err = mesh.ParseEntry(b[32:]); err != nil {
		return nil, e, err
	}
	key = append([]byte(nil), b[:32]...)
	switch {
	case peer.IDOf(key) != e.Author:
		return nil, e, fmt.Errorf("the key is not that of %v", e.Author)
	case e.Kind != mesh.KindGrant || len(e.Payload) < 1:
		return nil, e, errPayload
	}
	if err := e.Verify(key, id); err != nil {
		return nil, e, fmt.Errorf("copy of %v: %w", e.Author, err)
	}
	return key, e, nil
}

// source is a fact with the entry that states it, as its author signed it.
type source struct {
	Fact  ipam.Fact
	Entry mesh.Entry
	Key   []byte // of the author's identity; nil if the entry is in its author's log

	Keeper peer.ID // in whose log this is
}

// parseFact reads what an entry of author's log says about the ring, and checks
// that it, or for a copy the author of the original, may say so.
func parseFact(author peer.ID, e mesh.Entry, id mesh.MeshID) (source, error) {
	var none source
	if len(e.Payload) < 1 {
		return none, errPayload
	}
	by := ipam.Owner(author)
	switch e.Payload[0] {
	case grantOwn, grantCarried:
		g, err := parseGrant(author, e.Payload, id)
		if err != nil {
			return none, err
		}
		f := ipam.Fact{By: by, Kind: ipam.FactGrant, Grant: g}
		if e.Payload[0] == grantCarried {
			f.Kind = ipam.FactAccept
		}
		return source{Fact: f, Entry: e, Keeper: author}, nil
	case grantFact:
		f, err := ipam.ParseFact(by, e.Payload[1:])
		switch {
		case errors.Is(err, ipam.ErrNewerFact):
			return none, errNewer
		case err != nil:
			return none, err
		case f.Kind == ipam.FactGrant, f.Kind == ipam.FactAccept && !f.Grant.Takeover():
			return none, errPayload // these have forms of their own, with proofs
		}
		return source{Fact: f, Entry: e, Keeper: author}, nil
	case grantKept:
		key, inner, err := parseCopy(e.Payload[1:], id)
		if err != nil {
			return none, fmt.Errorf("kept copy: %w", err)
		}
		if inner.Payload[0] == grantKept {
			return none, errPayload
		}
		s, err := parseFact(inner.Author, inner, id)
		s.Key, s.Keeper = key, author
		return s, err
	}
	return none, errNewer
}

func encodeFact(f ipam.Fact) ([]byte, error) { return f.AppendBinary([]byte{grantFact}) }

func encodeKept(key []byte, e mesh.Entry) []byte {
	return append(append([]byte{grantKept}, key...), e.Raw()...)
}

// gift is what a giver hands over: its grants, and copies of the entries that
// prove that the space was its own. On the wire: number of grants u16, the grants as length
// u16 and entry, then the copies, payloads of form 3, as length u16 and bytes.
type gift struct {
	Grants []mesh.Entry
	Proofs [][]byte
	In     netip.Prefix // what was asked for, not on the wire; invalid: nothing in particular
}

func (g gift) encode() []byte {
	if len(g.Grants) == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(g.Grants)))
	b = append(b, encodeEntries(g.Grants)...)
	for _, p := range g.Proofs {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
	}
	return b
}

func parseGift(b []byte) (gift, error) {
	var g gift
	if len(b) == 0 {
		return g, nil
	}
	if len(b) < 2 {
		return g, errPayload
	}
	n := int(binary.BigEndian.Uint16(b))
	for b = b[2:]; len(b) > 0; n-- {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return gift{}, errPayload
		}
		item := b[2 : 2+int(binary.BigEndian.Uint16(b))]
		b = b[2+len(item):]
		if n <= 0 {
			g.Proofs = append(g.Proofs, append([]byte(nil), item...))
			continue
		}
		e, err := mesh.ParseEntry(item)
		if err != nil {
			return gift{}, err
		}
		g.Grants = append(g.Grants, e)
	}
	if n > 0 || len(g.Grants) == 0 {
		return gift{}, errPayload
	}
	return g, nil
}

// Bodies of the call "space.ask": a subnet in, length-prefixed entries out.

func encodePrefix(p netip.Prefix) []byte {
	return append(appendAddr(nil, p.Addr()), byte(p.Bits()))
}

func parsePrefix(b []byte) (netip.Prefix, error) {
	a, b, err := cutAddr(b)
	if err != nil {
		return netip.Prefix{}, err
	}
	if len(b) != 1 {
		return netip.Prefix{}, errPayload
	}
	p := netip.PrefixFrom(a, int(b[0]))
	if !p.IsValid() || p != p.Masked() {
		return netip.Prefix{}, errPayload
	}
	return p, nil
}

func encodeEntries(es []mesh.Entry) []byte {
	var b []byte
	for _, e := range es {
		raw := e.Raw()
		b = binary.BigEndian.AppendUint16(b, uint16(len(raw)))
		b = append(b, raw...)
	}
	return b
}

func parseEntries(b []byte) ([]mesh.Entry, error) {
	var es []mesh.Entry
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, errPayload
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return nil, errPayload
		}
		e, err := mesh.ParseEntry(b[2 : 2+n])
		if err != nil {
			return nil, err
		}
		es = append(es, e)
		b = b[2+n:]
	}
	return es, nil
}
