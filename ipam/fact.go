package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// FactKind says what a Fact states.
type FactKind uint8

const (
	FactGrant  FactKind = iota + 1 // By gives Grant, or the founder seeds the ring with it
	FactAccept                     // By takes Grant, which was made to it: from now on it uses the space
	FactInit                       // the founder: First hosts begin the ring
	FactStand                      // By may become an elector, if Count is odd; if it is even, it may not any more. The highest one counts
	FactVote                       // By votes
	FactSeen                       // By knows of takeover Count, and takes nothing any more of what its host gave before
	FactTook                       // By has accepted all that takeover Count brought it; says nothing of others
	FactForce                      // By takes over, without a majority, by its operator's order: Vote.Value, while Vote.Instance was open to it
	FactBase                       // By keeps a piece of a base that is decided, or that it has voted for
)

// maxInstance is the last one whose takeovers have a version.
const maxInstance = 1<<32/takeoverStep/2 - 2

// MaxElectors bounds the council, and so what a vote has to hold.
const MaxElectors = 32

// Fact is one statement of one host's log, whose signature has been checked. That the giver made the grant of a FactAccept is the
// caller's to check, too.
type Fact struct {
	By    Owner
	Kind  FactKind
	Grant Grant  // FactGrant, FactAccept
	First uint8  // FactInit: how many, 1 to MaxElectors
	Named bool   // FactInit: the founder names them; else it is whoever comes first
	Count uint32 // FactSeen, FactTook: a takeover's ID; a decided one that is seen stands for the decided ones before it, too. FactStand: how often it has changed its mind
	Host  Owner  // FactSeen of a takeover by force: whose space was taken, since several may have one ID; else zero
	Vote  Vote   // FactVote; of FactForce only Instance and Value
	Chunk Chunk  // FactBase
}

// AppendBinary appends the wire form of what f states: kind, 1 byte, and a body, big endian. An accept of a takeover has a grant as its
// body, as a grant has; init is the number and 1 if they are named; stand, seen and took are the count, 4 bytes, and of a forced
// takeover that is seen its host, 10; a vote is its instance, 4 bytes, then promised, intent, accepted and value; force is the instance
// and the value; a piece of a base is its digest, index and number of pieces, 2 bytes each, and the bytes. A ballot is its round, 4
// bytes, and a host, 10; a value is its operation, 1 byte, the number of hosts, 1 byte, the hosts, and, of a base, its digest.
func (f Fact) AppendBinary(b []byte) ([]byte, error) {
	if err := f.check(); err != nil {
		return b, fmt.Errorf("encode fact: %w", err)
	}
	b = append(b, byte(f.Kind))
	switch f.Kind {
	case FactGrant, FactAccept:
		return f.Grant.AppendBinary(b)
	case FactInit:
		return append(b, f.First, boolByte(f.Named)), nil
	case FactStand, FactSeen, FactTook:
		if b = binary.BigEndian.AppendUint32(b, f.Count); !f.Host.IsZero() {
			b = append(b, f.Host[:]...)
		}
		return b, nil
	case FactVote:
		b = binary.BigEndian.AppendUint32(b, f.Vote.Instance)
		b = appendValue(appendBallot(b, f.Vote.Promised), f.Vote.Intent)
		return appendValue(appendBallot(b, f.Vote.Accepted), f.Vote.Value), nil
	case FactForce:
		return appendValue(binary.BigEndian.AppendUint32(b, f.Vote.Instance), f.Vote.Value), nil
	case FactBase:
		b = append(b, f.Chunk.Of[:]...)
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.Chunk.Index), f.Chunk.Count)
		return append(b, f.Chunk.Bytes...), nil
	}
	return b, nil
}

func boolByte(x bool) byte {
	if x {
		return 1
	}
	return 0
}

func appendBallot(b []byte, x Ballot) []byte {
	return append(binary.BigEndian.AppendUint32(b, x.Round), x.By[:]...)
}

func appendValue(b []byte, v Value) []byte {
	b = append(b, byte(v.Op), byte(len(v.Hosts)))
	for _, h := range v.Hosts {
		b = append(b, h[:]...)
	}
	if v.Op == OpBase {
		b = append(b, v.Digest[:]...)
	}
	return b
}

// ErrNewerFact is returned for kinds of facts that this release does not know. They are to be left to newer hosts.
var ErrNewerFact = errors.New("a fact of a newer kind")

// ParseFact reads what AppendBinary wrote, in the log of by.
func ParseFact(by Owner, b []byte) (Fact, error) {
	if len(b) == 0 {
		return Fact{}, errors.New("parse fact: no bytes")
	}
	f := Fact{By: by, Kind: FactKind(b[0])}
	in := factReader{b: b[1:]}
	switch f.Kind {
	case FactGrant, FactAccept:
		g, err := ParseGrant(in.b)
		if err != nil {
			return Fact{}, err
		}
		f.Grant, in.b = g, nil
	case FactInit:
		f.First = in.u8()
		named := in.u8()
		f.Named, in.bad = named == 1, in.bad || named > 1
	case FactStand, FactSeen, FactTook:
		if f.Count = in.u32(); f.Kind == FactSeen && isForced(f.Count) {
			f.Host = Owner(in.take(10))
		}
	case FactVote:
		f.Vote = Vote{Instance: in.u32(), Promised: in.ballot(), Intent: in.value(), Accepted: in.ballot(), Value: in.value()}
	case FactForce:
		f.Vote = Vote{Instance: in.u32(), Value: in.value()}
	case FactBase:
		f.Chunk = Chunk{Of: Digest(in.take(len(Digest{}))), Index: in.u16(), Count: in.u16()}
		f.Chunk.Bytes, in.b = in.b, nil
	default:
		return Fact{}, ErrNewerFact
	}
	if in.bad || len(in.b) > 0 {
		return Fact{}, fmt.Errorf("parse fact of kind %d: %d bytes are not its length", f.Kind, len(b))
	}
	if err := f.check(); err != nil {
		return Fact{}, fmt.Errorf("parse fact: %w", err)
	}
	return f, nil
}

type factReader struct {
	b   []byte
	bad bool
}

func (r *factReader) take(n int) []byte {
	if len(r.b) < n {
		r.b, r.bad = nil, true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *factReader) u8() byte       { return r.take(1)[0] }
func (r *factReader) u16() uint16    { return binary.BigEndian.Uint16(r.take(2)) }
func (r *factReader) u32() uint32    { return binary.BigEndian.Uint32(r.take(4)) }
func (r *factReader) ballot() Ballot { return Ballot{r.u32(), Owner(r.take(10))} }

func (r *factReader) value() Value {
	v := Value{Op: Op(r.u8())}
	for range r.u8() {
		v.Hosts = append(v.Hosts, Owner(r.take(10)))
		if r.bad {
			return Value{}
		}
	}
	if v.Op == OpBase {
		v.Digest = Digest(r.take(len(v.Digest)))
	}
	return v
}

func (f Fact) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("kind %d: %w", f.Kind, fmt.Errorf(format, args...))
	}
	switch f.Kind {
	case FactGrant:
		if err := (SignedGrant{Grant: f.Grant, By: f.By}).Check(); err != nil {
			return err
		}
		if f.Grant.Takeover() {
			return bad("version %d is a takeover's", f.Grant.Version)
		}
	case FactAccept:
		if err := (SignedGrant{Grant: f.Grant, By: f.By, Carried: true}).Check(); err != nil || f.By != f.Grant.To {
			return bad("accepts what was made to %v", f.Grant.To)
		}
	case FactInit:
		if f.First < 1 || f.First > MaxElectors {
			return bad("%d hosts to begin", f.First)
		}
	case FactStand, FactSeen, FactTook:
		switch forced := f.Kind == FactSeen && isForced(f.Count); {
		case f.Count == 0:
			return bad("it counts nothing")
		case forced == f.Host.IsZero():
			return bad("only a takeover by force is seen by its host")
		}
	case FactVote:
		v := f.Vote
		own := v.Promised.By == f.By
		switch {
		case v.Instance == 0 || v.Instance > maxInstance, v.Promised == Ballot{}, v.Promised.By.IsZero() || v.Promised.Round == 0:
			return bad("no instance or no ballot")
		case v.Promised.less(v.Accepted), (v.Accepted == Ballot{}) != (v.Value.Op == 0):
			return bad("it accepts what it may not")
		case own != (v.Intent.Op != 0):
			return bad("an intent is of who prepares")
		}
		if own {
			if err := v.Intent.check(); err != nil {
				return bad("intent: %w", err)
			}
		}
		if v.Value.Op != 0 {
			if err := v.Value.check(); err != nil {
				return bad("value: %w", err)
			}
		}
	case FactForce:
		v := f.Vote.Value
		if f.Vote.Instance == 0 || f.Vote.Instance > maxInstance || v.Op != OpTake || v.check() != nil || v.Hosts[1] != f.By {
			return bad("only a takeover by oneself can be forced")
		}
	case FactBase:
		if err := f.Chunk.check(); err != nil {
			return bad("%w", err)
		}
	default:
		return bad("not known")
	}
	return nil
}

func (v Value) check() error {
	for i, h := range v.Hosts {
		for _, o := range v.Hosts[:i] {
			if o == h {
				return errors.New("a host comes twice")
			}
		}
		if h.IsZero() {
			return errors.New("nobody")
		}
	}
	n := len(v.Hosts)
	switch {
	case v.Op < OpSeed || v.Op > OpBase:
		return fmt.Errorf("operation %d is not known", v.Op)
	case n == 0 || n > MaxElectors || v.Op == OpTake && n != 2:
		return fmt.Errorf("operation %d with %d hosts", v.Op, n)
	case v.Op != OpBase && v.Digest != Digest{}:
		return errors.New("a digest of nothing")
	}
	return nil
}
