package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weft/peer"
)

// Why something that a member sent was not taken.
const (
	reasonMalformed  = "malformed"  // cannot be read
	reasonInvalid    = "invalid"    // not signed by its author, or not admitted
	reasonQuota      = "quota"      // over what one author may make the others keep
	reasonFork       = "fork"       // its author wrote one number twice
	reasonPayload    = "payload"    // signed, and means nothing or what its author may not say
	reasonWithdrawal = "withdrawal" // a new epoch without grants that its author has made
	reasonFull       = "full"       // this host keeps no more
	reasonFlood      = "flood"      // more than one member may send
	reasonSlow       = "slow"       // an exchange of logs that does not get on
	reasonSilent     = "silent"     // one that was cut while others waited: now and then, a lost connection
	reasonKey        = "key"        // its record names another host's WireGuard key
	reasonStranger   = "stranger"   // it brought what a host has written that nobody here has met
)

var (
	errFlood = errors.New("more datagrams than one member may send")
	errFull  = errors.New("this host holds all that it can")

	errCrowded = errors.New("this host knows as many hosts as it can")
)

const (
	maxOffenders = 1024 // remembered; beyond, the one that has been quiet longest goes
	offenceLog   = time.Minute
	penalty      = 20 // datagrams that a rejected one costs its sender

	// All offenders and reasons together are logged so often at most: a burst, then one
	// line in a while.
	lineBurst = 20
	lineEvery = 6 * time.Second
)

// Rejection tells how often something of a member was not taken.
type Rejection struct {
	Peer   peer.ID // who sent or wrote it; zero: several, or not known
	Reason string  // one of a fixed set of words
	Count  uint64
}

// rejections counts them, and keeps the log readable.
type rejections struct {
	mu       sync.Mutex // guards the fields below
	all      map[offence]*offended
	lines    float64   // that may be logged
	linesAt  time.Time // when that was so; zero: never
	unlogged uint64    // since the last line
}

type offence struct {
	peer   peer.ID
	reason string
}

type offended struct {
	count  uint64
	last   time.Time
	logged time.Time
}

// add counts one and says whether it is time to log it, and how many have not been,
// whoever's, since the last that was.
func (r *rejections) add(o offence, now time.Time) (count, unlogged uint64, log bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.all[o]
	if x == nil {
		if r.all == nil {
			r.all = make(map[offence]*offended)
		}
		if len(r.all) >= maxOffenders { // who has been quiet longest makes room
			oldest, first := offence{}, true
			for k, v := range r.all {
				if first || v.last.Before(r.all[oldest].last) {
					oldest, first = k, false
				}
			}
			delete(r.all, oldest)
		}
		x = &offended{}
		r.all[o] = x
	}
	x.count++
	x.last = now
	if x.logged.IsZero() || now.Sub(x.logged) >= offenceLog {
		log = r.lineLocked(now)
	}
	if !log {
		r.unlogged++
		return x.count, 0, false
	}
	x.logged, unlogged, r.unlogged = now, r.unlogged, 0
	return x.count, unlogged, true
}

// lineLocked takes a line of the log if there is one.
func (r *rejections) lineLocked(now time.Time) bool {
	r.lines += float64(now.Sub(r.linesAt)) / float64(lineEvery)
	if r.linesAt.IsZero() || r.lines > lineBurst {
		r.lines = lineBurst
	}
	if r.linesAt = now; r.lines < 1 {
		return false
	}
	r.lines--
	return true
}

// Rejections tells what was not taken since New, by member and reason, sorted.
// At most some thousand.
func (m *Mesh) Rejections() []Rejection {
	m.rejected.mu.Lock()
	defer m.rejected.mu.Unlock()
	out := make([]Rejection, 0, len(m.rejected.all))
	for o, x := range m.rejected.all {
		out = append(out, Rejection{Peer: o.peer, Reason: o.reason, Count: x.count})
	}
	slices.SortFunc(out, func(a, b Rejection) int { return cmp.Or(a.Peer.Compare(b.Peer), cmp.Compare(a.Reason, b.Reason)) })
	return out
}

// reject counts what a member sent or wrote and names it in the log, at most once
// a minute per member and reason. It may be called with any lock held but that of
// the rejections.
func (m *Mesh) reject(who peer.ID, reason string, err error) {
	if n, unlogged, log := m.rejected.add(offence{who, reason}, time.Now()); log {
		m.log.Warn("rejected", "peer", who, "reason", reason, "count", n, "unlogged", unlogged, "err", err)
	}
}

// RejectKey is told by the router which host names another's WireGuard key. It is
// counted, and named if this host has met it: the names of strangers cost nothing.
func (m *Mesh) RejectKey(who peer.ID, err error) {
	m.mu.Lock()
	strange := m.logs.strangers.unmet(who)
	m.mu.Unlock()
	if strange {
		who = peer.ID{}
	}
	m.reject(who, reasonKey, err)
}

// rejectSent is reject for a sender that is proven, by its session or its address:
// what it may send shrinks. Nobody else's may: an entry can be replayed.
func (m *Mesh) rejectSent(from peer.ID, reason string, err error) {
	m.reject(from, reason, err)
	m.senders.charge(m.controlAddr(from), penalty, time.Now())
}

// blame says whose fault what comes may be: who brought it, zero for the disk, and
// which of its authors are strangers.
type blame struct {
	from    peer.ID
	strange map[peer.ID]bool
}

// rejectEntry finds out whose fault it is. An entry that its author has signed
// is the author's, if that is there; any other is the sender's. What this host has no
// room for is nobody's.
func (m *Mesh) rejectEntry(e Entry, b blame, err error) {
	switch {
	case errors.Is(err, errUnknownAuthor):
		m.count.add("entry_before_its_begin") // usual
	case errors.Is(err, errQuota):
		m.rejectAuthor(e.Author, b, reasonQuota, err)
		if b.strange[e.Author] && b.from != (peer.ID{}) { // no host that is honest has it to hand on
			m.senders.charge(m.controlAddr(b.from), penalty, time.Now())
		}
	case errors.Is(err, errFork):
		m.rejectAuthor(e.Author, b, reasonFork, err)
	case errors.Is(err, errWithdrawal):
		m.rejectAuthor(e.Author, b, reasonWithdrawal, err)
	case errors.Is(err, errStranger):
		m.rejectAuthor(e.Author, b, reasonStranger, err)
	case errors.Is(err, errFull), errors.Is(err, errCrowded):
		m.reject(peer.ID{}, reasonFull, err)
	default:
		m.rejectSent(b.from, reasonInvalid, err)
	}
	if b.from == e.Author {
		m.senders.charge(m.controlAddr(b.from), 1, time.Now())
	}
}

// rejectAuthor names the author of what it has signed; but the names of strangers cost
// nothing, and so who brought it is named for them, and charged a little: it may be an
// honest host that hands on what it holds.
func (m *Mesh) rejectAuthor(author peer.ID, b blame, reason string, err error) {
	switch {
	case !b.strange[author]:
		m.reject(author, reason, err)
	case b.from != (peer.ID{}): // from the disk it was named when it came
		m.reject(b.from, reasonStranger, fmt.Errorf("of %v: %w", author, err))
		m.senders.charge(m.controlAddr(b.from), 1, time.Now())
	}
}
