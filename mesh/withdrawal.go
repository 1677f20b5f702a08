package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// keptBy tells that a later epoch has every grant of this one, or says that it has
// taken what counts of them. A grant is what another host's ownership rests on, so that
// its author cannot take it back by forgetting it. Whether what it names as taken is
// really obsolete is for those to judge who rest on it: they keep copies.
func (ep *epoch) keptBy(later *epoch) bool {
	return later.hasGrants(ep.entries[ep.coveredBy(later.taken()):])
}

// hasGrants tells that the epoch has all grants that are among the entries.
func (ep *epoch) hasGrants(es []Entry) bool {
	for _, e := range es {
		if e.Kind == KindGrant && !ep.grants.has(ep.entries, e) {
			return false
		}
	}
	return true
}

// grantSet is which grants the first entries of an epoch are. Old epochs of a host's are
// compared with its present one for each of their entries that comes, and anybody can send
// them again. It is made when it is asked for: by sums of 64 bits with a key that nobody
// knows, so that it takes a fraction of what the grants do.
type grantSet struct {
	of   int // entries
	sums map[uint64]bool
}

var grantSeed = maphash.MakeSeed()

func (s *grantSet) has(es []Entry, grant Entry) bool {
	for ; s.of < len(es); s.of++ {
		if es[s.of].Kind == KindGrant {
			if s.sums == nil {
				s.sums = make(map[uint64]bool)
			}
			s.sums[maphash.Bytes(grantSeed, es[s.of].Payload)] = true
		}
	}
	return s.sums[maphash.Bytes(grantSeed, grant.Payload)]
}

// takenEpoch names the first entries of an epoch. What is behind those, as of a copy of
// that epoch that others hold more of, is not taken.
type takenEpoch struct {
	number uint64
	count  uint64  // of entries
	sum    [8]byte // of their chain
}

const (
	takenLen = 8 + 8 + 8
	// maxTaken is how many epochs are named at most, months of them. Whoever holds one
	// before those takes its grants for forgotten, and tells of them: it is named then.
	maxTaken = 1024
)

// coveredBy is how many of this epoch's entries one of the marks speaks of.
func (ep *epoch) coveredBy(marks []takenEpoch) (n int) {
	for _, m := range marks {
		switch {
		case m.number != ep.number || ep.fork != nil:
		case m.count > uint64(len(ep.entries)): // it has had more of it
			n = len(ep.entries)
		case chain(ep.entries[:m.count]) == m.sum:
			n = max(n, int(m.count))
		}
	}
	return n
}

// chain begins the sum of an epoch with these entries.
func chain(es []Entry) [8]byte {
	var sum [32]byte
	for _, e := range es {
		sum = sha256.Sum256(append(sum[:], e.raw...))
	}
	return [8]byte(sum[:8])
}

// taken are what this epoch has made superfluous, by number. Its snapshot says so, or
// what it keeps would change while it is in effect.
func (ep *epoch) taken() (marks []takenEpoch) {
	for _, e := range ep.entries[:min(int(ep.snapshot), len(ep.entries))] {
		if e.Kind != KindTaken || len(e.Payload)%takenLen != 0 {
			continue
		}
		for p := e.Payload; len(p) > 0; p = p[takenLen:] {
			marks = append(marks, takenEpoch{binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:]), [8]byte(p[16:24])})
		}
	}
	return marks
}

// takingLocked is what a new epoch of this host's takes: what it goes on from, and what
// that has taken.
func (m *Mesh) takingLocked() (marks []takenEpoch) {
	var told []takenEpoch // by others: somebody holds these
	take := func(ep *epoch) {
		marks = append(marks, ep.taken()...)
		if n := len(ep.entries); n > 0 {
			told = append(told, takenEpoch{ep.number, uint64(n), [8]byte(ep.sum[:8])})
		}
	}
	if own := m.ownEpochLocked(); own != nil {
		take(own)
	}
	for _, e := range m.past.epochs {
		take(&e.epoch)
	}
	order := func(a, b takenEpoch) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.count, b.count))
	}
	slices.SortFunc(marks, order)
	marks = slices.Compact(marks)
	marks = append(marks[max(0, len(marks)-maxTaken):], told...)
	slices.SortFunc(marks, order)
	return slices.Compact(marks)
}

// shorter leaves out of what an epoch opens with what is obsolete, and names the epochs
// that it takes if it, or one of those, leaves anything out.
func (m *Mesh) shorter(all []Draft, taking []takenEpoch) (out []Draft) {
	obsolete := m.o.Obsolete()
	was := false
	for _, d := range all {
		switch {
		case d.Kind == KindTaken:
			was = true
		case d.Kind == KindGrant && obsolete != nil && obsolete(d.Payload):
			was = true
		default:
			out = append(out, d)
		}
	}
	if was {
		for part := range slices.Chunk(taking, maxPayload/takenLen) {
			var payload []byte
			for _, m := range part {
				payload = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(payload, m.number), m.count)
				payload = append(payload, m.sum[:]...)
			}
			out = append(out, Draft{KindTaken, payload})
		}
	}
	return out
}

// forgotten tells that the author's epoch of that number is here and does not take
// effect because it lacks grants which the effective one has.
func (a *author) forgotten(number uint64) bool {
	for _, ep := range a.next {
		if ep.number == number {
			return ep.lacking
		}
	}
	return false
}

// lackingEpochs are those that do not take effect because they lack grants which the
// effective one has.
func (a *author) lackingEpochs() (out []*epoch) {
	for _, ep := range a.next {
		if ep.lacking {
			out = append(out, ep)
		}
	}
	return out
}

// settleOlder is called when all that was asked for has been told, for an epoch's grants
// may come last. What another exchange is telling meanwhile is left alone.
func (m *Mesh) settleOlder(asked *asked) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range asked.told {
		m.logs.settleOlder(id)
	}
}
