package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"weft/peer"
)

// mark is one host's place in a digest: how far its log is known.
type mark struct {
	author    peer.ID
	epoch     uint64  // the effective one; 0: none
	seq       uint64  // its entries
	sum       [8]byte // of the chain over them: two logs with the same numbers and another sum were forked
	next      uint64  // the highest epoch whose snapshot is not complete; 0: none
	nextCount uint64  // its entries
}

// markLen: author 10 | epoch 8 | seq 8 | sum 8 | next 8 | next's entries 8.
const markLen = 10 + 8 + 8 + 8 + 8 + 8

// digest is the whole vector, sorted by author.
func (r *replica) digest() []mark {
	var ms []mark
	for _, id := range r.ids() {
		a := r.authors[id]
		m := mark{author: id}
		switch {
		case a.current != nil && a.current.fork != nil:
			m.epoch, m.seq, m.sum = a.current.number, uint64(len(a.current.entries)), forkedSum
		case a.current != nil:
			m.epoch, m.seq, m.sum = a.current.number, uint64(len(a.current.entries)), [8]byte(a.current.sum[:8])
		case a.gone != nil:
			m.epoch, m.seq = a.gone.Epoch, a.gone.Seq
		}
		if n := len(a.next); n > 0 {
			m.next, m.nextCount = a.next[n-1].number, uint64(len(a.next[n-1].entries))
		}
		if m.epoch != 0 || m.next != 0 {
			ms = append(ms, m)
		}
	}
	return ms
}

// forkedSum stands in the mark of an epoch in which the author has written one number
// twice, and the proof is held: what follows cannot agree any more.
var forkedSum = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// counts tells whether an author's log is part of the root.
func (a *author) counts() bool {
	return a.gone == nil && a.lone == nil && a.current != nil && a.current.departed == nil && a.current.fork == nil
}

// root is the SHA-256 over what counts of a digest: two hosts with the same root
// hold the same effective logs, those of departed hosts and forked ones aside, and those of
// strangers while there is not room for all.
func (r *replica) root() [32]byte {
	if r.summed != nil {
		return *r.summed
	}
	h := sha256.New()
	var b []byte
	for _, m := range r.digest() {
		if a := r.authors[m.author]; !a.counts() || a.strange && r.strangers.full() {
			continue
		}
		b = append(b[:0], m.author[:]...)
		b = binary.BigEndian.AppendUint64(b, m.epoch)
		b = binary.BigEndian.AppendUint64(b, m.seq)
		b = append(b, m.sum[:]...)
		// An epoch that is not in effect for its lack of grants counts too: it has
		// grants that the effective one lacks, or its author would not have two, and
		// its author must hear of them.
		for _, ep := range r.authors[m.author].lackingEpochs() {
			b = binary.BigEndian.AppendUint64(b, ep.number)
			b = append(b, ep.sum[:8]...)
		}
		h.Write(b)
	}
	sum := [32]byte(h.Sum(nil))
	r.summed = &sum
	return sum
}

func appendDigest(b []byte, ms []mark) []byte {
	for _, m := range ms {
		b = append(b, m.author[:]...)
		b = binary.BigEndian.AppendUint64(b, m.epoch)
		b = binary.BigEndian.AppendUint64(b, m.seq)
		b = append(b, m.sum[:]...)
		b = binary.BigEndian.AppendUint64(b, m.next)
		b = binary.BigEndian.AppendUint64(b, m.nextCount)
	}
	return b
}

// parseDigest reads what appendDigest wrote. Marks must be sorted, each author once.
func parseDigest(b []byte) ([]mark, error) {
	if len(b)%markLen != 0 || len(b)/markLen > maxAuthors {
		return nil, fmt.Errorf("parse digest: %d bytes are not at most %d marks of %d", len(b), maxAuthors, markLen)
	}
	ms := make([]mark, 0, len(b)/markLen)
	in := reader{b: b}
	for len(in.b) > 0 {
		m := mark{author: peer.ID(in.take(10)), epoch: in.u64(), seq: in.u64(), sum: [8]byte(in.take(8)), next: in.u64(), nextCount: in.u64()}
		if n := len(ms); n > 0 && ms[n-1].author.Compare(m.author) >= 0 {
			return nil, fmt.Errorf("parse digest: %v is out of order", m.author)
		}
		ms = append(ms, m)
	}
	return ms, in.end()
}

// missing are the entries that the host to, with the digest theirs, lacks, in an
// order in which it can take them.
//
// Where both have the same numbers of an author and differ, the whole log is told:
// whoever holds both of two entries with one number has the proof that the author
// wrote them, and hands it on. What a digest says proves nothing.
//
// Departed authors come first: they do not count in roots, so that an exchange
// which breaks off must leave something that does. An author is told of its departure
// whatever it has: it may not know of it.
func (r *replica) missing(theirs []mark, to peer.ID) (logs [][]Entry) {
	have := make(map[peer.ID]mark, len(theirs))
	for _, m := range theirs {
		have[m.author] = m
	}
	var behind [][]Entry // what can be judged only beside the effective log
	ids := r.ids()
	slices.SortStableFunc(ids, func(a, b peer.ID) int {
		return cmp.Compare(r.authors[a].rank(), r.authors[b].rank())
	})
	for _, id := range ids {
		if r.authors[id].strange && r.strangers.full() {
			continue
		}
		for _, ep := range r.authors[id].lackingEpochs() {
			switch m := have[id]; {
			case m.next != ep.number && m.epoch != ep.number:
				behind = append(behind, ep.entries[:len(ep.entries):len(ep.entries)])
			case m.next == ep.number && m.nextCount < uint64(len(ep.entries)):
				behind = append(behind, ep.entries[m.nextCount:len(ep.entries):len(ep.entries)])
			}
		}
		if gone := r.authors[id].gone; gone != nil {
			m, ok := have[id]
			if ok && (id == to || m.epoch < gone.Epoch || m.epoch == gone.Epoch && m.seq < gone.Seq) {
				logs = append(logs, []Entry{*gone})
			}
			continue
		}
		if lone := r.authors[id].lone; lone != nil {
			m, ok := have[id]
			if ok && m.epoch == lone.Epoch && m.seq >= lone.Seq { // knows, or has removed the log, and needs no later one
				continue
			}
			if ok {
				behind = append(behind, []Entry{*lone})
			}
		}
		es := r.log(id)
		if len(es) == 0 {
			continue
		}
		cur := r.authors[id].current
		from := uint64(0)
		if m, ok := have[id]; ok && m.epoch == cur.number {
			d := cur.departed
			switch {
			case m.sum == forkedSum, d != nil && m.seq >= d.Seq: // knows, or has removed it
				continue
			case cur.fork != nil:
				logs = append(logs, []Entry{cur.entries[cur.fork.Seq-1], *cur.fork})
				continue
			}
		}
		switch m := have[id]; {
		case m.epoch > cur.number && id != to && !r.authors[id].forgotten(m.epoch):
			continue
		case m.epoch > cur.number: // theirs may lack grants that this one has
		case m.epoch == cur.number:
			from = m.seq
			if m.seq == uint64(len(es)) && m.sum != [8]byte(cur.sum[:8]) {
				from = 0
			}
		case m.next == cur.number:
			from = m.nextCount
		}
		if from < uint64(len(es)) {
			logs = append(logs, es[from:])
		}
		if cur.fork != nil {
			logs = append(logs, []Entry{*cur.fork})
		}
	}
	return append(logs, behind...)
}
