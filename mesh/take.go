package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"weft/peer"
)

// take merges entries that came from another host, or from the disk if from is
// zero, and returns those that are new in a log. What does not verify is left
// out, counted and logged. asked says that they came in an exchange, whose
// digests have told what is missing here: then older epochs are looked at too.
//
// The error is that of an entry which nobody who is honest sends.
func (m *Mesh) take(es []Entry, from peer.ID, asked bool) (news []Entry, lie error) {
	return m.takeOf(es, from, asked, nil)
}

// takeTold is take for what comes in an exchange that is under way.
func (m *Mesh) takeTold(es []Entry, from peer.ID, exchange *asked) (news []Entry, lie error) {
	return m.takeOf(es, from, true, exchange)
}

func (m *Mesh) takeOf(es []Entry, from peer.ID, asked bool, exchange *asked) (news []Entry, lie error) {
	m.mu.Lock()
	keys := make(map[peer.ID]ed25519.PublicKey)
	unknown := es[:0:0]
	b := blame{from: from, strange: make(map[peer.ID]bool)}
	if from != (peer.ID{}) {
		m.meetLocked(from)
	}
	for _, e := range es {
		if m.logs.has(e, asked) {
			continue
		}
		if a := m.logs.authors[e.Author]; a != nil && a.key != nil {
			keys[e.Author] = a.key
		}
		unknown = append(unknown, e)
		b.strange[e.Author] = m.logs.strangers.unmet(e.Author)
	}
	m.mu.Unlock()
	if len(unknown) == 0 {
		return nil, nil
	}

	ps := prove(unknown, keys, m.o.Secret, func(e Entry, err error) (goOn bool) {
		m.rejectEntry(e, b, err)
		if !errors.Is(err, errUnknownAuthor) {
			lie = err
		}
		return lie == nil || !asked // a lie ends an exchange: no time is spent on the rest
	})
	records := m.recordsOf(ps, b)

	ch := &change{}
	changed, own := false, false
	var forked []peer.ID
	m.mu.Lock()
	for _, p := range ps {
		if p.Author == m.id && m.own.open {
			changed = p.Kind == KindDepart && m.noticeDepartureLocked() || changed
			if m.takeOwnLocked(p, from, asked) {
				own = true
				m.tellsLocked(exchange, p.Epoch)
			}
			continue
		}
		if err := m.logs.merge(p, asked, ch); err != nil {
			m.rejectEntry(p.Entry, b, err)
			if errors.Is(err, errFork) && !b.strange[p.Author] { // else when it is met
				forked = append(forked, p.Author)
			}
		}
	}
	if own {
		m.checkPastLocked()
	}
	m.storeLocked(ch)
	for raw, rec := range records {
		if m.logs.authors[rec.ID()] != nil {
			changed = m.noteRecordLocked(rec, []byte(raw), byLog) || changed
		}
	}
	changed = changed || own || !ch.empty()
	for _, id := range forked {
		changed = m.noticeForkLocked(id) || changed
	}
	if changed {
		m.publishLocked()
	}
	m.mu.Unlock()
	if changed {
		m.o.OnChange()
	}
	m.checkPayloads(ch.put, b)
	return ch.put, lie
}

// noticeDepartureLocked tells the operator that this host has left the mesh for good, as others
// know, and that its state is from before that: nobody takes what it writes. A host that is
// leaving has its departure behind the snapshot.
func (m *Mesh) noticeDepartureLocked() (news bool) {
	if own := m.ownEpochLocked(); own != nil && own.departed != nil && own.departed.Seq > uint64(own.snapshot) {
		return false
	}
	return m.notices.set("departed", "this host was reset, or a copy of its machine was, and has left the mesh for good; its state is from before that: "+
		"the others take nothing from it. Run `weft reset --force` here and launch it again: it gets an identity of its own", time.Now())
}

func (m *Mesh) noticeForkLocked(id peer.ID) (news bool) {
	return m.notices.set("fork "+id.String(), fmt.Sprintf(
		"host %s has written two different entries under one number. If its machine was put back to an earlier state while it ran, "+
			"a restart of weft there is enough; if a copy of the machine runs, run `weft reset --force` on the copy", m.nameLocked(id)), time.Now())
}

func (m *Mesh) checkPayloads(es []Entry, b blame) {
	if m.o.Check == nil {
		return
	}
	for _, e := range es {
		if e.Kind == KindBegin || e.Kind == KindHost || e.Author == m.id {
			continue
		}
		if err := m.o.Check(e.Author, e.Kind, e.Payload); err != nil {
			m.rejectAuthor(e.Author, b, reasonPayload, err)
		}
	}
}

// recordsOf verifies the host records among proven entries. An author speaks for
// itself only.
func (m *Mesh) recordsOf(ps []proven, b blame) map[string]Record {
	out := make(map[string]Record)
	for _, p := range ps {
		if p.Kind != KindHost || p.Author == m.id || len(p.Payload) > 0 && p.Payload[0] > recordVersion {
			continue // a later release's record is for later releases
		}
		rec, err := m.verifyRecord(p.Payload)
		if err == nil && rec.ID() != p.Author {
			err = errors.New("host record is of another host than its log")
		}
		if err != nil {
			m.rejectAuthor(p.Author, b, reasonPayload, err)
			continue
		}
		out[string(p.Payload)] = rec
	}
	return out
}

// proven is an entry whose signature has been checked, and whose admission has
// been if it is a Begin.
type proven struct {
	Entry
	begin *Begin
}

// prove checks entries without a lock held: it costs 70 µs each. keys holds the
// identities that are known; those of valid Begins are added. What does not
// verify is left out and handed to reject, which says whether to go on.
func prove(es []Entry, keys map[peer.ID]ed25519.PublicKey, s Secret, reject func(Entry, error) bool) []proven {
	mesh := s.MeshID()
	out := make([]proven, 0, len(es))
	goOn := true
	for _, e := range es {
		if !goOn {
			break
		}
		if e.Kind == KindBegin {
			b, err := VerifyBegin(e, s)
			if err != nil {
				goOn = reject(e, err)
				continue
			}
			keys[e.Author] = b.Identity
			out = append(out, proven{Entry: e, begin: &b})
			continue
		}
		key, ok := keys[e.Author]
		if !ok {
			goOn = reject(e, errUnknownAuthor)
			continue
		}
		if err := e.Verify(key, mesh); err != nil {
			goOn = reject(e, err)
			continue
		}
		out = append(out, proven{Entry: e})
	}
	return out
}
