package mesh

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/peer"
)

// An exchange of logs may take all that the way between two hosts carries, and several
// beside each other none gets on. So two hosts have one at a time, whoever has begun it
// and what for. A host serves so many at a time; others wait for a moment before they
// are sent away. Of those that wait the one whose address has the fewest places is next,
// and of those with as many the one that has asked first, also if it was sent away since.
// When two begin at each other at the same moment, the exchange of the one with the lower
// ID goes first. Each holds one message of the other's in memory, of 256 KiB at most, and
// what it brings waits for the disk (drain).
const (
	joiners    = 32 // joins that this host has begun and that exchange logs or make a tunnel
	served     = 8  // exchanges that are served through the tunnel; and as many on the underlay
	servedEach = 4  // … of one address there: it may have any number of identities
	servedJoin = 4  // joins that are served through the tunnel, beside those: they take no place of what only compares logs
	turnWait   = linkPatience / 2
	syncWait   = 2 * time.Second // of who only compares logs: else it asks somebody else
	cutAfter   = 3 * time.Second
	cutSilent  = linkPatience / 2     // … that says nothing
	cutOwn     = turnWait + 2*cutWait // … that this host has begun: its turn there may be to come
	cutWait    = time.Second          // … until an exchange has ended that was cut
	turnMemory = time.Minute          // for which it counts that one has asked, unless it asks again
	maxTurns   = 1024                 // that are remembered
	brokeWait  = 5 * time.Second
	brokeMost  = 6 // that count
)

// talks are the exchanges under way.
type talks struct {
	self peer.ID

	mu      sync.Mutex // guards the fields below, and those of lanes and talks
	now     map[peer.ID][]*talk
	waiting []*talk // in the order in which they have asked; see startLocked
	asked   map[peer.ID]turn
	broke   map[peer.ID]broken

	joins, inside, insideJoins, outside lane
}

// turn is when one who has not had its turn has asked for it.
type turn struct{ first, last time.Time }

// broken is how many of this host's own joins there have not come to their end, one after
// another: each has the next wait as if it had asked brokeWait later, so that those who
// answer and say nothing do not take turns with those who would.
type broken struct {
	n    int
	last time.Time
}

// lane bounds exchanges of one sort.
type lane struct {
	most, each int // in all, and of one address
	n          int
	from       map[netip.Addr]int
}

func newLane(most, each int) lane {
	return lane{most: most, each: each, from: make(map[netip.Addr]int)}
}

// talk is an exchange with a host, under way or to be.
type talk struct {
	all     *talks
	id      peer.ID
	start   uint64 // its boot nonce
	mine    bool   // this host has begun it
	heard   bool   // … and the other side goes on with it
	done    bool   // … and it has come to its end
	silent  bool   // it was cut for that
	lane    *lane
	from    netip.Addr
	asked   time.Time
	started chan struct{} // closed when it is under way
	cut     func()        // ends its session
	since   time.Time     // it is under way
	moved   *progress
}

func newTalks(self peer.ID) *talks {
	return &talks{
		self: self, now: make(map[peer.ID][]*talk), asked: make(map[peer.ID]turn), broke: make(map[peer.ID]broken),
		joins: newLane(joiners, joiners), inside: newLane(served, served), insideJoins: newLane(servedJoin, servedJoin), outside: newLane(served, servedEach),
	}
}

// begun is a talk of this host's own.
func (t *talks) begun(l *link) *talk {
	k := t.of(l)
	k.mine = true
	if l.purpose == purposeJoin {
		k.lane = &t.joins
	}
	return k
}

// serving is a talk that another host has begun.
func (t *talks) serving(l *link) *talk {
	k := t.of(l)
	switch {
	case !l.inside:
		k.lane = &t.outside
	case l.purpose == purposeJoin:
		k.lane = &t.insideJoins
	default:
		k.lane = &t.inside
	}
	return k
}

func (t *talks) of(l *link) *talk {
	k := &talk{
		all: t, id: l.id, start: l.rec.BootNonce, from: l.source(), started: make(chan struct{}),
		cut: func() { _ = l.s.Close() }, moved: new(progress),
	}
	l.pace.told = k.moved
	return k
}

// with tells that there is an exchange with a host under way.
func (t *talks) with(id peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.now[id]) > 0
}

// count tells how many are under way, and how many wait.
func (t *talks) count() (now, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ks := range t.now {
		now += len(ks)
	}
	return now, len(t.waiting)
}

// begin waits for k's turn, and reports whether it has come. Then end must be called.
func (k *talk) begin(ctx context.Context, wait time.Duration) bool {
	t := k.all
	t.mu.Lock()
	t.askLocked(k, time.Now())
	t.startLocked()
	t.mu.Unlock()
	if !k.mine && k.cutOthers(k.ends) {
		wait = max(wait, cutWait)
	}
	if k.waits(ctx, wait/2) {
		return true
	}
	if wait > 0 {
		k.cutSlowest()
	}
	if k.waits(ctx, wait-wait/2) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, k); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		return false
	}
	return true // in this moment
}

// ends tells that by asking for k its host shows that another exchange with it is over. Who
// begins one has none, or its own turns would have had it wait: it has started anew, or the
// connection has broken, or come to nothing since its address changed, and this side has
// not noticed. One that this host has begun may have crossed k on the way, and goes on then.
func (k *talk) ends(o *talk) bool {
	if o == k || !o.mine || o.start != k.start {
		return o != k
	}
	silent := cutAfter // for which it may still wait for its turn there
	if o.heard {
		silent = cutWait
	}
	_, idle := o.moved.since(o.since)
	return idle >= silent
}

// waits reports whether k's turn comes in that time.
func (k *talk) waits(ctx context.Context, d time.Duration) bool {
	patience := time.NewTimer(d)
	defer patience.Stop()
	select {
	case <-k.started:
		return true
	default:
	}
	select {
	case <-k.started:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	return false
}

// cutOthers ends the stale ones of the exchanges with k's host, and reports whether
// there are any.
func (k *talk) cutOthers(stale func(*talk) bool) bool {
	k.all.mu.Lock()
	ks := slices.DeleteFunc(slices.Clone(k.all.now[k.id]), func(o *talk) bool { return !stale(o) })
	k.all.mu.Unlock()
	for _, o := range ks {
		o.cut()
	}
	return len(ks) > 0
}

// cutSlowest ends, if that gives k a place, the exchange that has hardly moved for as long
// as it has had one, or says nothing any more however much it has moved before: a few
// members would otherwise have all places.
func (k *talk) cutSlowest() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	if !slices.Contains(k.all.waiting, k) || !k.all.freeLocked(k) || k.lane == nil || k.lane.n < k.lane.most || k.beside() >= k.lane.each {
		return
	}
	var worst *talk
	var most time.Duration // that it has been silent; else
	least := float64(slowest)
	for _, ks := range k.all.now {
		for _, o := range ks {
			if o.lane != k.lane || time.Since(o.since) < cutAfter {
				continue
			}
			rate, idle := o.moved.since(o.since)
			switch {
			case idle > most && (idle >= cutOwn || idle >= cutSilent && !o.mine):
				worst, most = o, idle
			case most == 0 && rate < least && !o.mine:
				worst, least = o, rate
			}
		}
	}
	if worst != nil {
		worst.silent = most > 0
		worst.cut()
	}
}

// wasSilent tells that it was cut for that.
func (k *talk) wasSilent() bool {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	return k.silent
}

// wait is for how long the client of a session waits. Who only compares logs asks somebody
// else, if there is an exchange with it already; for a place it waits a little, so that
// it has one when it is its turn, whoever else wants one.
func (k *talk) wait(l *link) time.Duration {
	switch {
	case l.purpose != purposeSync:
		return turnWait
	case k.all.with(k.id):
		return 0
	}
	return syncWait
}

// end may be called for one that has not begun, too.
func (k *talk) end() {
	t := k.all
	t.mu.Lock()
	defer t.mu.Unlock()
	ks := t.now[k.id]
	i := slices.Index(ks, k)
	if i < 0 {
		return
	}
	if t.now[k.id] = slices.Delete(ks, i, i+1); len(ks) == 1 {
		delete(t.now, k.id)
	}
	if k.lane == &t.joins {
		switch {
		case k.done:
			delete(t.broke, k.id)
		case len(t.broke) < maxTurns || t.broke[k.id].n > 0:
			t.broke[k.id] = broken{min(t.broke[k.id].n+1, brokeMost), time.Now()}
		}
	}
	if k.lane != nil {
		k.lane.n--
		if k.lane.from[k.from]--; k.lane.from[k.from] == 0 {
			delete(k.lane.from, k.from)
		}
	}
	t.startLocked()
}

// goesOn notes that the other side has answered.
func (k *talk) goesOn() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	k.heard = true
	k.all.startLocked()
}

// over notes that it has come to its end.
func (k *talk) over() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	k.done = true
}

func (t *talks) askLocked(k *talk, now time.Time) {
	for id, x := range t.asked {
		if now.Sub(x.last) >= turnMemory {
			delete(t.asked, id)
		}
	}
	for id, x := range t.broke {
		if now.Sub(x.last) >= turnMemory {
			delete(t.broke, id)
		}
	}
	x, ok := t.asked[k.id]
	if !ok {
		x.first = now
		if k.mine {
			x.first = now.Add(time.Duration(t.broke[k.id].n) * brokeWait)
		}
	}
	if k.asked, x.last = x.first, now; ok || len(t.asked) < maxTurns {
		t.asked[k.id] = x
	}
	i, _ := slices.BinarySearchFunc(t.waiting, k, func(a, b *talk) int {
		if a.asked.After(b.asked) {
			return 1
		}
		return -1
	})
	t.waiting = slices.Insert(t.waiting, i, k)
}

// startLocked starts all that may: who has the fewest places at its address first, and of
// those with as many who has asked first. Identities cost nothing, addresses do.
func (t *talks) startLocked() {
	for {
		next := -1
		for i, k := range t.waiting {
			if t.mayLocked(k) && (next < 0 || k.beside() < t.waiting[next].beside()) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		k := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		k.since = time.Now()
		if t.now[k.id] = append(t.now[k.id], k); k.lane != nil {
			k.lane.n++
			k.lane.from[k.from]++
		}
		delete(t.asked, k.id)
		close(k.started)
	}
}

// beside is how many places its address has.
func (k *talk) beside() int {
	if k.lane == nil {
		return 0
	}
	return k.lane.from[k.from]
}

// mayLocked tells that there is a place for k, and nothing that it would be beside.
func (t *talks) mayLocked(k *talk) bool {
	return t.freeLocked(k) && (k.lane == nil || k.lane.n < k.lane.most && k.beside() < k.lane.each)
}

// freeLocked tells that nothing is under way with the other host that k would be beside.
func (t *talks) freeLocked(k *talk) bool {
	for _, o := range t.now[k.id] {
		if k.mine || !o.mine || o.heard || k.id.Compare(t.self) > 0 {
			return false
		}
	}
	return true
}
