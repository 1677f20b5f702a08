package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"weft/peer"
)

// Founding is what a mesh was founded as. Two meshes with one secret and
// different foundings were founded apart and refuse each other. The zero value
// is "not known yet", as of a newcomer.
type Founding struct {
	Founder peer.ID
	Nonce   uint64       // random: the same host may found twice
	Range   netip.Prefix // zero: the mesh hands out no addresses
	Subnet  netip.Prefix // the default subnet, inside Range or around it
}

const foundingVersion = 1

// IsZero reports whether the founding is not known yet.
func (f Founding) IsZero() bool { return f == Founding{} }

// Equal reports whether both are of one mesh.
func (f Founding) Equal(o Founding) bool { return f == o }

// String is "founder/nonce", 16 characters each, or "unknown".
func (f Founding) String() string {
	if f.IsZero() {
		return "unknown"
	}
	return fmt.Sprintf("%v/%016x", f.Founder, f.Nonce)
}

// MarshalBinary is version u8 = 1 | founder 10 | nonce 8 | range | subnet, a
// prefix being family u8 (4 or 6, or 0 and no more) | address | length u8. The
// zero value is no bytes.
func (f Founding) MarshalBinary() ([]byte, error) {
	if f.IsZero() {
		return nil, nil
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("encode founding: %w", err)
	}
	b := append([]byte{foundingVersion}, f.Founder[:]...)
	b = binary.BigEndian.AppendUint64(b, f.Nonce)
	return appendPrefix(appendPrefix(b, f.Range), f.Subnet), nil
}

// ParseFounding reads what MarshalBinary wrote.
func ParseFounding(b []byte) (Founding, error) {
	if len(b) == 0 {
		return Founding{}, nil
	}
	r := reader{b: b}
	if v := r.u8(); v != foundingVersion {
		return Founding{}, fmt.Errorf("parse founding: format %d is not known here", v)
	}
	f := Founding{Founder: peer.ID(r.take(len(peer.ID{}))), Nonce: r.u64(), Range: r.prefix(), Subnet: r.prefix()}
	err := r.end()
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Founding{}, fmt.Errorf("parse founding: %w", err)
	}
	return f, nil
}

func (f Founding) check() error {
	switch {
	case f.Founder.IsZero():
		return fmt.Errorf("no founder")
	case f.Range.IsValid() && f.Range != canonical(f.Range):
		return fmt.Errorf("range %v is not an aligned prefix", f.Range)
	case f.Subnet.IsValid() && f.Subnet != canonical(f.Subnet):
		return fmt.Errorf("default subnet %v is not an aligned prefix", f.Subnet)
	case f.Subnet.IsValid() && !(f.Range.IsValid() && f.Range.Overlaps(f.Subnet)):
		return fmt.Errorf("default subnet %v has no address of the range %v", f.Subnet, f.Range)
	}
	return nil
}

// canonical is the one form of a prefix: masked, IPv4 not in IPv6 form, no zone.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() {
		return netip.Prefix{}
	}
	return p.Masked()
}
