package ipam

import (
	"maps"
	"net/netip"
	"slices"
)

// Takeover is a decision that all that From owned is To's.
type Takeover struct {
	From, To Owner
	Forced   bool   // by an operator, without a majority
	version  uint32 // of the grants by which To takes it
}

// taking is that a host has carried out the takeover of a number.
type taking struct {
	by     Owner
	number uint32
}

// Ledger is what one host makes of all facts that it knows: who owns what, who may decide, what is being decided. It is a pure function
// of them, whatever their order, and is never changed.
type Ledger struct {
	self, founder Owner
	whole         netip.Prefix
	grants        []Grant
	void          []Grant // made to self, which will never accept them; they count for others until what they gave is taken over
	ring          *Ring
	solid         *Ring // without those
	conflicts     []Conflict
	orphaned      []Part
	mine          []netip.Prefix

	first     int // how many hosts begin the ring; 0: the founder alone
	named     bool
	seeds     []Owner
	electors  []Owner
	councils  [][]Owner // the electors of instance 1, of 2, … up to the open one
	takeovers []Takeover
	open      election // the instance that is not decided yet
	stands    map[Owner]bool
	seen      map[Owner]uint32
	took      map[taking]bool // each by itself: a forced takeover does not wait for its taker's earlier ones
	accepts   map[Grant]bool
	waiting   []Grant // made to self and not accepted yet
}

// NewLedger folds facts for the host self of a mesh that founder has founded with the range whole. Facts that do not pass their checks
// are skipped.
func NewLedger(self, founder Owner, whole netip.Prefix, facts []Fact) *Ledger {
	l := &Ledger{self: self, founder: founder, whole: whole.Masked(), stands: map[Owner]bool{}, seen: map[Owner]uint32{}, took: map[taking]bool{}, accepts: map[Grant]bool{}}
	votes := map[uint32]map[Owner][]Vote{}
	forced := map[uint32][]Fact{}
	var given []Grant
	for _, f := range facts {
		if f.check() != nil {
			continue
		}
		switch f.Kind {
		case FactGrant:
			given = append(given, f.Grant)
		case FactAccept:
			l.accepts[f.Grant] = true
		case FactInit:
			if f.By == founder {
				l.first, l.named = max(l.first, int(f.First)), l.named || f.Named
			}
		case FactStand:
			l.stands[f.By] = true
		case FactVote:
			if votes[f.Vote.Instance] == nil {
				votes[f.Vote.Instance] = map[Owner][]Vote{}
			}
			votes[f.Vote.Instance][f.By] = append(votes[f.Vote.Instance][f.By], f.Vote)
		case FactSeen:
			l.seen[f.By] = max(l.seen[f.By], f.Count)
		case FactTook:
			l.took[taking{f.By, f.Count}] = true
		case FactForce:
			forced[f.Vote.Instance] = append(forced[f.Vote.Instance], f)
		}
	}
	l.decide(votes, forced)
	l.collect(given)
	l.ring, l.conflicts = NewRing(l.whole, append(slices.Clip(l.grants), l.void...))
	if l.solid = l.ring; len(l.void) > 0 {
		l.solid, _ = NewRing(l.whole, l.grants)
	}
	l.mine, l.orphaned = l.usable(), l.orphans()
	return l
}

// decide walks through the instances as far as they are decided. The electors of each are those that the ones before it have left.
func (l *Ledger) decide(votes map[uint32]map[Owner][]Vote, forced map[uint32][]Fact) {
	l.electors = []Owner{l.founder}
	for i := uint32(1); ; i++ {
		l.councils = append(l.councils, l.electors)
		e := election{instance: i, electors: l.electors, latest: map[Owner]Vote{}, all: votes[i]}
		for _, by := range l.electors {
			for _, v := range votes[i][by] {
				if v.after(e.latest[by]) {
					e.latest[by] = v
				}
			}
		}
		v, ok := e.decided()
		force := false
		if fs := forced[i]; !ok && len(fs) > 0 {
			first := slices.MinFunc(fs, func(a, b Fact) int { return a.By.Compare(b.By) })
			v, ok, force = first.Vote.Value, true, true
		}
		if !ok {
			l.open = e
			return
		}
		l.apply(v, force)
	}
}

func (l *Ledger) apply(v Value, forced bool) {
	electors := slices.Clone(l.electors)
	drop := func(h Owner) { electors = slices.DeleteFunc(electors, func(o Owner) bool { return o == h }) }
	switch v.Op {
	case OpSeed:
		if l.seeds == nil && l.first > 0 {
			l.seeds = v.Hosts
		}
	case OpAdd:
		for _, h := range v.Hosts {
			if !slices.Contains(electors, h) && len(electors) < MaxElectors {
				electors = append(electors, h)
			}
		}
	case OpDrop:
		for _, h := range v.Hosts {
			drop(h)
		}
	case OpTake:
		drop(v.Hosts[0])
		l.takeovers = append(l.takeovers, Takeover{From: v.Hosts[0], To: v.Hosts[1], Forced: forced, version: uint32(len(l.takeovers)+1) * takeoverStep})
	}
	if len(electors) == 0 { // the last one has gone: whoever is left begins anew
		if electors = []Owner{l.founder}; v.Op == OpTake {
			electors = []Owner{v.Hosts[1]}
		}
	}
	slices.SortFunc(electors, Owner.Compare)
	l.electors = electors
}

// collect gathers the grants that count. One that was made to self counts when self has written down that it takes it: a giver whose
// space is taken over then knows what it can still not know.
func (l *Ledger) collect(given []Grant) {
	if l.seeds != nil {
		l.grants = append(l.grants, seedGrants(l.whole, l.seeds)...)
	}
	given = slices.DeleteFunc(given, l.tooHigh)
	for g := range l.accepts {
		if l.tooHigh(g) {
			continue
		}
		if !g.Takeover() || slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.version == g.Version && t.From == g.From && t.To == g.To }) {
			l.grants = append(l.grants, g)
		}
	}
	for _, g := range given {
		switch {
		case g.From.IsZero():
			if l.first == 0 && g.To == l.founder && g.Prefix == l.whole {
				l.grants = append(l.grants, g)
			}
		case g.To == l.self && !l.accepts[g]:
			if !l.mayAccept(g) {
				l.void = append(l.void, g)
			} else if !slices.Contains(l.waiting, g) {
				l.waiting = append(l.waiting, g)
			}
		default:
			l.grants = append(l.grants, g)
		}
	}
}

// tooHigh says that a grant's version is beyond what hand-overs between the takeovers that were decided can bring about, with room for
// some that are not known here yet. What has the highest version there is could never be given or taken over any more: it does not count.
func (l *Ledger) tooHigh(g Grant) bool {
	return uint64(g.Version)/takeoverStep > uint64(len(l.takeovers))+1
}

// outranked is the version of the last takeover of a host's space: what it had or gave by lower ones is void.
func (l *Ledger) outranked(h Owner) uint32 {
	for _, t := range slices.Backward(l.takeovers) {
		if t.From == h {
			return t.version
		}
	}
	return 0
}

// mayAccept says whether self may take what it was given. What comes from or to a host whose space was taken over since may be
// somebody else's by now.
func (l *Ledger) mayAccept(g Grant) bool {
	return !l.tooHigh(g) && g.Version > l.outranked(g.From) && g.Version > l.outranked(l.self)
}

func (l *Ledger) usable() []netip.Prefix {
	void := l.outranked(l.self)
	if void == 0 {
		return l.solid.Owned(l.self)
	}
	var out []netip.Prefix
	for _, p := range l.solid.parts {
		if p.Owner == l.self && p.Version > void {
			out = append(out, p.Prefix)
		}
	}
	return merge(out)
}

// merge joins neighbours of sorted, disjoint prefixes.
func merge(ps []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for i := 0; i < len(ps); i++ {
		first, last := ps[i].Addr(), lastAddr(ps[i])
		for i+1 < len(ps) && ps[i+1].Addr() == last.Next() {
			i++
			last = lastAddr(ps[i])
		}
		out = appendCIDRs(out, first, last)
	}
	return out
}

// Ring says who owns what, as far as is known here.
func (l *Ledger) Ring() *Ring { return l.ring }

// Conflicts are grants that contradict each other.
func (l *Ledger) Conflicts() []Conflict { return l.conflicts }

// Usable is what self may allocate from and give away, in the fewest aligned blocks. It can be less than the ring says is its own: a
// host that was dead to the others, and finds that out, has lost what it had.
func (l *Ledger) Usable() []netip.Prefix { return slices.Clone(l.mine) }

// Waiting are grants to self that it has not accepted, and may.
func (l *Ledger) Waiting() []Grant { return slices.Clone(l.waiting) }

// MayAccept says whether self may accept a grant to it: not what a dead host has given, once that host's space is another's.
func (l *Ledger) MayAccept(g Grant) bool { return g.To == l.self && l.mayAccept(g) }

// Relies says whether the ledger rests on a fact beside grants: how the ring begins, what was decided, by whose votes, and who has
// carried it out. Of votes in decided instances those count that accept something, by electors of the time.
func (l *Ledger) Relies(f Fact) bool {
	switch f.Kind {
	case FactInit:
		return f.By == l.founder
	case FactForce, FactTook:
		return slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.To == f.By })
	case FactVote:
		i := int(f.Vote.Instance)
		return i <= len(l.councils) && slices.Contains(l.councils[i-1], f.By) && (f.Vote.Accepted != (Ballot{}) || i == len(l.councils))
	}
	return false
}

// Hosts are all that the ledger rests on, sorted: who owns space or had it on its way to its owner, who has given some to self, who
// decides or has decided, and whose space was taken over. What any other host says is of no consequence to it.
func (l *Ledger) Hosts() []Owner {
	hosts := maps.Clone(l.ring.links)
	if hosts == nil {
		hosts = map[Owner]bool{}
	}
	for _, g := range l.waiting {
		hosts[g.From] = true
	}
	for _, c := range append(slices.Clip(l.councils), []Owner{l.founder}, l.seeds) {
		for _, h := range c {
			hosts[h] = true
		}
	}
	for _, t := range l.takeovers {
		hosts[t.From], hosts[t.To] = true, true
	}
	delete(hosts, Owner{})
	return slices.SortedFunc(maps.Keys(hosts), Owner.Compare)
}

// Electors are the hosts that decide, sorted.
func (l *Ledger) Electors() []Owner { return slices.Clone(l.electors) }

// Beginning tells how the ring begins: with how many hosts, 0 for the founder alone, and whether the founder names them.
func (l *Ledger) Beginning() (first int, named bool) { return l.first, l.named }

// Instance is the number of the decision that is open.
func (l *Ledger) Instance() uint32 { return l.open.instance }

// Seeds are the hosts that an election shared the range out to; nil if there was none.
func (l *Ledger) Seeds() []Owner { return slices.Clone(l.seeds) }

// Takeovers are those that were decided, in their order.
func (l *Ledger) Takeovers() []Takeover { return slices.Clone(l.takeovers) }

// Lost is the last takeover of self's space, if it was ever taken over.
func (l *Ledger) Lost() (Takeover, bool) {
	for _, t := range slices.Backward(l.takeovers) {
		if t.From == l.self {
			return t, true
		}
	}
	return Takeover{}, false
}

// Donate decides what self gives to a host that asks, as the function Donate does.
func (l *Ledger) Donate(to Owner, used func(netip.Prefix) bool, subnet netip.Prefix) []Grant {
	return l.lift(Donate(l.own(), l.self, to, used, subnet))
}

// HandOver gives all that self can give, as the function HandOver does.
func (l *Ledger) HandOver(to Owner) []Grant { return l.lift(HandOver(l.own(), l.self, to)) }

// own is the ring without what self may not use.
func (l *Ledger) own() *Ring {
	void := l.outranked(l.self)
	if void == 0 {
		return l.solid
	}
	return &Ring{whole: l.whole, parts: slices.DeleteFunc(slices.Clone(l.solid.parts), func(p Part) bool { return p.Owner == l.self && p.Version < void })}
}

// lift gives grants versions above those of all takeovers: a host that was dead and has come back may take them.
func (l *Ledger) lift(gs []Grant) []Grant {
	for i := range gs {
		gs[i].Version = max(gs[i].Version, after(uint32(len(l.takeovers))*takeoverStep))
	}
	return gs
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

// Brings says whether g is one of the grants by which a takeover was carried out.
func (t Takeover) Brings(g Grant) bool {
	return g.From == t.From && g.To == t.To && g.Version == t.version
}

// Size is the number of addresses of p; the largest uint64 stands for all that is more.
func Size(p netip.Prefix) uint64 { return countOf(p).saturated() }
