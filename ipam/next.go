package ipam

import (
	"net/netip"
	"slices"
)

// Env is what a host knows besides the facts, at one moment.
type Env struct {
	Hosts []Owner          // all members that are known and have not departed, self included
	Alive func(Owner) bool // in reach now; true for self
	Dead  func(Owner) bool // out of reach for so long, or departed, that its space may be taken over
	Gone  func(Owner) bool // has departed, by its own word

	Observer bool    // self does not stand for the council
	Leaving  bool    // self is about to depart
	Wanted   bool    // somebody waits for addresses, and has for a moment
	Seeds    []Owner // the founder names them, all are known
	Take     Value   // a takeover that the operator wants, none for nothing
	Start    bool    // it is time to begin a ballot, if there is something to decide
	BaseAt   int     // have a base decided when it covers so many facts that no other does; 0: not now
}

// Next returns what self has to say now: facts for its own log, in this order. A host that cannot prove that it knows its own past must
// not ask: a vote that contradicts a forgotten one would break the others' decisions.
func (l *Ledger) Next(e Env) []Fact {
	var out []Fact
	say := func(f Fact) {
		f.By = l.self
		out = append(out, f)
	}
	if stands := !e.Leaving && !e.Observer; l.Stands(l.self) != stands {
		say(Fact{Kind: FactStand, Count: l.standing[l.self] + 1})
	}
	carryOut := func(may func(i int, t Takeover) bool) bool {
		for i, t := range l.takeovers {
			if t.To == l.self && l.Pending(t) && may(i, t) {
				for _, g := range l.spoils(i, e) {
					say(Fact{Kind: FactAccept, Grant: g})
				}
				say(Fact{Kind: FactTook, Count: t.ID})
				return true // the next one sees what this one has taken
			}
		}
		return false
	}
	// What self has forced it takes before it says that it knows of anything else: whoever hears that has heard what it has taken.
	if carryOut(func(_ int, t Takeover) bool { return t.Forced }) {
		return out
	}
	if news := l.news(e); len(news) > 0 {
		for _, f := range news {
			say(f)
		}
		return out // what follows from it comes when it is on disk
	}
	carryOut(func(i int, _ Takeover) bool { return l.allHeard(i, e) && l.inTurn(i) })
	for _, g := range l.gleanings(e) {
		say(Fact{Kind: FactAccept, Grant: g})
	}
	o := opinion{
		agree: func(by Owner, v Value) bool { return l.agree(e, by, v) },
		bear:  func(v Value) bool { return v.Op != OpBase || l.truthful(v) },
		near:  e.Alive,
	}
	if v, ok := l.open.step(l.self, l.wish(e), e.Start, o); ok {
		if v.Value.Op == OpBase { // it can be read wherever its votes are
			if p := l.present(); v.Value.Digest == p.digest && len(l.chunks[keptBase{l.self, p.digest}]) == 0 {
				out = append(out, chunks(l.self, p.digest, p.wire)...)
			}
		}
		say(Fact{Kind: FactVote, Vote: v})
	}
	return out
}

// Wishes says whether self would begin a ballot if Env.Start allowed it.
func (l *Ledger) Wishes(e Env) bool {
	w := l.wish(e)
	return w.Op != 0 && slices.Contains(l.electors, l.self) && l.agree(e, l.self, w)
}

// sees says whether a host has said that it knows of a takeover.
func (l *Ledger) sees(h Owner, t Takeover) bool {
	if t.Forced {
		return l.heard[hearing{h, t.From, t.ID}]
	}
	return l.seen[h] >= t.ID
}

// news are what self is to say of the takeovers that it knows of: the last decided one, and forced ones. A host that came back from the dead
// before it could hear of its takeover, by way of this host perhaps, has to say so first: until then it uses its space.
func (l *Ledger) news(e Env) (news []Fact) {
	last := uint32(0)
	late := false
	for _, t := range l.takeovers {
		back := t.From != l.self && !l.sees(t.From, t) && !e.Dead(t.From)
		switch {
		case !t.Forced:
			if late = late || back; !late {
				last = t.ID
			}
		case !back && !l.sees(l.self, t):
			news = append(news, Fact{Kind: FactSeen, Count: t.ID, Host: t.From})
		}
	}
	if last > l.seen[l.self] {
		news = append(news, Fact{Kind: FactSeen, Count: last})
	}
	return news
}

// Unheard are the hosts that have not said that they know of a takeover. Any of them may have been given space by the dead host
// that nobody else has heard of; until they have spoken, or are dead or gone themselves, the taker uses nothing of it.
func (l *Ledger) Unheard(of Takeover, e Env) []Owner {
	var out []Owner
	for _, h := range e.Hosts {
		if h == l.self || l.sees(h, of) || h == of.From && e.Dead(h) {
			continue
		}
		dead := false // taken over, and not heard of since
		for _, t := range l.takeovers {
			dead = dead || h != of.From && t.From == h && !l.sees(h, t) && e.Dead(h)
		}
		if !dead {
			out = append(out, h)
		}
	}
	return out
}

// Pending says whether the space of a takeover is still to be taken by its taker.
func (l *Ledger) Pending(t Takeover) bool {
	return !l.took[taking{t.To, t.ID}] && l.outranked(t.To) < t.version()
}

// allHeard says whether all have spoken of the takeover at i, and of those that its host was still to carry out: who has heard of a later
// one need not have heard of those by force.
func (l *Ledger) allHeard(i int, e Env) bool {
	t := l.takeovers[i]
	if len(l.Unheard(t, e)) > 0 {
		return false
	}
	for k, u := range l.takeovers[:i] {
		if u.To == t.From && !l.took[taking{u.To, u.ID}] && !l.allHeard(k, e) {
			return false
		}
	}
	return true
}

// inTurn says whether all takeovers before the one at i are carried out. What two dead hosts have given each other must not be taken
// twice: whoever comes second sees what the first has taken. One by force that is not is no matter. Its taker has been heard of this
// one, and would have carried it out before it said so; or it is dead and taken over, or has departed: then it never will.
func (l *Ledger) inTurn(i int) bool {
	return !slices.ContainsFunc(l.takeovers[:i], func(t Takeover) bool { return !t.Forced && l.Pending(t) })
}

// spoils are the grants by which self carries out the takeover at i: what the dead host owned, without what it had given to hosts that
// have not accepted it, and never will; and with what it should have taken itself before it died.
//
// By force it leaves also what others were given, and may accept in this moment: what of that they do not is left over.
func (l *Ledger) spoils(i int, env Env) []Grant {
	type estate struct {
		of           Owner
		above, below uint32 // versions
	}
	var all []estate
	var add func(k int)
	add = func(k int) {
		u := l.takeovers[k]
		e := estate{of: u.From, below: u.version()}
		for m := k - 1; m >= 0; m-- {
			before := l.takeovers[m]
			if before.From == u.From {
				if l.Pending(before) || u.Forced && before.Forced {
					e.above = before.version() // what is older, its own and others', goes to the taker of then, or is left over
				}
				break
			}
			if before.To == u.From && !l.took[taking{u.From, before.ID}] {
				add(m)
			}
		}
		all = append(all, e)
	}
	add(i)
	in := func(of Owner, v uint32) bool {
		return slices.ContainsFunc(all, func(e estate) bool { return e.of == of && e.above < v && v < e.below })
	}
	forced := l.takeovers[i].Forced
	return l.bring(i, l.had(in, func(g Grant) bool {
		return in(g.From, g.Version) && !(forced && l.mayStillAccept(g, env))
	}))
}

// mayStillAccept says whether somebody who lives may take what a host that was taken over has given, not having heard of that.
func (l *Ledger) mayStillAccept(g Grant, e Env) bool {
	return g.To != l.self && !e.Dead(g.To) && !slices.ContainsFunc(l.takeovers, func(t Takeover) bool {
		return (t.From == g.From || t.From == g.To) && g.Version < t.version() && l.sees(g.To, t)
	})
}

// had are the parts that of says that hosts had, by the version of the grant, once what they have given at such versions, and nobody
// has accepted, is void.
func (l *Ledger) had(of func(h Owner, version uint32) bool, void func(Grant) bool) []Part {
	r, _ := newRing(l.whole, l.baseParts(), slices.DeleteFunc(slices.Concat(l.grants, l.void), func(g Grant) bool { return void(g) && !l.accepts[g] }))
	return slices.DeleteFunc(r.parts, func(p Part) bool { return !of(p.Owner, p.Version) })
}

// bring are the grants by which self takes parts by the takeover at i.
func (l *Ledger) bring(i int, parts []Part) []Grant {
	t := l.takeovers[i]
	var had []netip.Prefix
	for _, p := range parts {
		had = append(had, p.Prefix)
	}
	var out []Grant
	for _, p := range merge(had) {
		out = append(out, Grant{Prefix: p, From: t.From, To: l.self, Version: t.version()})
	}
	return out
}

// settled says whether the takeover at i is carried out: by its taker, or, if that died first, by the one who took over from it. If that
// was by force in the same instance, nobody will, and what it was to bring is left over.
func (l *Ledger) settled(i int) bool {
	t := l.takeovers[i]
	if l.took[taking{t.To, t.ID}] || l.outranked(t.To) == t.version() {
		return true
	}
	heir := slices.IndexFunc(l.takeovers[i+1:], func(u Takeover) bool { return u.From == t.To })
	return heir >= 0 && l.settled(i+1+heir)
}

// orphans are what hosts had before they were taken over, and no taker has taken. They are of two kinds. What one such host was given by
// another: their takers have known of different parts of that, and each left it out as what the other would take. And what a host had
// that was taken over by force: its taker has heard nobody before. What a dead host got from one that was not, and that the taker by a
// decision has left, is none of these: the taker has known that it was given on, and self is still to hear of that.
func (l *Ledger) orphans() []Part {
	by := func(h Owner, version uint32) int {
		return slices.IndexFunc(l.takeovers, func(t Takeover) bool { return t.From == h && version < t.version() })
	}
	lost := func(h Owner, version uint32) bool {
		i := by(h, version)
		return i >= 0 && l.settled(i)
	}
	forced := func(h Owner, version uint32) bool {
		i := by(h, version)
		return i >= 0 && l.takeovers[i].Forced
	}
	left := slices.ContainsFunc(l.ring.parts, func(p Part) bool { return forced(p.Owner, p.Version) })
	var gifts []Grant
	for _, g := range slices.Concat(l.grants, l.void) {
		if left = left || forced(g.From, g.Version) && !l.accepts[g]; lost(g.From, g.Version) && lost(g.To, g.Version) {
			gifts = append(gifts, g)
		}
	}
	if len(gifts) == 0 && !left {
		return nil
	}
	slices.SortFunc(gifts, func(a, b Grant) int { return a.Prefix.Compare(b.Prefix) })
	var out []Part
	for _, p := range l.had(lost, func(g Grant) bool { return lost(g.From, g.Version) }) {
		if forced(p.Owner, p.Version) {
			out = append(out, p)
			continue
		}
		for _, g := range gifts {
			both, meet := intersect(p.Prefix, g.Prefix) // a part can be of several grants
			if !meet || g.To != p.Owner || g.Version != p.Version {
				continue
			}
			if n := len(out); n == 0 || !within(both, out[n-1].Prefix) {
				out = append(out, Part{Prefix: both, Owner: p.Owner, Version: p.Version})
			}
		}
	}
	return out
}

// gleanings are the grants by which self takes orphans. That is the last taker's, when all is carried out and all have been heard: so
// there is one, and if there has been another decision since then the next taker waits for what this one has said before it knew.
// Who has forced a takeover, and said that it knows of all, has carried it out or never will, and is not the last one then.
func (l *Ledger) gleanings(e Env) []Grant {
	if len(l.orphaned) == 0 || !l.inTurn(len(l.takeovers)) || slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return len(l.Unheard(t, e)) > 0 }) {
		return nil
	}
	if i := l.lastTaken(); i >= 0 && l.takeovers[i].To == l.self {
		return l.bring(i, l.orphaned)
	}
	return nil
}

// lastTaken finds the last takeover that is carried out; -1: none.
func (l *Ledger) lastTaken() int {
	for i, t := range slices.Backward(l.takeovers) {
		if !l.Pending(t) {
			return i
		}
	}
	return -1
}

// LeftOver is what takeovers have left over and nobody has taken yet, and who is to take it. Without that host it stays nobody's.
func (l *Ledger) LeftOver() (ps []netip.Prefix, taker Owner) {
	i := l.lastTaken()
	if len(l.orphaned) == 0 || i < 0 {
		return nil, Owner{}
	}
	for _, p := range l.orphaned {
		ps = append(ps, p.Prefix)
	}
	return ps, l.takeovers[i].To
}

// wish is what self would have decided. What concerns everybody is left to the first elector in reach, so that electors do not outbid
// each other for the same.
func (l *Ledger) wish(e Env) Value {
	elector := func(h Owner) bool { return slices.Contains(l.electors, h) }
	if e.Leaving {
		if elector(l.self) && len(l.electors) > 1 {
			return Value{Op: OpDrop, Hosts: []Owner{l.self}}
		}
		return Value{}
	}
	if e.Take.Op == OpTake {
		return e.Take
	}
	begun := l.begun()
	if !begun && l.named && l.self == l.founder && len(e.Seeds) == l.first {
		return Value{Op: OpSeed, Hosts: e.Seeds}
	}
	for _, h := range l.electors {
		if h == l.self {
			break
		}
		if e.Alive(h) && !e.Gone(h) {
			return Value{}
		}
	}
	var gone, add, ready []Owner
	reach := 0
	for _, h := range l.electors {
		if e.Alive(h) && !e.Gone(h) {
			reach++
		}
		if l.idle(e, h) {
			gone = append(gone, h)
		} else if e.Alive(h) {
			ready = append(ready, h)
		}
	}
	if reach < l.open.quorum() {
		return Value{} // nothing would come of it
	}
	limit := MaxElectors
	if !begun {
		limit = l.first
	}
	for _, h := range e.Hosts {
		if l.Stands(h) && !elector(h) && e.Alive(h) && len(l.electors)+len(add) < limit && (!begun || len(l.ring.Owned(h)) > 0) {
			add = append(add, h)
		}
	}
	slices.SortFunc(add, Owner.Compare)
	// To begin, all become electors at once, when they are enough: whichever of them fails then, the others go on if they are a majority.
	enough := func(n int) bool { return n >= l.first || n > l.first/2 && e.Wanted }
	switch {
	case len(gone) > 0 && len(gone) < len(l.electors):
		return Value{Op: OpDrop, Hosts: gone}
	case len(add) > 0 && (begun || !l.named && enough(len(ready)+len(add))):
		return Value{Op: OpAdd, Hosts: add}
	case !begun && !l.named && len(ready) > l.first/2 && enough(len(ready)):
		return Value{Op: OpSeed, Hosts: ready}
	case e.BaseAt > 0:
		if p := l.present(); p.wire != nil && p.gain >= e.BaseAt {
			return Value{Op: OpBase, Hosts: l.electors, Digest: p.digest}
		}
	}
	return Value{}
}

// idle says that an elector is one no more: it has departed, or does not stand any more since it is about to, or it is dead and was taken
// over by force while others decided something.
func (l *Ledger) idle(e Env, h Owner) bool {
	return e.Gone(h) || l.standing[h] > 0 && !l.Stands(h) ||
		e.Dead(h) && slices.ContainsFunc(l.takeovers, func(t Takeover) bool { return t.Forced && t.From == h && !l.sees(h, t) })
}

// agree says whether self would have v decided, as by wants it.
func (l *Ledger) agree(e Env, by Owner, v Value) bool {
	every := func(ok func(Owner) bool) bool {
		return !slices.ContainsFunc(v.Hosts, func(h Owner) bool { return !ok(h) })
	}
	known := func(h Owner) bool { return slices.Contains(e.Hosts, h) && !e.Gone(h) }
	switch v.Op {
	case OpSeed:
		if l.named {
			return by == l.founder && !l.begun()
		}
		elector := func(h Owner) bool { return slices.Contains(l.electors, h) }
		return l.first > 0 && !l.begun() && len(v.Hosts) > l.first/2 && every(elector)
	case OpAdd: // a host that nobody knows would count for a majority that is never reached
		return every(func(h Owner) bool { return known(h) && l.Stands(h) })
	case OpDrop:
		return every(func(h Owner) bool { return h == by || l.idle(e, h) })
	case OpBase: // it says what self would say: nothing that self knows is left out, and nothing is made up
		p := l.present()
		return p.wire != nil && v.Digest == p.digest && slices.Equal(v.Hosts, l.electors)
	case OpTake:
		return v.Hosts[0] != l.self && e.Dead(v.Hosts[0]) && known(v.Hosts[1]) && l.ring.Seeded() && l.Mortal(v.Hosts[0])
	}
	return false
}

// Mortal says whether a host can be taken over: not twice, unless it has come back or got something new in between, or has something
// still that nobody took, or decides again: it was taken over by force, and votes of before have come late. One that owns nothing can be,
// too: others then need not wait for what it may know.
func (l *Ledger) Mortal(h Owner) bool {
	for _, t := range slices.Backward(l.takeovers) {
		if t.From == h {
			return l.sees(h, t) || t.Forced && slices.Contains(l.electors, h) || slices.ContainsFunc(l.ring.parts, func(p Part) bool { return p.Owner == h && (p.Version > t.version() || !l.Pending(t)) }) ||
				slices.ContainsFunc(l.takeovers, func(u Takeover) bool { return u.To == h && u.ID > t.ID && l.Pending(u) })
		}
	}
	return true
}

// Force is the fact by which self's operator takes over a host's space without a majority. If that host lives, or others decide
// otherwise meanwhile, addresses are given twice.
func (l *Ledger) Force(from Owner) Fact {
	return Fact{By: l.self, Kind: FactForce, Vote: Vote{Instance: l.open.instance, Value: Value{Op: OpTake, Hosts: []Owner{from, l.self}}}}
}
