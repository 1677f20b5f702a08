package mesh

import (
	"cmp"
	"errors"
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
)

// Rejection tells how often something of a member was not taken.
type Rejection struct {
	Peer   peer.ID // who sent or wrote it; zero: several, or not known
	Reason string  // one of a fixed set of words
	Count  uint64
}

// rejections counts them, and keeps the log readable.
type rejections struct {
	mu  sync.Mutex // guards all
	all map[offence]*offended
}

type offence struct {
	peer   peer.ID
	reason string
}

type offended struct {
	count  uint64
	logged time.Time
}

// add counts one and says whether it is time to log it.
func (r *rejections) add(o offence, now time.Time) (count uint64, log bool) {
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
				if first || v.logged.Before(r.all[oldest].logged) {
					oldest, first = k, false
				}
			}
			delete(r.all, oldest)
		}
		x = &offended{}
		r.all[o] = x
	}
	x.count++
	if x.logged.IsZero() || now.Sub(x.logged) >= offenceLog {
		x.logged, log = now, true
	}
	return x.count, log
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
	now := time.Now()
	if n, log := m.rejected.add(offence{who, reason}, now); log {
		m.log.Warn("rejected", "peer", who, "reason", reason, "count", n, "err", err)
	}
}

// rejectSent is reject for a sender that is proven, by its session or its address:
// what it may send shrinks. Nobody else's may: an entry can be replayed.
func (m *Mesh) rejectSent(from peer.ID, reason string, err error) {
	m.reject(from, reason, err)
	m.senders.charge(m.controlAddr(from), penalty, time.Now())
}

// rejectEntry finds out whose fault it is. An entry that its author has signed
// is the author's; any other is the sender's. What this host has no room for is
// nobody's.
func (m *Mesh) rejectEntry(e Entry, from peer.ID, err error) {
	switch {
	case errors.Is(err, errUnknownAuthor):
		m.count.add("entry_before_its_begin") // usual
	case errors.Is(err, errQuota):
		m.reject(e.Author, reasonQuota, err)
	case errors.Is(err, errFork):
		m.reject(e.Author, reasonFork, err)
	case errors.Is(err, errWithdrawal):
		m.reject(e.Author, reasonWithdrawal, err)
	case errors.Is(err, errFull), errors.Is(err, errCrowded):
		m.reject(peer.ID{}, reasonFull, err)
	default:
		m.rejectSent(from, reasonInvalid, err)
	}
	if from == e.Author {
		m.senders.charge(m.controlAddr(from), 1, time.Now())
	}
}
