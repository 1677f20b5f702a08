package mesh

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"time"

	"weft/peer"
)

// past is what this host has written and its open epoch is not: what others have told of
// its log, from before its disk was lost or put back, or of a copy's; and the epochs
// that it had open itself since it was started, for others may still hold those.
//
// What was told stays here when a new epoch has taken it up. It may have been told in
// part, and the rest, when it comes, is told from apart; and what comes again is no news.
type past struct {
	epochs  map[uint64]*pastEpoch // by number; at most maxPast
	tick    uint64                // counts what comes, news or not
	telling map[uint64]int        // exchanges under way that have told news of an epoch
}

// pastEpoch is one of them. An epoch is told in order by an exchange, in any by gossip.
type pastEpoch struct {
	epoch
	others  []Entry          // under numbers that entries has, too: this host has written them twice
	tellers map[peer.ID]bool // who told of it; some of them
	last    uint64           // past.tick when an entry came last
	version int              // counts what was news
	taken   int              // the version that an epoch of this host's has taken up
}

const (
	maxPast    = 8
	maxTellers = 64
)

func newPast() past { return past{epochs: make(map[uint64]*pastEpoch), telling: make(map[uint64]int)} }

// pastDoubt is for how long what was told in part of an epoch that is lower than this
// host's own is waited for, once another host has told all that it has: an exchange under
// way is over then. Who told it may be gone, or send an old entry again and again. A
// higher one is waited for without end: this host has written more than anybody tells.
const pastDoubt = syncTimeout

// begin makes a place for an epoch; nil: there is none. own is the one that this host's
// log is in, or nil. What adds nothing to that goes for it, of those the one of which nothing
// came for longest, or the lowest of those that are here in part: it comes again. What is here
// in whole and waits for its turn stays.
func (p *past) begin(number uint64, own *epoch) *pastEpoch {
	if len(p.epochs) >= maxPast {
		var victim *pastEpoch
		spare := false // the victim is here in whole
		for n, e := range p.epochs {
			adds := !e.settled() && !e.superfluous(own)
			switch {
			case own != nil && n == own.number || adds && !e.partial():
			case victim == nil, !adds && !spare, !adds && e.last < victim.last, adds && !spare && n < victim.number:
				victim, spare = e, !adds
			}
		}
		if victim == nil {
			return nil
		}
		delete(p.epochs, victim.number)
	}
	e := &pastEpoch{epoch: *newEpoch(number), tellers: make(map[peer.ID]bool)}
	p.epochs[number] = e
	return e
}

// ascending are all of it, by number.
func (p *past) ascending() (es []*pastEpoch) {
	for _, n := range slices.Sorted(maps.Keys(p.epochs)) {
		es = append(es, p.epochs[n])
	}
	return es
}

// bytes are those of all entries here.
func (p *past) bytes() (n int) {
	for _, e := range p.epochs {
		n += e.bytes + e.waiting
		for _, o := range e.others {
			n += len(o.raw)
		}
	}
	return n
}

// partial tells that there is more of an epoch than is here, and whether of one higher
// than this host's own.
func (p *past) partial(own uint64) (some, higher bool) {
	for n, e := range p.epochs {
		if e.partial() {
			some, higher = true, higher || n > own
		}
	}
	return some, higher
}

// tell takes an entry from a host that holds it, and reports whether it is news.
func (e *pastEpoch) tell(p proven, from peer.ID) (news bool) {
	if len(e.tellers) < maxTellers {
		e.tellers[from] = true
	}
	n, waiting := len(e.entries), e.waiting
	err := e.add(p, &change{})
	switch {
	case errors.Is(err, errFork):
		same := func(o Entry) bool { return bytes.Equal(o.raw, p.raw) }
		if len(e.others) >= maxLogEntries || slices.ContainsFunc(e.others, same) {
			return false
		}
		e.others = append(e.others, p.Entry)
	case err != nil || len(e.entries) == n && e.waiting == waiting:
		return false
	}
	e.version++
	return true
}

// settled tells that it is here in whole, and an epoch of this host's has taken it up.
func (e *pastEpoch) settled() bool { return !e.untaken() && !e.partial() }

// untaken tells that some of it came after an epoch of this host's took it up, if one did.
func (e *pastEpoch) untaken() bool { return e.version != e.taken }

// superfluous tells that it is here in whole, and this host's log need not take it up. Anybody
// who was there long ago can tell it, again and again.
func (e *pastEpoch) superfluous(own *epoch) bool {
	return own != nil && e.number < own.number && !e.partial() && e.keptBy(own)
}

func (e *pastEpoch) partial() bool { return !e.complete() || len(e.early) > 0 }

// departs tells that this host has left for good in it.
func (e *pastEpoch) departs() bool {
	leaves := func(o Entry) bool { return o.Kind == KindDepart }
	return e.departed != nil || slices.ContainsFunc(e.others, leaves) || slices.ContainsFunc(slices.Collect(maps.Values(e.early)), leaves)
}

// said are all entries of it that are here.
func (e *pastEpoch) said() []Entry {
	es := slices.Concat(e.entries, e.others)
	for _, seq := range slices.Sorted(maps.Keys(e.early)) {
		es = append(es, e.early[seq])
	}
	return es
}

func (e *pastEpoch) keptBy(later *epoch) bool {
	return (later.departed != nil || !e.departs()) && e.epoch.keptBy(later) && later.hasGrants(e.others) && later.hasGrants(slices.Collect(maps.Values(e.early)))
}

// continues makes a place for what others have of an epoch that this host has open: it
// is this host's own up to there.
func (p *past) continues(own *epoch) *pastEpoch {
	e := p.begin(own.number, own)
	if e != nil {
		e.epoch = own.copy()
	}
	return e
}

// former keeps an epoch of this host's that was open until now, for others may hold it
// for a while. All of it is in the next one.
func (p *past) former(own, open *epoch) {
	if own == nil || p.epochs[own.number] != nil {
		return
	}
	if e := p.begin(own.number, open); e != nil {
		e.epoch = own.copy()
	}
}

// copy shares the entries.
func (ep *epoch) copy() epoch {
	c := *ep
	c.entries, c.grants, c.early, c.waiting = ep.entries[:len(ep.entries):len(ep.entries)], grantSet{}, make(map[uint64]Entry), 0
	return c
}

// reaches tells that this is all that somebody has who names so many entries of it. sum is
// that of their chain if it is known.
func (ep *epoch) reaches(seq uint64, sum *[8]byte) bool {
	return ep.complete() && ep.fork == nil && seq <= uint64(len(ep.entries)) &&
		(sum == nil || chain(ep.entries[:seq]) == *sum)
}

// takeOwnLocked looks at an entry of this host's own log that comes from others:
// what it wrote before its disk was lost or put back. It reports whether that is news.
//
// It may be of the epoch that is open: a machine that is put back with its memory has
// no start. Then the past is this host's own log up to there, and theirs from there on,
// and nothing more is written into that epoch.
func (m *Mesh) takeOwnLocked(p proven, from peer.ID, asked bool) bool {
	if p.Epoch < m.own.epoch && !asked || p.begin != nil && p.begin.Snapshot > MaxSnapshot {
		return false
	}
	e := m.past.epochs[p.Epoch]
	switch own := m.ownEpochLocked(); {
	case e != nil:
	case own != nil && own.number == p.Epoch:
		if e = m.past.continues(own); e == nil {
			break
		}
		m.notices.set("back", "other hosts know more of what this host has written than it does itself: was the machine put back to an earlier state? "+
			"It takes that up again by itself", time.Now())
		m.publishLocked()
	default:
		e = m.past.begin(p.Epoch, own)
	}
	if e == nil {
		m.checkPastLocked() // what waits is taken up, and then there is room
		return false
	}
	m.past.tick++
	e.last = m.past.tick
	return e.tell(p, from)
}

// ownEpochLocked is the one in which this host's own log is; nil: none yet.
func (m *Mesh) ownEpochLocked() *epoch {
	if a := m.logs.authors[m.id]; a != nil {
		return a.current
	}
	return nil
}

// continuedLocked says that others hold entries of the open epoch that this host does
// not: what it would write there would have their numbers.
func (m *Mesh) continuedLocked() bool { return m.own.open && m.past.epochs[m.own.epoch] != nil }

// lacksPastLocked says that others have told of a whole epoch of this host's that is
// higher than its own, or has grants that its own lacks, or of its departure, whole or not:
// who has removed its log has nothing else to tell.
func (m *Mesh) lacksPastLocked() bool {
	if m.continuedLocked() {
		return true
	}
	own := m.ownEpochLocked()
	for n, e := range m.past.epochs {
		switch {
		case !e.untaken():
		case e.complete() && (n >= m.own.epoch || own == nil || !e.keptBy(own)):
			return true
		case own != nil && own.departed == nil && e.departs():
			return true
		}
	}
	return false
}

// checkPastLocked asks for a new epoch when this host's own lacks something of its past.
// While an exchange tells of that, there is more to come.
func (m *Mesh) checkPastLocked() {
	enough := m.telling == 0 || len(m.past.epochs) >= maxPast || m.heard && time.Since(m.heardAt) >= pastDoubt
	if enough && m.lacksPastLocked() {
		poke(m.reroll)
	}
}

// tellsLocked notes that an exchange, unless it is nil, has told news of an epoch.
func (m *Mesh) tellsLocked(exchange *asked, epoch uint64) {
	if exchange == nil || exchange.past[epoch] {
		return
	}
	if exchange.past == nil {
		exchange.past = make(map[uint64]bool)
		m.telling++
	}
	exchange.past[epoch] = true
	m.past.telling[epoch]++
}

// endTelling is called when an exchange is over that may have told of the past,
// also if it was cut off.
func (m *Mesh) endTelling(asked *asked) {
	if asked.past == nil {
		return
	}
	m.mu.Lock()
	m.telling--
	for n := range asked.past {
		if m.past.telling[n]--; m.past.telling[n] == 0 {
			delete(m.past.telling, n)
		}
	}
	m.checkPastLocked()
	m.publishLocked()
	m.mu.Unlock()
	m.o.OnChange()
}

// heardLocked is State.Heard.
func (m *Mesh) heardLocked() bool {
	some, higher := m.past.partial(m.own.epoch)
	return m.heard && !m.lacksPastLocked() && !higher && (m.telling == 0 && !some || time.Since(m.heardAt) >= pastDoubt)
}

// hear notes that another host has told what it knows of this one's past; theirs
// is its digest, nil if it holds the same as this host. It counts if all that it has of
// this host's log is here. One that has never heard of this host does not count, nor
// one that knows of an epoch which it could not tell: it has that only in part.
func (m *Mesh) hear(from peer.ID, theirs []mark) {
	m.mu.Lock()
	was := m.heardLocked()
	if m.toldAllLocked(from, theirs) {
		m.settlePastLocked(from)
		if !m.heard && time.Since(m.doubted) >= doubtDrain {
			m.heard, m.heardAt = true, time.Now()
			time.AfterFunc(pastDoubt, m.hearLate)
		}
	}
	news := m.heardLocked() != was
	if news {
		m.publishLocked()
	}
	m.mu.Unlock()
	if news {
		m.o.OnChange()
	}
}

// hearLate is called when what was told in part is waited for no longer.
func (m *Mesh) hearLate() {
	m.mu.Lock()
	m.checkPastLocked()
	m.publishLocked()
	m.mu.Unlock()
	m.o.OnChange()
}

func (m *Mesh) toldAllLocked(from peer.ID, theirs []mark) bool {
	if theirs == nil {
		return !m.knowMore[from] // what is not whole is in no root
	}
	i := slices.IndexFunc(theirs, func(k mark) bool { return k.author == m.id })
	if i < 0 {
		return false
	}
	k := theirs[i]
	if !m.reachesLocked(k.next, k.nextCount, nil) {
		if len(m.knowMore) < maxAuthors {
			m.knowMore[from] = true
		}
		return false
	}
	delete(m.knowMore, from)
	return m.reachesLocked(k.epoch, k.seq, &k.sum)
}

// reachesLocked tells that this host holds so much of an epoch of its own.
func (m *Mesh) reachesLocked(number, seq uint64, sum *[8]byte) bool {
	if number == 0 {
		return true
	}
	if e := m.past.epochs[number]; e != nil {
		return e.reaches(seq, sum)
	}
	own := m.ownEpochLocked()
	return own != nil && own.number == number && own.reaches(seq, sum)
}

// settlePastLocked is called when a host has told all that it has. An epoch of which it
// told a part is not among that any more: it was whole there, and what this host has written since
// has taken its place, or nobody tells the rest. What is here of it is in this host's log
// before it is forgotten.
//
// What an exchange is telling is left alone: who is under way is not always who says that it
// has told all.
func (m *Mesh) settlePastLocked(from peer.ID) {
	own := m.ownEpochLocked()
	for n, e := range m.past.epochs {
		switch {
		case n == m.own.epoch || !e.partial() || !e.tellers[from] || m.past.telling[n] > 0:
		case own == nil || e.untaken() && !e.keptBy(own):
			poke(m.reroll)
		case e.complete():
			clear(e.early)
			e.waiting = 0
		default:
			delete(m.past.epochs, n)
		}
	}
}
