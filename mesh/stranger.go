package mesh

import (
	"crypto/ed25519"
	"time"

	"weft/peer"
)

// Whoever has the secret can make up identities, and sign logs for them. So a host
// that this one has only been told of is a stranger, whatever its log says, gossip
// holds alive or other members hold. Two things make it more: that it shows that it is
// there, by a session of its own or a packet through its tunnel; or that the address
// space of the mesh rests on it (Rely). The second is for the dead: who joins later
// never meets them, and must keep what they gave and owned.
//
// Strangers together have a share of the places and of the bytes. It is large enough
// for an honest newcomer, to which all are strangers for some seconds: a mesh of 2,000
// hosts, of 64 KiB each. Beyond, strangers make room, and only they:
//
//   - For a host that comes itself, one goes: of those without a log the one known
//     longest, else of all.
//   - For one whose log comes, one without a log goes, or one that has had its time to
//     be met. For one that only gossip tells of, one without a log that has had its time.
//   - A grave is no stranger, whoever it is of, and goes after strangers without a log that
//     have had their time, and before others: for every host, but for strangers only while they
//     have less than their share. So made-up ones leave the latest graves half of the places, less
//     those that hosts have. Those of strangers go first, then the oldest.
//   - For bytes, what is not in effect of the log that has most of it goes, then the
//     biggest log; never for a bigger one.
//
// While that happens, strangers count in no root and are not told on: two hosts that
// keep different ones would exchange logs for ever, and who tells of them would be
// taken for the one that made them up.
type strangers struct {
	number int // authors
	bytes  int // of their entries

	proven    map[peer.ID]bool // authors that have shown that they are there, and this host
	relied    map[peer.ID]bool // by the address space
	restoring bool             // what comes is from this host's disk, where it was within the bounds
	age       uint64           // in strangerTurn
	pressed   uint64           // until that age there has been no room for all
}

const (
	maxStrangers     = maxAuthors / 2
	maxStrangerBytes = maxHeld / 4

	// maxRelied leaves places to hosts that are there: a member can give addresses
	// away to hosts that it has made up.
	maxRelied = maxAuthors * 3 / 4

	// strangerTurn is how often the strangers grow older. After strangerTurns of them one
	// has had its time: its tunnel was made, and its join port tried.
	strangerTurn  = 30 * time.Second
	strangerTurns = 2
)

// word is what an author is known by.
type word int

const (
	byGossip word = iota // memberlist tells of it
	byLog                // its log came, from whomever
	byItself             // it is talking to this host
)

func newStrangers() strangers {
	return strangers{proven: make(map[peer.ID]bool), relied: make(map[peer.ID]bool)}
}

// unmet tells that an author is, or would be, a stranger.
func (s *strangers) unmet(id peer.ID) bool { return !s.proven[id] && !s.relied[id] }

// full tells that there was no room for all strangers a moment ago.
func (s *strangers) full() bool { return s.age < s.pressed }

// place makes an identity known that has proven its admission. Another one may have to
// go for it.
func (r *replica) place(pub ed25519.PublicKey, w word, ch *change) error {
	err := r.learn(pub)
	if err == nil {
		return nil
	}
	victim, ok := r.yielding(w)
	bareOld := ok && r.authors[victim].held == 0 && r.old(r.authors[victim])
	if !bareOld && r.mayStand(peer.IDOf(pub)) {
		if id, found := r.firstGrave(); found {
			r.forget(id, ch)
			ch.opened = append(ch.opened, id)
			r.add(pub)
			return nil
		}
	}
	if r.press(); !ok {
		return err
	}
	r.lose(victim, ch)
	r.add(pub)
	return nil
}

// old tells of a stranger that has had its time.
func (r *replica) old(a *author) bool { return a.born+strangerTurns <= r.strangers.age }

// firstGrave is the one that goes first.
func (r *replica) firstGrave() (id peer.ID, ok bool) {
	var best *author
	for x, a := range r.authors {
		if a.buried() && (best == nil || a.unmet && !best.unmet || a.unmet == best.unmet && a.born < best.born) {
			id, best = x, a
		}
	}
	return id, best != nil
}

// mayStand tells that a host would be no stranger, or within the share of those.
func (r *replica) mayStand(id peer.ID) bool {
	return !r.strangers.unmet(id) || r.strangers.restoring || r.strangers.number < maxStrangers
}

// yielding picks the stranger that goes for one that is known by w.
func (r *replica) yielding(w word) (victim peer.ID, ok bool) {
	var best *author
	for id, a := range r.authors {
		bare, old := a.held == 0, r.old(a)
		switch {
		case !a.strange,
			w == byLog && !bare && !old,
			w == byGossip && !(bare && old):
			continue
		}
		if best == nil || bare && best.held > 0 || bare == (best.held == 0) && a.born < best.born {
			victim, best = id, a
		}
	}
	return victim, best != nil
}

// makeRoom makes room for n more bytes of an author's.
func (r *replica) makeRoom(a *author, n int, ch *change) error {
	for r.held+n > maxHeld || a.strange && !r.strangers.restoring && r.strangers.bytes+n > maxStrangerBytes {
		r.press()
		bound, err := 0, errFull
		if a.strange {
			bound, err = a.held+n, errStranger
		}
		var victim peer.ID
		idle, most := 0, bound
		for id, x := range r.authors {
			if !x.strange || x == a {
				continue
			}
			switch unused := x.idle(); {
			case unused > max(idle, bound):
				victim, idle = id, unused
			case idle == 0 && x.held > most:
				victim, most = id, x.held
			}
		}
		switch {
		case idle > 0:
			r.dropIdle(r.authors[victim], ch)
			r.stand(victim)
		case most > bound:
			r.lose(victim, ch)
		default:
			return err
		}
	}
	return nil
}

// idle is how many bytes of an author are not in effect.
func (a *author) idle() (n int) {
	if a.older != nil {
		n += a.older.bytes + a.older.waiting
	}
	for _, ep := range a.next {
		n += ep.bytes + ep.waiting
	}
	if a.current != nil {
		n += a.current.waiting
	}
	return n
}

func (r *replica) dropIdle(a *author, ch *change) {
	r.dropOlder(a)
	for _, ep := range a.next {
		r.drop(a, ep, ch)
	}
	a.next = nil
	if ep := a.current; ep != nil {
		r.hold(a, -ep.waiting)
		ep.waiting = 0
		clear(ep.early)
	}
}

// lose forgets a stranger.
func (r *replica) lose(id peer.ID, ch *change) {
	r.forget(id, ch)
	ch.lost = append(ch.lost, id)
}

func (r *replica) press() {
	if !r.strangers.full() {
		r.summed = nil
	}
	r.strangers.pressed = r.strangers.age + strangerTurns
}

// grow lets time pass for strangers: strangerTurn.
func (r *replica) grow() {
	was := r.strangers.full()
	if r.strangers.age++; was && !r.strangers.full() {
		r.summed = nil
	}
}

// meet notes that a known host has shown that it is there.
func (r *replica) meet(id peer.ID) {
	r.strangers.proven[id] = true
	r.stand(id)
}

// rely says which hosts the address space rests on: all of them. Of those that were
// never met only so many count, first those that have counted.
func (r *replica) rely(ids []peer.ID) {
	s := &r.strangers
	now, n := make(map[peer.ID]bool, len(ids)), 0
	for _, before := range []bool{true, false} {
		for _, id := range ids {
			if now[id] || before && !s.relied[id] || !s.proven[id] && n >= maxRelied {
				continue
			}
			if now[id] = true; !s.proven[id] {
				n++
			}
		}
	}
	s.relied = now
	for id := range r.authors {
		r.stand(id)
	}
}

// stand looks again at whether a known host is a stranger: a grave is none.
func (r *replica) stand(id peer.ID) {
	a := r.authors[id]
	if a == nil || a.strange == (r.strangers.unmet(id) && !a.buried()) {
		return
	}
	s := &r.strangers
	if a.strange = !a.strange; a.strange {
		a.born = s.age
		s.number, s.bytes = s.number+1, s.bytes+a.held
	} else {
		s.number, s.bytes = s.number-1, s.bytes-a.held
	}
	if s.full() {
		r.summed = nil
	}
}

// Rely says which hosts the address space of the mesh rests on: who owns some of it,
// has given what others own, or has decided about it. Their logs are kept although this
// host may never meet them. ids are all of them; a later call replaces an earlier one.
func (m *Mesh) Rely(ids []peer.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs.rely(ids)
}

// meetLocked notes that a host has shown that it is there: in a session, or through
// its tunnel, which takes from it its own addresses only.
func (m *Mesh) meetLocked(id peer.ID) {
	a := m.logs.authors[id]
	if a == nil || m.logs.strangers.proven[id] {
		return
	}
	m.logs.meet(id)
	if a.current != nil && a.current.fork != nil {
		m.stale = m.noticeForkLocked(id) || m.stale
		poke(m.look)
	}
}
