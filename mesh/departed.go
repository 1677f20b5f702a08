package mesh

import (
	"cmp"
	"time"

	"weft/peer"
)

// A host that was reset has signed its departure, at the end of its log. Its
// grants may still be needed, for as long as others have not seen those of whoever
// took its space; after departKeep the log is removed here. What stays is that one
// entry, so that a host which was away all the time and still has the log learns of
// the departure; after graveKeep that goes, too, or before if others need its place
// (stranger.go). Departed hosts do not count in a root, so that hosts which have and
// have not removed a log yet agree.
//
// A departure is never taken back. An author that goes on from a state of before it, put
// back from a backup, opens a higher epoch that does not know of it. That takes effect, with
// the departure behind it, and does not count in a root either: so those that know of the
// departure hold something else than the author and those that do not, and tell them. The
// author opens an epoch with it then, and tells its operator.
//
// Both times are counted from when this router learnt of it, by the monotonic
// clock: a router that is started often keeps it longer, which does no harm.
const (
	departKeep = 24 * time.Hour
	graveKeep  = 30 * 24 * time.Hour
	buryEvery  = 10 * time.Minute
)

// departure is the entry by which the author has left for good, if it has.
func (a *author) departure() *Entry {
	if a.current == nil {
		return nil
	}
	return a.current.departed
}

// leaves is the author's departure as far as anything here tells, also if what has taken
// effect does not know of it.
func (a *author) leaves() *Entry {
	if e := cmp.Or(a.gone, a.departure(), a.lone); e != nil {
		return e
	}
	for _, ep := range append([]*epoch{a.older}, a.next...) {
		if ep != nil && ep.departed != nil {
			return ep.departed
		}
	}
	return nil
}

// rank puts departed authors first, and strangers last: who is told of both takes what
// others rest on while it has room.
func (a *author) rank() int {
	switch {
	case a.gone != nil || a.departure() != nil:
		return 0
	case !a.strange:
		return 1
	}
	return 2
}

// bury removes the log of a departed author but for its departure.
func (r *replica) bury(a *author, departure Entry, ch *change) {
	for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
		r.drop(a, ep, ch)
	}
	r.setLone(a, nil, ch)
	a.current, a.older, a.next, a.gone = nil, nil, nil, &departure
	a.unmet, a.born = a.strange, r.strangers.age
	r.summed = nil
	r.hold(a, len(departure.raw))
	r.stand(departure.Author)
	ch.put = append(ch.put, departure)
}

// buried tells that of an author nothing but its departure is kept.
func (a *author) buried() bool { return a.gone != nil && len(a.next) == 0 }

// unbury forgets a departed author.
func (r *replica) unbury(id peer.ID, ch *change) {
	if a := r.authors[id]; a != nil && a.gone != nil {
		r.forget(id, ch)
	}
}

// loadDepartures takes those on the disk that are graves, since nothing of their epochs is there,
// and those that were kept beside logs. The disk is this host's: they were proven when they were
// written. Logs are loaded after them.
func (m *Mesh) loadDepartures(es, lone []Entry) {
	type epoch struct {
		author peer.ID
		number uint64
	}
	begun := make(map[epoch]bool)
	for _, e := range es {
		if e.Kind == KindBegin {
			begun[epoch{e.Author, e.Epoch}] = true
		}
	}
	for _, e := range es {
		if e.Kind == KindDepart && !begun[epoch{e.Author, e.Epoch}] {
			m.logs.restore(&author{gone: &e})
		}
	}
	for _, e := range lone {
		m.logs.restore(&author{lone: &e})
	}
}

// loadCutOff finds departures on the disk that what was loaded of their logs does not reach: some
// of that is damaged.
func (m *Mesh) loadCutOff(es []Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch := &change{}
	for _, e := range es {
		if e.Author != m.id {
			m.logs.takeDeparture(e, ch)
		}
	}
	m.storeLocked(ch)
}

// restore takes an author from the disk of whom a departure is known.
func (r *replica) restore(a *author) {
	e := cmp.Or(a.gone, a.lone)
	if r.authors[e.Author] != nil {
		return
	}
	a.strange = !a.buried() && r.strangers.unmet(e.Author)
	if r.authors[e.Author] = a; a.strange {
		r.strangers.number++
	}
	r.hold(a, len(e.raw))
}

// takeDeparture is for a departure that came without the log before it: whoever
// sent it in an exchange has removed that log already, or keeps it back, or has an epoch
// of later. The log is kept for as long as that of any departed host, since the rest of it
// may come.
func (r *replica) takeDeparture(e Entry, ch *change) bool {
	a := r.authors[e.Author]
	if e.Kind != KindDepart || a == nil || a.departure() != nil || a.gone != nil || a.lone != nil {
		return false
	}
	r.setLone(a, &e, ch)
	a.said, r.summed = nil, nil
	return true
}

// setLone keeps a departure beside the log, whatever there is of that; on the disk, too, under a
// key of its own: as an entry it would be a grave there.
func (r *replica) setLone(a *author, e *Entry, ch *change) {
	if a.lone == e {
		return
	}
	id := cmp.Or(a.lone, e).Author
	if _, ok := ch.lone[id]; !ok {
		if ch.lone == nil {
			ch.lone = make(map[peer.ID]bool)
		}
		ch.lone[id] = a.lone != nil
	}
	if a.lone != nil {
		r.hold(a, -len(a.lone.raw))
	}
	if a.lone = e; e != nil {
		r.hold(a, len(e.raw))
	}
}

// settleDepartures looks at departures that came in an exchange which is over.
func (m *Mesh) settleDepartures(es []Entry) {
	changed, ch := false, &change{}
	m.mu.Lock()
	for _, e := range es {
		a := m.logs.authors[e.Author]
		if a == nil || e.Author == m.id {
			continue
		}
		// Only what was proven waits beyond a gap.
		if ep := a.find(e.Epoch); ep == nil || string(ep.early[e.Seq].raw) != string(e.raw) {
			continue
		}
		changed = m.logs.takeDeparture(e, ch) || changed
	}
	m.storeLocked(ch)
	if changed {
		m.publishLocked()
	}
	m.mu.Unlock()
	if changed {
		m.o.OnChange()
	}
}

// buryLocked removes what has had its time, and reports whether anything changed.
func (m *Mesh) buryLocked(now time.Time) bool {
	ch := &change{}
	for id, a := range m.logs.authors {
		if id == m.id {
			continue
		}
		d := a.departure()
		if d == nil {
			d = a.lone
		}
		if d == nil && a.gone == nil {
			delete(m.departed, id)
			continue
		}
		since, ok := m.departed[id]
		switch {
		case !ok:
			m.departed[id] = now
		case a.gone == nil && d != nil && now.Sub(since) >= departKeep && !m.o.Rests(id):
			m.logs.bury(a, *d, ch)
			m.forgetHostLocked(id)
			m.count.add("departed_logs_removed")
			m.log.Info("log of a departed host removed", "peer", id)
		case a.gone != nil && now.Sub(since) >= graveKeep:
			m.logs.unbury(id, ch)
			delete(m.departed, id)
		}
	}
	m.storeLocked(ch)
	return !ch.empty()
}

// forgetHostLocked forgets a departed host's record.
func (m *Mesh) forgetHostLocked(id peer.ID) {
	if h := m.hosts[id]; h != nil {
		delete(m.hosts, id)
		m.dirtyLocked(bucketMesh, remembered(id), nil)
	}
}
