package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Grant moves the addresses of Prefix from one owner to another. Grants are facts: they are never withdrawn, only followed by others.
type Grant struct {
	Prefix  netip.Prefix // aligned: no bit set behind the prefix length
	From    Owner        // who gives; zero in the seed
	To      Owner        // who owns Prefix from now on; never zero
	Version uint32       // 1 in a seed, else more than that of any grant by which From got an address of Prefix
}

// takeoverStep is the distance of the versions of takeovers: the version of each is its ID times this. Whatever a dead host may have
// granted that nobody has heard of is of a lower version.
const takeoverStep = 1 << 13

// Takeover says that g takes the space of a host that is dead, by the council's decision: see Ledger. Its version outranks what that
// host may still have given away.
func (g Grant) Takeover() bool { return g.Version > 0 && g.Version%takeoverStep == 0 }

// after is the version of a grant that follows one of version v.
func after(v uint32) uint32 {
	if v++; v%takeoverStep == 0 {
		v++ // 8,191 grants in a row, and no takeover: still not one
	}
	return v
}

// Seed is the grant that starts the ring of a mesh: all of whole belongs to its founder.
func Seed(whole netip.Prefix, to Owner) Grant {
	return Grant{Prefix: whole.Masked(), To: to, Version: 1}
}

// String is for logs: "10.32.0.0/13 v2 from A to B".
func (g Grant) String() string {
	if g.From.IsZero() {
		return fmt.Sprintf("%v v%d seeds %v", g.Prefix, g.Version, g.To)
	}
	return fmt.Sprintf("%v v%d from %v to %v", g.Prefix, g.Version, g.From, g.To)
}

func (g Grant) check() error {
	switch {
	case !g.Prefix.IsValid():
		return errors.New("no prefix")
	case g.Prefix != g.Prefix.Masked():
		return fmt.Errorf("%v is not aligned", g.Prefix)
	case g.Prefix.Addr().Is4In6():
		return fmt.Errorf("%v is IPv4 in IPv6 form", g.Prefix)
	case g.To.IsZero():
		return errors.New("to nobody")
	case g.Version == 0:
		return errors.New("version 0")
	case g.From.IsZero() != (g.Version == 1):
		return fmt.Errorf("version %d from %v: a seed, and only a seed, has version 1 and is from nobody", g.Version, g.From)
	case g.From == g.To:
		return errors.New("to its own giver")
	}
	return nil
}

// grantForm is the version of the wire form, the first byte. The form is in the package comment.
const grantForm = 1

// AppendBinary appends the wire form of g, 31 bytes for IPv4 and 43 for IPv6. It fails for a grant that ParseGrant would refuse.
func (g Grant) AppendBinary(b []byte) ([]byte, error) {
	if err := g.check(); err != nil {
		return b, fmt.Errorf("encode grant: %w", err)
	}
	family := byte(6)
	if g.Prefix.Addr().Is4() {
		family = 4
	}
	b = append(b, grantForm, family, byte(g.Prefix.Bits()))
	b = append(b, g.Prefix.Addr().AsSlice()...)
	b = append(b, g.From[:]...)
	b = append(b, g.To[:]...)
	return binary.BigEndian.AppendUint32(b, g.Version), nil
}

// ParseGrant reads the wire form. Whatever it accepts is a well-formed grant with an aligned prefix; whether it is valid at its place
// in a chain is the ring's to say.
func ParseGrant(b []byte) (Grant, error) {
	g, err := parseGrant(b)
	if err == nil {
		err = g.check()
	}
	if err != nil {
		return Grant{}, fmt.Errorf("parse grant: %w", err)
	}
	return g, nil
}

func parseGrant(b []byte) (Grant, error) {
	const head, tail = 3, 10 + 10 + 4
	if len(b) < head {
		return Grant{}, fmt.Errorf("%d bytes are too few", len(b))
	}
	if b[0] != grantForm {
		return Grant{}, fmt.Errorf("form %d is unknown (this is form %d)", b[0], grantForm)
	}
	size := 4
	switch b[1] {
	case 4:
	case 6:
		size = 16
	default:
		return Grant{}, fmt.Errorf("address family %d is unknown", b[1])
	}
	if len(b) != head+size+tail {
		return Grant{}, fmt.Errorf("%d bytes instead of %d", len(b), head+size+tail)
	}
	addr, _ := netip.AddrFromSlice(b[head : head+size])
	g := Grant{Prefix: netip.PrefixFrom(addr, int(b[2]))}
	b = b[head+size:]
	copy(g.From[:], b[:10])
	copy(g.To[:], b[10:20])
	g.Version = binary.BigEndian.Uint32(b[20:])
	return g, nil
}

// SignedGrant is a grant with the host whose log held it.
type SignedGrant struct {
	Grant
	By Owner // the author of the log entry, whose signature has been checked

	// Carried says that By is the taker, who keeps the giver's grant in its own log so that it outlives the giver, and that the
	// caller has satisfied itself that the giver made it.
	Carried bool
}

// Check says whether By may have written this grant: the giver may, and the first owner its seed, and a taker may carry a copy.
// Nobody else gives away what is not theirs.
func (g SignedGrant) Check() error {
	if err := g.check(); err != nil {
		return fmt.Errorf("check grant %v: %w", g.Grant, err)
	}
	switch {
	case g.By.IsZero():
		return fmt.Errorf("check grant %v: written by nobody", g.Grant)
	case g.By == g.From:
	case g.By == g.To && (g.From.IsZero() || g.Carried):
	default:
		return fmt.Errorf("check grant %v: written by %v, who neither gives nor carries it", g.Grant, g.By)
	}
	return nil
}

// seedGrants shares whole out to hosts: 16 blocks, or as many as it takes, the first hosts getting one more if they do not come out even.
func seedGrants(whole netip.Prefix, hosts []Owner) []Grant {
	bits, blocks := 4, 16
	for blocks < 2*len(hosts) {
		bits, blocks = bits+1, blocks*2
	}
	for whole.Bits()+bits > whole.Addr().BitLen() {
		bits, blocks = bits-1, blocks/2
	}
	var gs []Grant
	next := whole.Masked().Addr()
	for i, h := range hosts {
		n := blocks / len(hosts)
		if i < blocks%len(hosts) {
			n++
		}
		if n == 0 {
			break
		}
		first, last := next, netip.Addr{}
		for range n {
			last = lastAddr(netip.PrefixFrom(next, whole.Bits()+bits))
			next = last.Next()
		}
		for _, p := range appendCIDRs(nil, first, last) {
			gs = append(gs, Grant{Prefix: p, To: h, Version: 1})
		}
	}
	return gs
}
