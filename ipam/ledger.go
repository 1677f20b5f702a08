package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// step is how an instance was decided.
type step struct {
	value  Value
	ballot Ballot
	leapt  bool // by a base that a council before it vouches for
	forced bool // by ballot.By alone
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
	councils  map[uint32][]Owner // the electors of instance 1, of 2, … up to the open one, as far as they are known
	steps     map[uint32]step    // how those that are decided were
	base      *Base              // the last one; nil: the seed is all there was before
	baseValue Value
	voucher   uint32   // the first instance whose electors vouch for the base
	voted     []Digest // bases that electors have voted for since
	facts     []Fact
	chunks    map[keptBase][]Chunk
	present   func() present // see lookAtPresent
	takeovers []Takeover
	open      election         // the instance that is not decided yet
	standing  map[Owner]uint32 // by FactStand
	seen      map[Owner]uint32 // the last decided takeover that a host has said it knows of
	heard     map[hearing]bool
	took      map[taking]bool // each by itself: a forced takeover does not wait for its taker's earlier ones
	accepts   map[Grant]bool
	forced    []Takeover                // by self
	spoilsOf  map[uint32][]netip.Prefix // by self, by takeover
	waiting   []Grant                   // made to self and not accepted yet
}

// NewLedger folds facts for the host self of a mesh that founder has founded with the range whole. Facts that do not pass their checks
// are skipped.
func NewLedger(self, founder Owner, whole netip.Prefix, facts []Fact) *Ledger {
	l := &Ledger{facts: facts, self: self, founder: founder, whole: whole.Masked(), standing: map[Owner]uint32{},
		seen: map[Owner]uint32{}, heard: map[hearing]bool{}, took: map[taking]bool{}, spoilsOf: map[uint32][]netip.Prefix{}, accepts: map[Grant]bool{},
		councils: map[uint32][]Owner{}, steps: map[uint32]step{}, chunks: map[keptBase][]Chunk{}}
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
			if f.By == self && f.Grant.Takeover() {
				id := f.Grant.Version / takeoverStep
				l.spoilsOf[id] = append(l.spoilsOf[id], f.Grant.Prefix)
			}
		case FactInit:
			if f.By == founder {
				l.first, l.named = max(l.first, int(f.First)), l.named || f.Named
			}
		case FactStand:
			l.standing[f.By] = max(l.standing[f.By], f.Count)
		case FactVote:
			if votes[f.Vote.Instance] == nil {
				votes[f.Vote.Instance] = map[Owner][]Vote{}
			}
			votes[f.Vote.Instance][f.By] = append(votes[f.Vote.Instance][f.By], f.Vote)
		case FactSeen:
			if isForced(f.Count) {
				l.heard[hearing{f.By, f.Host, f.Count}] = true
			} else {
				l.seen[f.By] = max(l.seen[f.By], f.Count)
			}
		case FactTook:
			l.took[taking{f.By, f.Count}] = true
		case FactBase:
			k := keptBase{f.By, f.Chunk.Of}
			l.chunks[k] = append(l.chunks[k], f.Chunk)
		case FactForce:
			forced[f.Vote.Instance] = append(forced[f.Vote.Instance], f)
			if f.By == self {
				l.forced = append(l.forced, forcedTakeover(f))
			}
		}
	}
	l.decide(votes, forced)
	l.collect(given)
	l.ring, l.conflicts = newRing(l.whole, l.baseParts(), append(slices.Clip(l.grants), l.void...))
	if l.solid = l.ring; len(l.void) > 0 {
		l.solid, _ = newRing(l.whole, l.baseParts(), l.grants)
	}
	l.mine, l.orphaned = l.usable(), l.orphans()
	l.present = sync.OnceValue(l.lookAtPresent)
	return l
}

// decide walks through the instances as far as they are decided. The electors of each are those that the ones before it have left. Where
// the votes of one are gone, since a base covers them, it goes on behind the base.
func (l *Ledger) decide(votes map[uint32]map[Owner][]Vote, forced map[uint32][]Fact) {
	for limit := uint32(maxInstance); ; {
		passed := l.walk(votes, forced, limit)
		if passed == 0 {
			break
		}
		limit = passed - 1
	}
	l.force(forced)
	slices.SortFunc(l.takeovers, Takeover.compare)
	if l.base != nil {
		l.vouch(votes)
	}
	for i, council := range l.councils {
		if l.base != nil && i <= l.base.Instance {
			continue
		}
		for _, by := range council {
			for _, v := range votes[i][by] {
				if v.Value.Op == OpBase {
					l.voted = append(l.voted, v.Value.Digest)
				}
			}
		}
	}
}

// walk is decide's way. A base of which not all is here can still be on the way to a later one: its votes tell who decided behind it.
// That is gone for bases up to limit; if no later one is reached, walk returns the first that was passed so for nothing, else 0.
func (l *Ledger) walk(votes map[uint32]map[Owner][]Vote, forced map[uint32][]Fact, limit uint32) (passed uint32) {
	l.electors, l.takeovers, l.seeds, l.base = []Owner{l.founder}, nil, nil, nil
	l.councils, l.steps = map[uint32][]Owner{}, map[uint32]step{}
	all := leaps(votes)
	var last []Owner
	for i := uint32(1); ; i++ {
		if l.councils[i] = l.electors; !slices.Equal(last, l.electors) {
			last = l.electors
			vouchFor(all, last)
		}
		e := newElection(i, l.electors, votes[i], l.self)
		v, ballot, ok := e.outcome()
		if !ok {
			if to, base := l.leapFrom(i, all); base != nil {
				i, l.electors, passed = to.instance, base.Electors, 0
				l.rest(base, to.value)
				continue
			}
			if n := slices.IndexFunc(all, func(c leap) bool { return c.vouched && c.instance >= i && c.instance <= limit }); n >= 0 {
				if passed == 0 {
					passed = all[n].instance
				}
				i, l.electors = all[n].instance, all[n].value.Hosts
				l.councils[i], l.steps[i] = l.electors, step{value: all[n].value, ballot: all[n].ballot, leapt: true}
				continue
			}
		}
		if ok {
			l.steps[i] = step{value: v, ballot: ballot}
			l.apply(v)
		}
		switch v.Op {
		case OpTake:
			l.takeovers = append(l.takeovers, Takeover{From: v.Hosts[0], To: v.Hosts[1], ID: decidedID(i)})
		case OpBase:
			if b := l.baseFor(i, v); b != nil {
				l.rest(b, v)
				passed = 0
			}
		}
		if !ok && len(forced[i]) > 0 { // the instance is closed, for whoever knows no decision
			first := slices.MinFunc(forced[i], compareForce)
			l.steps[i] = step{value: first.Vote.Value, ballot: Ballot{By: first.By}, forced: true}
			l.apply(first.Vote.Value)
			ok = true
		}
		if !ok {
			l.open = e
			return passed
		}
	}
}

// vouch finds the first council that vouches for the base.
func (l *Ledger) vouch(votes map[uint32]map[Owner][]Vote) {
	s := l.steps[l.base.Instance]
	var c leap
	for o, vs := range votes[l.base.Instance] {
		if slices.ContainsFunc(vs, func(v Vote) bool { return v.Accepted == s.ballot && v.Value.equal(s.value) }) {
			c.by = append(c.by, o)
		}
	}
	l.voucher = l.base.Instance
	for i, council := range l.councils {
		if i < l.voucher && c.acceptedByMost(council) {
			l.voucher = i
		}
	}
}

// apply makes the electors what v leaves.
func (l *Ledger) apply(v Value) {
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
	if l.seeds != nil && l.base == nil {
		l.grants = append(l.grants, seedGrants(l.whole, l.seeds)...)
	}
	given = slices.DeleteFunc(given, l.tooHigh)
	for g := range l.accepts {
		if l.tooHigh(g) {
			continue
		}
		if !g.Takeover() || slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.Brings(g) }) {
			l.grants = append(l.grants, g)
		}
	}
	for _, g := range given {
		switch {
		case g.From.IsZero():
			if l.first == 0 && g.To == l.founder && g.Prefix == l.whole {
				l.grants = append(l.grants, g)
			}
		case l.base != nil && covers(l.base.Parts, g): // accepted, or void
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

// tooHigh says that a grant's version is beyond what hand-overs between the takeovers that there were can bring about, with room for
// some that are not known here yet. What has the highest version there is could never be given or taken over any more: it does not count.
func (l *Ledger) tooHigh(g Grant) bool {
	last := decidedID(l.open.instance)
	if n := len(l.takeovers); n > 0 {
		last = max(last, l.takeovers[n-1].ID)
	}
	return g.Version/takeoverStep > last+2
}

// mayAccept says whether self may take what it was given. What comes from or to a host whose space was taken over since may be
// somebody else's by now.
func (l *Ledger) mayAccept(g Grant) bool {
	return !l.tooHigh(g) && (l.base == nil || !covers(l.base.Parts, g)) && g.Version > l.outranked(g.From) && g.Version > l.outranked(l.self)
}

func (l *Ledger) usable() []netip.Prefix {
	void := l.outranked(l.self)
	if void == 0 {
		return l.solid.Owned(l.self)
	}
	var out []netip.Prefix
	for _, p := range l.solid.parts {
		if p.Owner == l.self && p.Version >= void { // what self took by force in the same instance stays
			out = append(out, p.Prefix)
		}
	}
	return merge(out)
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
	if l.Obsolete(f) {
		return false
	}
	switch f.Kind {
	case FactInit:
		return f.By == l.founder
	case FactForce, FactTook:
		return slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.To == f.By })
	case FactVote:
		i := f.Vote.Instance
		return slices.Contains(l.councils[i], f.By) && (f.Vote.Accepted != (Ballot{}) || i == l.open.instance)
	case FactBase:
		return l.base != nil && f.Chunk.Of == l.baseValue.Digest
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
	councils := slices.Collect(maps.Values(l.councils))
	for _, c := range append(councils, []Owner{l.founder}, l.seeds) {
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

// begun says whether the ring has begun, or begins with its founder.
func (l *Ledger) begun() bool { return l.first == 0 || l.seeds != nil || l.base != nil }

// Stands says whether a host may become an elector: not before it has said so, and not when it leaves.
func (l *Ledger) Stands(h Owner) bool { return l.standing[h]%2 == 1 }

// Beginning tells how the ring begins: with how many hosts, 0 for the founder alone, and whether the founder names them.
func (l *Ledger) Beginning() (first int, named bool) { return l.first, l.named }

// Instance is the number of the decision that is open.
func (l *Ledger) Instance() uint32 { return l.open.instance }

// Heard is how often others have voted in the instance that is open.
func (l *Ledger) Heard() (n int) {
	for by, vs := range l.open.all {
		if by != l.self {
			n += len(vs)
		}
	}
	return n
}

// Seeds are the hosts that an election shared the range out to; nil if there was none.
func (l *Ledger) Seeds() []Owner { return slices.Clone(l.seeds) }

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

// lift gives grants versions above that of the takeover of their taker: if it was dead and has come back, it may take them. They are not
// above those of others: a takeover by force can be far ahead of what is decided, and what is above it is taken over only when decisions
// have got there. What self may give is above its own.
func (l *Ledger) lift(gs []Grant) []Grant {
	for i, g := range gs {
		gs[i].Version = max(g.Version, after(l.outranked(g.To)))
	}
	return gs
}
