package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// errShort is what every parser answers to bytes that end too early.
var errShort = errors.New("cut short")

// reader takes fields off the front of a message, all integers big endian.
// After the first failure it returns zeros and keeps the error, so that a parser
// reads in a straight line and asks once.
type reader struct {
	b   []byte
	err error
}

// take returns the next n bytes, a part of the input: callers that keep them copy.
func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = errShort
	}
	if r.err != nil {
		return make([]byte, n) // n is a constant or at most 64 KiB
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// end returns the first error; bytes left over are one.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}

// addr reads family u8 (4 or 6; 0: the zero address) and the address. An IPv4
// address in IPv6 form is refused, so that every address has one form.
func (r *reader) addr() netip.Addr {
	switch f := r.u8(); f {
	case 0:
		return netip.Addr{}
	case 4:
		return netip.AddrFrom4([4]byte(r.take(4)))
	case 6:
		a := netip.AddrFrom16([16]byte(r.take(16)))
		if a.Is4In6() {
			r.fail("address %v is IPv4 in IPv6 form", a)
		}
		return a
	default:
		r.fail("address family %d is neither 4 nor 6", f)
		return netip.Addr{}
	}
}

// addrPort reads an address and, unless it is the zero address, a port.
func (r *reader) addrPort() netip.AddrPort {
	a := r.addr()
	if !a.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, r.u16())
}

// prefix reads an address and, unless it is the zero address, a length; bits
// behind the length must be zero.
func (r *reader) prefix() netip.Prefix {
	a := r.addr()
	if !a.IsValid() {
		return netip.Prefix{}
	}
	p := netip.PrefixFrom(a, int(r.u8()))
	if r.err == nil && (!p.IsValid() || p != p.Masked()) {
		r.fail("prefix %v/%d is not an aligned prefix", a, p.Bits())
	}
	return p
}

func appendAddr(b []byte, a netip.Addr) []byte {
	switch a = a.Unmap(); {
	case a.Is4():
		return append(append(b, 4), a.AsSlice()...)
	case a.Is6():
		return append(append(b, 6), a.AsSlice()...)
	default:
		return append(b, 0)
	}
}

func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	b = appendAddr(b, ap.Addr())
	if !ap.Addr().IsValid() {
		return b
	}
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	if !p.IsValid() {
		return append(b, 0)
	}
	return append(appendAddr(b, p.Addr()), uint8(p.Bits()))
}

// TLV is a field for which a format has no place of its own: what a later
// release adds. Readers keep the types that they do not know.
type TLV struct {
	Type  uint8
	Value []byte // at most 255 bytes
}

// tlvs reads type u8, length u8, value until n bytes are used up.
func (r *reader) tlvs(n int) []TLV {
	in := reader{b: r.take(n), err: r.err}
	var out []TLV
	for in.err == nil && len(in.b) > 0 {
		t := TLV{Type: in.u8()}
		t.Value = append([]byte{}, in.take(int(in.u8()))...)
		out = append(out, t)
	}
	if in.err != nil {
		r.fail("extensions: %w", in.err)
		return nil
	}
	return out
}

func appendTLVs(b []byte, ts []TLV) ([]byte, error) {
	for _, t := range ts {
		if len(t.Value) > 255 {
			return nil, fmt.Errorf("extension %d has %d bytes, more than 255", t.Type, len(t.Value))
		}
		b = append(b, t.Type, uint8(len(t.Value)))
		b = append(b, t.Value...)
	}
	return b, nil
}
