package mesh

import (
	"encoding/binary"
	"slices"
)

// keptBy tells that a later epoch has every grant of this one, or says that it has
// taken what counts of it. A grant is what another host's ownership rests on, so that
// its author cannot take it back, not by forgetting it either.
func (ep *epoch) keptBy(later *epoch) bool {
	mine, theirs := ep.taken(), later.taken()
	if slices.Contains(theirs, ep.number) {
		return true
	}
	if len(mine) > 0 && !slices.Contains(theirs, mine[len(mine)-1]) {
		return false // its author has forgotten that it had made its log shorter
	}
	var has map[string]bool
	for _, e := range ep.entries {
		if e.Kind != KindGrant {
			continue
		}
		if has == nil {
			has = make(map[string]bool)
			for _, l := range later.entries {
				if l.Kind == KindGrant {
					has[string(l.Payload)] = true
				}
			}
		}
		if !has[string(e.Payload)] {
			return false
		}
	}
	return true
}

// maxTaken is how many epochs an entry can name. Whoever holds one before those takes
// its grants for forgotten, and tells of them: they come again, and go again.
const maxTaken = maxPayload / 8

// taken are the epochs that this one has made superfluous, ascending.
func (ep *epoch) taken() (numbers []uint64) {
	for _, e := range ep.entries {
		if e.Kind == KindTaken && len(e.Payload)%8 == 0 {
			numbers = numbers[:0]
			for p := e.Payload; len(p) > 0; p = p[8:] {
				numbers = append(numbers, binary.BigEndian.Uint64(p))
			}
		}
	}
	return numbers
}

// taking are the epochs that a new one of this host's takes: what it goes on from, and
// what that has taken.
func (m *Mesh) takingLocked() (numbers []uint64) {
	for _, r := range []*replica{m.logs, m.past} {
		if a := r.authors[m.id]; a != nil && a.current != nil {
			numbers = append(append(numbers, a.current.taken()...), a.current.number)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	return numbers[max(0, len(numbers)-maxTaken):]
}

// shorter leaves out of what an epoch opens with what is obsolete, and names the epochs
// that it takes if it, or one of those, leaves anything out.
func (m *Mesh) shorter(all []Draft, taking []uint64) (out []Draft) {
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
		var payload []byte
		for _, n := range taking {
			payload = binary.BigEndian.AppendUint64(payload, n)
		}
		out = append(out, Draft{KindTaken, payload})
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
