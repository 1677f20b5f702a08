package ipam

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Base is what all facts up to a decision come to: who owns what, and who was taken over. The council decides it, by its digest; then the
// facts that it covers are not needed any more, and those who wrote or keep them may drop them from their logs.
type Base struct {
	Instance  uint32     // that decided it
	Electors  []Owner    // of that instance, and of the next one; sorted
	Takeovers []Takeover // the last one of each host, all of them carried out; by ID and host
	Parts     []Part     // whose accepted space is where; sorted, of the range
}

// Digest is what electors vote on: SHA-256 of the wire form.
type Digest [sha256.Size]byte

// Chunk is a piece of a Base's wire form, short enough for an entry of a log.
type Chunk struct {
	Of    Digest
	Index uint16 // from 0
	Count uint16 // of all pieces
	Bytes []byte // 1 to MaxChunk
}

// MaxChunk is how many bytes of a base a fact holds.
const MaxChunk = 700

// baseForm is the version of the wire form, its first byte. Big endian: form 1 | instance 4 | number of electors 1, IDs of 10 | number of
// takeovers 4, each from 10, to 10, ID 4 | address family 1, 4 or 6 | number of parts 4, each prefix length 1, address 4 or 16, owner 10,
// version 4.
const baseForm = 1

// encode gives the wire form. It is canonical: equal bases have equal bytes.
func (b *Base) encode(family byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{baseForm}, b.Instance)
	out = append(out, byte(len(b.Electors)))
	for _, o := range b.Electors {
		out = append(out, o[:]...)
	}
	out = binary.BigEndian.AppendUint32(out, uint32(len(b.Takeovers)))
	for _, t := range b.Takeovers {
		out = binary.BigEndian.AppendUint32(append(append(out, t.From[:]...), t.To[:]...), t.ID)
	}
	out = binary.BigEndian.AppendUint32(append(out, family), uint32(len(b.Parts)))
	for _, p := range b.Parts {
		out = append(append(out, byte(p.Prefix.Bits())), p.Prefix.Addr().AsSlice()...)
		out = binary.BigEndian.AppendUint32(append(out, p.Owner[:]...), p.Version)
	}
	return out
}

var errBase = errors.New("parse base: not its form")

// parseBase reads the wire form. It does not say whether what it states is so: a majority of electors has, who have checked.
func parseBase(b []byte) (*Base, error) {
	in := factReader{b: b}
	if in.u8() != baseForm {
		return nil, errBase
	}
	out := &Base{Instance: in.u32()}
	for range in.u8() {
		out.Electors = append(out.Electors, Owner(in.take(10)))
	}
	n := in.u32()
	if uint64(n)*24 > uint64(len(in.b)) {
		return nil, errBase
	}
	for range n {
		t := Takeover{From: Owner(in.take(10)), To: Owner(in.take(10)), ID: in.u32()}
		t.Forced = isForced(t.ID)
		out.Takeovers = append(out.Takeovers, t)
	}
	size := 4
	switch in.u8() {
	case 4:
	case 6:
		size = 16
	default:
		return nil, errBase
	}
	n = in.u32()
	if uint64(n)*uint64(15+size) != uint64(len(in.b)) {
		return nil, errBase
	}
	for range n {
		bits := int(in.u8())
		addr, _ := netip.AddrFromSlice(in.take(size))
		p := Part{Prefix: netip.PrefixFrom(addr, bits), Owner: Owner(in.take(10)), Version: in.u32()}
		if !p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() || p.Owner.IsZero() || p.Version == 0 {
			return nil, errBase
		}
		out.Parts = append(out.Parts, p)
	}
	if in.bad {
		return nil, errBase
	}
	return out, nil
}

// chunks cuts a wire form into facts of by.
func chunks(by Owner, d Digest, wire []byte) (fs []Fact) {
	count := uint16((len(wire) + MaxChunk - 1) / MaxChunk)
	for i := range count {
		piece := wire[int(i)*MaxChunk : min(len(wire), int(i+1)*MaxChunk)]
		fs = append(fs, Fact{By: by, Kind: FactBase, Chunk: Chunk{Of: d, Index: i, Count: count, Bytes: piece}})
	}
	return fs
}

// keptBase is whose copy of which base.
type keptBase struct {
	by Owner
	of Digest
}

// baseOf puts the pieces of a base together, those of one host at a time: any member may write wrong ones. It is nil if nobody's copy
// is whole and what its digest says.
func (l *Ledger) baseOf(d Digest) *Base {
	for k, pieces := range l.chunks {
		if k.of != d {
			continue
		}
		slices.SortFunc(pieces, func(a, b Chunk) int { return cmp.Compare(a.Index, b.Index) })
		pieces = slices.CompactFunc(slices.Clone(pieces), func(a, b Chunk) bool { return a.Index == b.Index })
		var wire []byte
		for _, p := range pieces {
			wire = append(wire, p.Bytes...)
		}
		if Digest(sha256.Sum256(wire)) != d {
			continue
		}
		if b, err := parseBase(wire); err == nil {
			return b
		}
	}
	return nil
}

// Pieces are facts of self's that hold the base.
func (l *Ledger) Pieces() []Fact {
	if l.base == nil {
		return nil
	}
	return chunks(l.self, l.baseValue.Digest, l.base.encode(l.family()))
}

func (l *Ledger) family() byte {
	if l.whole.Addr().Is4() {
		return 4
	}
	return 6
}

// present is the base of what self knows; its wire form is nil if not all decided takeovers are carried out. One by force that is not
// stays outside: its fact goes on to count, and what its taker may still say is later than the base.
type present struct {
	wire   []byte
	digest Digest
	gain   int // how many facts it would cover that no base does
}

// lookAtPresent makes it. Whoever agrees to it has the same.
func (l *Ledger) lookAtPresent() (p present) {
	if !l.begun() || !l.ring.Seeded() || len(l.orphaned) > 0 || !l.inTurn(len(l.takeovers)) {
		return p
	}
	b := &Base{Instance: l.open.instance, Electors: slices.Clone(l.electors)}
	last := map[Owner]uint32{} // version
	for _, t := range slices.Backward(l.takeovers) {
		if last[t.From] == 0 && !l.Pending(t) {
			last[t.From], b.Takeovers = t.version(), append(b.Takeovers, t)
		}
	}
	slices.Reverse(b.Takeovers)
	r, _ := newRing(l.whole, l.baseParts(), l.taken())
	b.Parts = r.parts
	if slices.ContainsFunc(b.Parts, func(p Part) bool { return p.Version < last[p.Owner] }) {
		return p // that is still to be somebody's
	}
	p.wire = b.encode(l.family())
	p.digest, p.gain = sha256.Sum256(p.wire), l.gain(b)
	return p
}

// taken are the grants that their takers have accepted: by their word, or since they have given some of it on. Others may still be void.
func (l *Ledger) taken() (out []Grant) {
	byVersion := slices.Clone(l.grants)
	slices.SortFunc(byVersion, func(a, b Grant) int { return cmp.Compare(b.Version, a.Version) })
	by := map[Owner][]netip.Prefix{} // what a host has given on, of what is taken
	for _, g := range byVersion {
		if g.From.IsZero() || l.accepts[g] || slices.ContainsFunc(by[g.To], g.Prefix.Overlaps) {
			out = append(out, g)
			by[g.From] = append(by[g.From], g.Prefix)
		}
	}
	return out
}

// truthful says of a base that self has not the state of any more, or not yet, whether it tells what was so once: every part is what an
// accepted grant has brought its owner, and who was taken over was.
func (l *Ledger) truthful(v Value) bool {
	b := l.baseFor(l.open.instance, v)
	if b == nil || !slices.Equal(v.Hosts, l.electors) || !l.within(b) {
		return false
	}
	for _, t := range b.Takeovers {
		if !slices.Contains(l.takeovers, t) {
			return false
		}
	}
	type step struct {
		owner   Owner
		version uint32
	}
	known := map[step][]netip.Prefix{}
	for _, g := range l.taken() {
		k := step{g.To, g.Version}
		known[k] = append(known[k], g.Prefix)
	}
	for _, p := range l.baseParts() {
		k := step{p.Owner, p.Version}
		known[k] = append(known[k], p.Prefix)
	}
	var all []netip.Prefix
	for _, p := range b.Parts {
		// What was so before the base that all rests on is no more, though what came between is in nobody's log; nor is what it has decided
		// of addresses that were given twice.
		if slices.ContainsFunc(overlapping(l.baseParts(), p.Prefix), func(o Part) bool {
			return p.Version < o.Version || p.Version == o.Version && p.Owner != o.Owner
		}) {
			return false
		}
		if !slices.ContainsFunc(merge(sorted(known[step{p.Owner, p.Version}])), func(o netip.Prefix) bool { return within(p.Prefix, o) }) {
			return false
		}
		all = append(all, p.Prefix)
	}
	return slices.Equal(merge(sorted(all)), []netip.Prefix{l.whole})
}

// sorted are prefixes by address, without those that lie in others.
func sorted(ps []netip.Prefix) (out []netip.Prefix) {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, netip.Prefix.Compare)
	for _, p := range ps {
		if n := len(out); n == 0 || !within(p, out[n-1]) {
			out = append(out, p)
		}
	}
	return out
}

func (l *Ledger) baseParts() []Part {
	if l.base == nil {
		return nil
	}
	return l.base.Parts
}

// leap is a base that can be gone on from: a majority of its electors has accepted it at one ballot, and so has a majority of a council
// that is known to be one.
type leap struct {
	instance uint32
	value    Value
	ballot   Ballot
	by       []Owner // who has accepted it at that ballot
	vouched  bool
}

// leaps are the bases that a majority of those that they name as electors has accepted, by instance.
func leaps(votes map[uint32]map[Owner][]Vote) (all []leap) {
	for at, by := range votes {
		some := map[acceptance]*leap{}
		for o, vs := range by {
			for _, v := range vs {
				if v.Value.Op != OpBase {
					continue
				}
				a := acceptance{v.Accepted, v.Value.choice()}
				c := some[a]
				if c == nil {
					c = &leap{instance: at, value: v.Value, ballot: v.Accepted}
					some[a] = c
				}
				if n := len(c.by); n == 0 || c.by[n-1] != o {
					c.by = append(c.by, o)
				}
			}
		}
		for _, c := range some {
			if c.acceptedByMost(c.value.Hosts) {
				all = append(all, *c)
			}
		}
	}
	slices.SortFunc(all, func(a, b leap) int {
		return cmp.Or(cmp.Compare(a.instance, b.instance), cmp.Compare(a.ballot.Round, b.ballot.Round), a.ballot.By.Compare(b.ballot.By), a.value.compare(b.value))
	})
	return all
}

func (c leap) acceptedByMost(council []Owner) bool {
	return majorityOf(council, func(h Owner) bool { return slices.Contains(c.by, h) })
}

// vouchFor marks what a council vouches for, itself or by the electors of a base before.
func vouchFor(all []leap, council []Owner) {
	for i := range all {
		if c := &all[i]; !c.vouched && c.acceptedByMost(council) {
			c.vouched = true
			if !slices.Equal(c.value.Hosts, council) { // which looks at all behind anyway
				vouchFor(all[i+1:], c.value.Hosts)
			}
		}
	}
}

// leapFrom finds the last base at instance i or behind it that is all here and vouched for. Votes of the instances that it passes over
// may be gone, but what is known to be decided must be in it.
func (l *Ledger) leapFrom(i uint32, all []leap) (at leap, base *Base) {
	for n, c := range slices.Backward(all) {
		if c.instance < i || !c.vouched {
			continue
		}
		if base = l.baseFor(c.instance, c.value); base == nil || !l.within(base) {
			continue
		}
		for _, w := range all[:n+1] {
			if w.vouched && w.instance >= i {
				l.councils[w.instance], l.steps[w.instance] = w.value.Hosts, step{value: w.value, ballot: w.ballot, leapt: true}
			}
		}
		return c, base
	}
	return leap{}, nil
}

// within says whether a base has all takeovers that were decided as far as is known here: else it comes from a council that force has
// split off.
func (l *Ledger) within(b *Base) bool {
	return !slices.ContainsFunc(l.takeovers, func(t Takeover) bool {
		return !slices.ContainsFunc(b.Takeovers, func(o Takeover) bool { return o.From == t.From && o.ID >= t.ID })
	})
}

func majorityOf(hosts []Owner, is func(Owner) bool) bool {
	n := 0
	for _, h := range hosts {
		if is(h) {
			n++
		}
	}
	return n > len(hosts)/2
}

// baseFor is the base that was decided in an instance, if all of it is here.
func (l *Ledger) baseFor(instance uint32, v Value) *Base {
	b := l.baseOf(v.Digest)
	if b == nil || b.Instance != instance || !slices.Equal(b.Electors, v.Hosts) {
		return nil
	}
	return b
}

// rest makes b what everything rests on: what it covers is as it says.
func (l *Ledger) rest(b *Base, v Value) {
	l.base, l.baseValue = b, v
	l.takeovers = slices.Clone(b.Takeovers)
	for _, t := range b.Takeovers {
		l.took[taking{t.To, t.ID}] = true
	}
}

// Obsolete says whether the base covers a fact: it need not be in any log any more.
func (l *Ledger) Obsolete(f Fact) bool {
	if l.base == nil {
		return false
	}
	known := func(t Takeover) bool { return slices.Contains(l.base.Takeovers, t) }
	switch f.Kind {
	case FactGrant, FactAccept:
		return covers(l.base.Parts, f.Grant)
	case FactStand:
		return f.Count < l.standing[f.By]
	case FactSeen:
		return !isForced(f.Count) && f.Count < l.seen[f.By]
	case FactTook:
		return slices.ContainsFunc(l.base.Takeovers, func(t Takeover) bool { return t.To == f.By && t.ID == f.Count }) ||
			!slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.To == f.By && t.ID == f.Count })
	case FactForce:
		t := forcedTakeover(f)
		passed := slices.ContainsFunc(l.base.Takeovers, func(o Takeover) bool { return o.From == t.From && o.ID > t.ID })
		return (known(t) || passed) && !l.onTheWay(f)
	case FactVote:
		if f.Vote.Instance == l.base.Instance {
			return !f.Vote.Value.equal(l.baseValue)
		}
		return f.Vote.Instance < l.base.Instance && !l.onTheWay(f)
	case FactBase:
		return f.Chunk.Of != l.baseValue.Digest && !l.votedFor(f.Chunk.Of)
	}
	return false
}

// covers says whether parts have the addresses of g at its version or a later one.
func covers(parts []Part, g Grant) bool {
	at := overlapping(parts, g.Prefix)
	return len(at) > 0 && !slices.ContainsFunc(at, func(p Part) bool { return p.Version < g.Version })
}

func (l *Ledger) votedFor(d Digest) bool { return slices.Contains(l.voted, d) }

// onTheWay says that a vote, or a takeover by force that closed an instance, is one of those by which the first council that vouches for
// the base is known to be one.
func (l *Ledger) onTheWay(f Fact) bool {
	i := f.Vote.Instance
	s, ok := l.steps[i]
	if !ok || i > l.voucher || i == l.voucher && !s.leapt {
		return false
	}
	if f.Kind == FactForce {
		return s.forced && f.By == s.ballot.By
	}
	return !s.forced && f.Vote.Accepted == s.ballot && f.Vote.Value.equal(s.value)
}

// Needs says whether a fact must be in the log of whoever drops what is obsolete, whoever wrote it: it is a piece of the base, or a vote
// that proves it. Of equal pieces one is enough.
func (l *Ledger) Needs(f Fact) bool {
	if l.base == nil {
		return false
	}
	switch f.Kind {
	case FactVote:
		s := l.steps[f.Vote.Instance]
		return f.Vote.Instance == l.base.Instance && f.Vote.Accepted == s.ballot && f.Vote.Value.equal(s.value) || l.onTheWay(f)
	case FactForce:
		return l.onTheWay(f)
	case FactBase:
		return f.Chunk.Of == l.baseValue.Digest
	}
	return false
}

// gain counts the facts that a base would cover and the present one does not.
func (l *Ledger) gain(b *Base) (n int) {
	for _, f := range l.facts {
		switch f.Kind {
		case FactGrant, FactAccept:
			if covers(b.Parts, f.Grant) && (l.base == nil || !covers(l.base.Parts, f.Grant)) {
				n++
			}
		case FactVote:
			if f.Vote.Instance < b.Instance && slices.Contains(l.councils[f.Vote.Instance], f.By) && !l.Obsolete(f) && !l.Needs(f) {
				n++
			}
		}
	}
	return n
}

// Base is what the ledger rests on; nil for the seed.
func (l *Ledger) Base() *Base { return l.base }

func (c Chunk) check() error {
	switch {
	case len(c.Bytes) == 0 || len(c.Bytes) > MaxChunk:
		return fmt.Errorf("a piece of %d bytes", len(c.Bytes))
	case c.Index >= c.Count:
		return fmt.Errorf("piece %d of %d", c.Index, c.Count)
	}
	return nil
}
