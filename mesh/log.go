package mesh

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"

	"weft/peer"
)

// MaxSnapshot is how many entries a log may begin with, and so what it may hold that is
// never withdrawn.
const MaxSnapshot = maxLogEntries / 2

// Bounds of what one member can make the others keep. An author's whole state is
// a snapshot of at most half of it, so that there is room to write on.
const (
	maxAuthors    = 4096
	maxLogEntries = 8192    // of one epoch
	maxLogBytes   = 4 << 20 // of one epoch, raw
	maxEarly      = 256     // entries beyond a gap, of one epoch
	maxNext       = 4       // epochs of one author that are not in effect

	// maxHeld bounds the bytes of all logs together. A mesh of 1,000 hosts with
	// 100 containers each has a tenth of it.
	maxHeld = 512 << 20
)

// Why an entry was not taken. Each is a counter too.
var (
	errUnknownAuthor = errors.New("its author is not known here")
	errQuota         = errors.New("over its author's quota")
	errFork          = errors.New("its author wrote this sequence twice")
	errStranger      = errors.New("there is no more room for what hosts have written that nobody here has met")
	errWithdrawal    = errors.New("its author has made grants before that this epoch lacks")
)

// replica is what this host holds of all logs: a pure state machine, entries in,
// logs out. It has no clock and does no I/O. In whatever order and however often
// entries come, the outcome is the same, as long as the bounds on what waits
// (maxEarly, maxNext) are not met; what they make it forget comes again.
//
// Per author the highest epoch whose snapshot is complete is the effective one.
// Older ones are dropped then. Of an epoch the entries from 1 on without a gap count.
//
// A grant is never withdrawn, so an epoch that lacks one which an older epoch has
// does not take effect: its author had an old copy of its state. It is told what
// it has forgotten, and opens an epoch that has it all; see withdrawal.go. Until then both
// are kept, and all grants of both count.
// What becomes of the log of a host that has departed is in departed.go.
//
// Who is kept when there is not room for all is in stranger.go.
type replica struct {
	authors map[peer.ID]*author
	held    int       // bytes of entries, those beyond a gap included
	summed  *[32]byte // root, until something changes

	strangers strangers
}

type author struct {
	key     ed25519.PublicKey // proven to be admitted
	strange bool              // see strangers
	born    uint64            // strangers.age when it was learnt
	held    int               // its part of replica.held
	current *epoch            // effective; nil until one is complete
	next    []*epoch          // higher ones, not complete or lacking grants of a lower one; ascending
	older   *epoch            // a lower one that may have grants which current lacks; not on the disk
	tick    uint64            // counts merges, to tell which of next lies idle
	gone    *Entry            // departed, and the log removed: the entry that says so
	unmet   bool              // it was a stranger when its log was removed
	lone    *Entry            // a departure whose log is not here, or has been followed by an epoch that does not know of it
	said    []Entry           // see replica.said; nil: to be made anew
}

type epoch struct {
	number   uint64
	snapshot uint32  // from its Begin; 0 until that is there
	entries  []Entry // 1 to n; only ever appended to, so that a prefix may be shared
	bytes    int
	sum      [32]byte         // SHA-256 chain over entries
	grants   grantSet         // of entries
	early    map[uint64]Entry // beyond a gap
	waiting  int              // bytes of those
	touched  uint64           // author.tick when an entry came last
	lacking  bool             // found to lack grants; looked at again when one comes
	departed *Entry           // the author's departure, if it is in entries
	fork     *Entry           // another entry of the author's under a number that entries has
}

// change is what a merge did, for the disk and for whoever forwards.
type change struct {
	put []Entry // new in a log
	del []Entry // dropped with their epoch
	at  []int   // of each of del: how many of put came before

	lone map[peer.ID]bool // whose departure beside the log is another now, and whether there was one before

	lost   []peer.ID // strangers that made room
	opened []peer.ID // graves that did
}

func (c *change) drop(es ...Entry) {
	for _, e := range es {
		c.del, c.at = append(c.del, e), append(c.at, len(c.put))
	}
}

func (c *change) empty() bool {
	return len(c.put) == 0 && len(c.del) == 0 && len(c.lone) == 0 && len(c.lost) == 0 && len(c.opened) == 0
}

func newReplica() *replica {
	return &replica{authors: make(map[peer.ID]*author), strangers: newStrangers()}
}

// hold counts n more bytes of an author's.
func (r *replica) hold(a *author, n int) {
	r.held += n
	a.held += n
	if a.strange {
		r.strangers.bytes += n
	}
}

// learn makes an identity known that has proven its admission, if there is a place.
func (r *replica) learn(pub ed25519.PublicKey) error {
	id := peer.IDOf(pub)
	if a := r.authors[id]; a != nil {
		if a.key == nil { // from the disk, by its departure
			a.key = bytes.Clone(pub)
		}
		return nil
	}
	switch {
	case r.strangers.unmet(id) && !r.strangers.restoring && (r.strangers.number >= maxStrangers || len(r.authors) >= maxAuthors):
		return errStranger
	case len(r.authors) >= maxAuthors:
		return errCrowded
	}
	r.add(pub)
	return nil
}

func (r *replica) add(pub ed25519.PublicKey) {
	id := peer.IDOf(pub)
	a := &author{key: bytes.Clone(pub), strange: r.strangers.unmet(id), born: r.strangers.age}
	if r.authors[id] = a; a.strange {
		r.strangers.number++
	}
}

// has tells that merging e would change nothing, without looking at its signature.
func (r *replica) has(e Entry, asked bool) bool {
	a := r.authors[e.Author]
	if a == nil {
		return false
	}
	if a.gone != nil && e.Epoch <= a.gone.Epoch {
		return true
	}
	if a.current != nil && e.Epoch < a.current.number && !asked {
		return true
	}
	ep := a.find(e.Epoch)
	return ep != nil && e.Seq <= uint64(len(ep.entries)) && bytes.Equal(ep.entries[e.Seq-1].raw, e.raw)
}

func (a *author) find(number uint64) *epoch {
	for _, ep := range []*epoch{a.current, a.older} {
		if ep != nil && ep.number == number {
			return ep
		}
	}
	for _, ep := range a.next {
		if ep.number == number {
			return ep
		}
	}
	return nil
}

// merge takes one proven entry. asked says that it came in an exchange: then it
// may be of an epoch below the effective one.
func (r *replica) merge(p proven, asked bool, ch *change) error {
	if p.begin != nil {
		if p.begin.Snapshot > MaxSnapshot {
			return errQuota
		}
		if err := r.place(p.begin.Identity, byLog, ch); err != nil {
			return err
		}
	}
	a := r.authors[p.Author]
	if a == nil {
		return errUnknownAuthor
	}
	if a.gone != nil && p.Epoch <= a.gone.Epoch {
		return nil
	}
	if a.current != nil && p.Epoch < a.current.number && !asked {
		return nil
	}
	if a.buried() && !r.mayStand(p.Author) { // it would be a stranger again
		return errStranger
	}
	if err := r.makeRoom(a, len(p.raw), ch); err != nil {
		return err
	}
	ep := a.find(p.Epoch)
	switch {
	case ep != nil:
	case a.current != nil && p.Epoch < a.current.number:
		r.dropOlder(a) // the latest that is told of; an exchange brings an epoch in one go, mostly
		ep = newEpoch(p.Epoch)
		a.older = ep
	default:
		ep = r.open(a, p.Epoch, ch)
		r.stand(p.Author)
	}
	a.tick++
	ep.touched = a.tick
	before := len(ep.entries)
	size := ep.bytes + ep.waiting
	news := ch
	if ep == a.older { // no news unless it takes effect
		news = &change{}
	}
	err := ep.add(p, news)
	r.hold(a, ep.bytes+ep.waiting-size)
	if errors.Is(err, errFork) {
		r.summed = nil
	}
	if err != nil || len(ep.entries) == before {
		return err
	}
	r.summed, a.said = nil, nil
	return r.fold(a, ch)
}

// open starts to collect a higher epoch. Of those that are not complete the one
// that has lain idle longest goes: a number says nothing, since any of them may
// be the last one that somebody has whole.
func (r *replica) open(a *author, number uint64, ch *change) *epoch {
	if len(a.next) >= maxNext {
		i := 0
		for j, ep := range a.next {
			if ep.touched < a.next[i].touched {
				i = j
			}
		}
		r.drop(a, a.next[i], ch)
		a.next = slices.Delete(a.next, i, i+1)
	}
	ep := newEpoch(number)
	i, _ := slices.BinarySearchFunc(a.next, number, func(e *epoch, n uint64) int { return cmp.Compare(e.number, n) })
	a.next = slices.Insert(a.next, i, ep)
	return ep
}

func newEpoch(number uint64) *epoch {
	return &epoch{number: number, early: make(map[uint64]Entry)}
}

// drop forgets an epoch of an author's, which may be nil.
func (r *replica) drop(a *author, ep *epoch, ch *change) {
	if ep == nil {
		return
	}
	ch.drop(ep.entries...)
	r.hold(a, -ep.bytes-ep.waiting)
	r.summed, a.said = nil, nil
}

// dropOlder forgets the epoch below the effective one.
func (r *replica) dropOlder(a *author) {
	r.drop(a, a.older, &change{})
	a.older = nil
}

// settleOlder forgets the epoch below an author's effective one if it has nothing to add.
func (r *replica) settleOlder(id peer.ID) {
	if a := r.authors[id]; a != nil && a.older != nil && a.older.complete() && a.older.keptBy(a.current) {
		r.dropOlder(a)
	}
}

// forget drops all that is known of an author.
func (r *replica) forget(id peer.ID, ch *change) {
	a := r.authors[id]
	if a == nil {
		return
	}
	for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
		r.drop(a, ep, ch)
	}
	if a.gone != nil {
		ch.drop(*a.gone)
		r.hold(a, -len(a.gone.raw))
	}
	r.setLone(a, nil, ch)
	if a.strange {
		r.strangers.number--
	}
	delete(r.authors, id)
	delete(r.strangers.proven, id)
	r.summed = nil
}

// holds tells that an entry is in a log or stands for one: what is on the disk under its key.
func (r *replica) holds(e Entry) bool {
	a := r.authors[e.Author]
	if a == nil {
		return false
	}
	if a.gone != nil && bytes.Equal(a.gone.raw, e.raw) {
		return true
	}
	ep := a.find(e.Epoch)
	return ep != nil && e.Seq <= uint64(len(ep.entries)) && bytes.Equal(ep.entries[e.Seq-1].raw, e.raw)
}

func (ep *epoch) add(p proven, ch *change) error {
	n := uint64(len(ep.entries))
	switch {
	case p.Seq <= n:
		if !bytes.Equal(ep.entries[p.Seq-1].raw, p.raw) {
			if ep.fork == nil {
				ep.fork = &p.Entry
			}
			return errFork
		}
		return nil
	case p.Seq > maxLogEntries || ep.bytes+len(p.raw) > maxLogBytes:
		return errQuota
	case p.Seq > n+1:
		if len(ep.early) >= maxEarly {
			return nil
		}
		ep.waiting += len(p.raw) - len(ep.early[p.Seq].raw)
		ep.early[p.Seq] = p.Entry
		return nil
	}
	if p.begin != nil {
		ep.snapshot = p.begin.Snapshot
	}
	ep.append(p.Entry, ch)
	for {
		e, ok := ep.early[uint64(len(ep.entries))+1]
		if !ok || ep.bytes+len(e.raw) > maxLogBytes {
			return nil
		}
		delete(ep.early, e.Seq)
		ep.waiting -= len(e.raw)
		ep.append(e, ch)
	}
}

func (ep *epoch) append(e Entry, ch *change) {
	ep.entries = append(ep.entries, e)
	ep.bytes += len(e.raw)
	ep.sum = sha256.Sum256(append(ep.sum[:], e.raw...))
	switch e.Kind {
	case KindGrant:
		ep.lacking = false
	case KindDepart:
		ep.departed = &e
	}
	ch.put = append(ch.put, e)
}

func (ep *epoch) complete() bool {
	return ep.snapshot > 0 && uint32(len(ep.entries)) >= ep.snapshot
}

// fold makes the highest complete epoch that lacks no grant of a lower one the effective one.
func (r *replica) fold(a *author, ch *change) (err error) {
	if older := a.older; older != nil && older.complete() && !older.keptBy(a.current) {
		a.next = slices.Insert(a.next, 0, a.current)
		a.current, a.older = older, nil
		ch.put = append(ch.put, older.entries...)
		for _, ep := range a.next { // it was another one that they lacked grants of
			ep.lacking = false
		}
		r.summed = nil
	}
	left := a.leaves()
	unknown := func(ep *epoch) *Entry { // what of that an epoch does not know
		if ep.departed != nil {
			return nil
		}
		return left
	}
	if a.current != nil {
		r.setLone(a, unknown(a.current), ch)
	}
	for i := len(a.next) - 1; i >= 0; i-- {
		ep := a.next[i]
		if ep.lacking || !ep.complete() {
			continue
		}
		lacks := func(low *epoch) bool { return low.complete() && !low.keptBy(ep) }
		if a.current != nil && lacks(a.current) || slices.ContainsFunc(a.next[:i], lacks) {
			ep.lacking = true
			err = errWithdrawal
			continue
		}
		r.drop(a, a.current, ch)
		for _, old := range a.next[:i] {
			r.drop(a, old, ch)
		}
		r.dropOlder(a)
		if a.gone != nil {
			ch.drop(*a.gone)
			r.hold(a, -len(a.gone.raw))
		}
		r.setLone(a, unknown(ep), ch)
		a.current, a.older, a.gone = ep, nil, nil
		a.next = slices.Delete(a.next, 0, i+1)
		return nil
	}
	return err
}

// replace takes this host's own log from another replica, instead of what is here.
func (r *replica) replace(id peer.ID, from *replica) {
	if a := r.authors[id]; a != nil {
		for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
			r.drop(a, ep, &change{})
		}
		r.setLone(a, nil, &change{})
	}
	a := from.authors[id]
	r.authors[id], a.strange = a, false
	r.held += a.held
	r.summed = nil
}

// log is the effective log of a host; nil if there is none. It may be kept, not changed.
func (r *replica) log(id peer.ID) []Entry {
	a := r.authors[id]
	if a == nil || a.current == nil {
		return nil
	}
	es := a.current.entries
	return es[:len(es):len(es)]
}

// said is the effective log of a host, and behind it what it lacks of the grants in
// epochs that wait: they are as good, whichever takes effect; and the departure that its
// author does not know of any more. Not to be changed.
func (r *replica) said(id peer.ID) []Entry {
	es := r.log(id)
	if es == nil {
		return nil
	}
	a := r.authors[id]
	forgot := a.lone != nil && a.lone.Epoch < a.current.number
	if len(a.lackingEpochs()) == 0 && !forgot {
		return es
	}
	if a.said != nil {
		return a.said
	}
	has := make(map[string]bool)
	take := func(es []Entry) (out []Entry) {
		for _, e := range es {
			if e.Kind == KindGrant && !has[string(e.Payload)] {
				has[string(e.Payload)] = true
				out = append(out, e)
			}
		}
		return out
	}
	take(es)
	a.said = es
	for _, ep := range a.lackingEpochs() {
		a.said = append(a.said, take(ep.entries)...)
	}
	if forgot {
		a.said = append(a.said, *a.lone)
	}
	return a.said
}

// ids are the known hosts in order.
func (r *replica) ids() []peer.ID {
	return slices.SortedFunc(maps.Keys(r.authors), peer.ID.Compare)
}

// entries counts those in effect and those that wait.
func (r *replica) entries() (n int) {
	for _, a := range r.authors {
		for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
			if ep != nil {
				n += len(ep.entries) + len(ep.early)
			}
		}
	}
	return n
}
