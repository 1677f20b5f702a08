package mesh

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"weft/peer"
)

// Bounds of what one member can make the others keep. An author's whole state is
// a snapshot of at most half of it, so that there is room to write on.
const (
	maxAuthors    = 4096
	maxLogEntries = 8192    // of one epoch
	maxLogBytes   = 4 << 20 // of one epoch, raw
	maxSnapshot   = maxLogEntries / 2
	maxEarly      = 256 // entries beyond a gap, of one epoch
	maxNext       = 4   // epochs of one author that are not complete yet
)

// Why an entry was not taken. Each is a counter too.
var (
	errUnknownAuthor = errors.New("its author is not known here")
	errQuota         = errors.New("over its author's quota")
	errFork          = errors.New("its author wrote this sequence twice")
)

// replica is what this host holds of all logs: a pure state machine, entries in,
// logs out. It has no clock and does no I/O. In whatever order and however often
// entries come, the outcome is the same, as long as the bounds on what waits
// (maxEarly, maxNext) are not met; what they make it forget comes again.
//
// Per author the highest epoch whose snapshot is complete is the effective one.
// Older ones are dropped then. Of an epoch the entries from 1 on without a gap count.
type replica struct {
	authors map[peer.ID]*author
}

type author struct {
	key     ed25519.PublicKey // proven to be admitted
	current *epoch            // effective; nil until one is complete
	next    []*epoch          // higher ones, not complete; ascending
	tick    uint64            // counts merges, to tell which of next lies idle
}

type epoch struct {
	number   uint64
	snapshot uint32  // from its Begin; 0 until that is there
	entries  []Entry // 1 to n; only ever appended to, so that a prefix may be shared
	bytes    int
	sum      [32]byte         // SHA-256 chain over entries
	early    map[uint64]Entry // beyond a gap
	touched  uint64           // author.tick when an entry came last
}

// change is what a merge did, for the disk and for whoever forwards.
type change struct {
	put []Entry // new in a log
	del []Entry // dropped with their epoch
}

func (c *change) empty() bool { return len(c.put) == 0 && len(c.del) == 0 }

func newReplica() *replica { return &replica{authors: make(map[peer.ID]*author)} }

// learn makes an identity known that has proven its admission.
func (r *replica) learn(pub ed25519.PublicKey) error {
	id := peer.IDOf(pub)
	if r.authors[id] != nil {
		return nil
	}
	if len(r.authors) >= maxAuthors {
		return fmt.Errorf("take host %v: %d hosts are known already", id, maxAuthors)
	}
	r.authors[id] = &author{key: bytes.Clone(pub)}
	return nil
}

// proven is an entry whose signature has been checked, and whose admission has
// been if it is a Begin.
type proven struct {
	Entry
	begin *Begin
}

// prove checks entries without a lock held: it costs 70 µs each. keys holds the
// identities that are known; those of valid Begins are added. What does not
// verify is left out and handed to reject.
func prove(es []Entry, keys map[peer.ID]ed25519.PublicKey, s Secret, reject func(Entry, error)) []proven {
	mesh := s.MeshID()
	out := make([]proven, 0, len(es))
	for _, e := range es {
		if e.Kind == KindBegin {
			b, err := VerifyBegin(e, s)
			if err != nil {
				reject(e, err)
				continue
			}
			keys[e.Author] = b.Identity
			out = append(out, proven{Entry: e, begin: &b})
			continue
		}
		key, ok := keys[e.Author]
		if !ok {
			reject(e, errUnknownAuthor)
			continue
		}
		if err := e.Verify(key, mesh); err != nil {
			reject(e, err)
			continue
		}
		out = append(out, proven{Entry: e})
	}
	return out
}

// has tells that merging e would change nothing, without looking at its signature.
func (r *replica) has(e Entry) bool {
	a := r.authors[e.Author]
	if a == nil {
		return false
	}
	if a.current != nil && e.Epoch < a.current.number {
		return true
	}
	ep := a.find(e.Epoch)
	return ep != nil && e.Seq <= uint64(len(ep.entries)) && bytes.Equal(ep.entries[e.Seq-1].raw, e.raw)
}

func (a *author) find(number uint64) *epoch {
	if a.current != nil && a.current.number == number {
		return a.current
	}
	for _, ep := range a.next {
		if ep.number == number {
			return ep
		}
	}
	return nil
}

// merge takes one proven entry.
func (r *replica) merge(p proven, ch *change) error {
	if p.begin != nil {
		if err := r.learn(p.begin.Identity); err != nil {
			return err
		}
		if p.begin.Snapshot > maxSnapshot {
			return errQuota
		}
	}
	a := r.authors[p.Author]
	if a == nil {
		return errUnknownAuthor
	}
	if a.current != nil && p.Epoch < a.current.number {
		return nil
	}
	ep := a.find(p.Epoch)
	if ep == nil {
		ep = a.open(p.Epoch, ch)
	}
	a.tick++
	ep.touched = a.tick
	if err := ep.add(p, ch); err != nil {
		return err
	}
	a.fold(ch)
	return nil
}

// open starts to collect a higher epoch. Of those that are not complete the one
// that has lain idle longest goes: a number says nothing, since any of them may
// be the last one that somebody has whole.
func (a *author) open(number uint64, ch *change) *epoch {
	if len(a.next) >= maxNext {
		i := 0
		for j, ep := range a.next {
			if ep.touched < a.next[i].touched {
				i = j
			}
		}
		ch.del = append(ch.del, a.next[i].entries...)
		a.next = slices.Delete(a.next, i, i+1)
	}
	ep := &epoch{number: number, early: make(map[uint64]Entry)}
	i, _ := slices.BinarySearchFunc(a.next, number, func(e *epoch, n uint64) int { return cmp.Compare(e.number, n) })
	a.next = slices.Insert(a.next, i, ep)
	return ep
}

func (ep *epoch) add(p proven, ch *change) error {
	n := uint64(len(ep.entries))
	switch {
	case p.Seq <= n:
		if !bytes.Equal(ep.entries[p.Seq-1].raw, p.raw) {
			return errFork
		}
		return nil
	case p.Seq > maxLogEntries || ep.bytes+len(p.raw) > maxLogBytes:
		return errQuota
	case p.Seq > n+1:
		if len(ep.early) >= maxEarly {
			return nil
		}
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
		ep.append(e, ch)
	}
}

func (ep *epoch) append(e Entry, ch *change) {
	ep.entries = append(ep.entries, e)
	ep.bytes += len(e.raw)
	ep.sum = sha256.Sum256(append(ep.sum[:], e.raw...))
	ch.put = append(ch.put, e)
}

func (ep *epoch) complete() bool {
	return ep.snapshot > 0 && uint32(len(ep.entries)) >= ep.snapshot
}

// fold makes the highest complete epoch the effective one.
func (a *author) fold(ch *change) {
	for i := len(a.next) - 1; i >= 0; i-- {
		if !a.next[i].complete() {
			continue
		}
		if a.current != nil {
			ch.del = append(ch.del, a.current.entries...)
		}
		for _, ep := range a.next[:i] {
			ch.del = append(ch.del, ep.entries...)
		}
		a.current = a.next[i]
		a.next = slices.Delete(a.next, 0, i+1)
		return
	}
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

// ids are the known hosts in order.
func (r *replica) ids() []peer.ID {
	return slices.SortedFunc(maps.Keys(r.authors), peer.ID.Compare)
}
