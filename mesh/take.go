package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"

	"weft/peer"
)

// take merges entries that came from anywhere and returns those that are new in
// a log. What does not verify is left out, counted and logged.
func (m *Mesh) take(es []Entry) []Entry {
	m.mu.Lock()
	keys := make(map[peer.ID]ed25519.PublicKey)
	unknown := es[:0:0]
	for _, e := range es {
		if m.logs.has(e) {
			continue
		}
		if a := m.logs.authors[e.Author]; a != nil {
			keys[e.Author] = a.key
		}
		unknown = append(unknown, e)
	}
	m.mu.Unlock()
	if len(unknown) == 0 {
		return nil
	}

	ps := prove(unknown, keys, m.o.Secret, m.rejectEntry)
	records := m.recordsOf(ps)

	ch := &change{}
	news := false
	m.mu.Lock()
	for _, p := range ps {
		if p.Author == m.id && m.own.open {
			m.takeOwnLocked(p)
			continue
		}
		if err := m.logs.merge(p, ch); err != nil {
			m.rejectEntry(p.Entry, err)
		}
	}
	m.storeLocked(ch)
	for raw, rec := range records {
		news = m.noteRecordLocked(rec, []byte(raw)) || news
	}
	news = news || !ch.empty()
	if news {
		m.publishLocked()
	}
	m.mu.Unlock()
	if news {
		m.o.OnChange()
	}
	return ch.put
}

// recordsOf verifies the host records among proven entries. An author speaks for
// itself only.
func (m *Mesh) recordsOf(ps []proven) map[string]Record {
	out := make(map[string]Record)
	for _, p := range ps {
		if p.Kind != KindHost || p.Author == m.id {
			continue
		}
		rec, err := m.verifyRecord(p.Payload)
		if err == nil && rec.ID() != p.Author {
			err = errors.New("host record is of another host than its log")
		}
		if err != nil {
			m.rejectEntry(p.Entry, err)
			continue
		}
		out[string(p.Payload)] = rec
	}
	return out
}

func (m *Mesh) rejectEntry(e Entry, err error) {
	switch {
	case errors.Is(err, errUnknownAuthor):
		m.count.add("entry_rejected_unknown_author") // usual: it came before its Begin
		return
	case errors.Is(err, errQuota):
		m.count.add("entry_rejected_quota")
	case errors.Is(err, errFork):
		m.count.add("entry_rejected_fork")
	default:
		m.count.add("entry_rejected_invalid")
	}
	m.log.Warn("entry rejected", "peer", e.Author, "epoch", e.Epoch, "seq", e.Seq, "err", err)
}

// readInbox merges what came by gossip. Delegates of memberlist only copy into
// the inbox, which drops when it is full: the digests find what is missing.
func (m *Mesh) readInbox(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-m.inbox:
			es, err := SplitEntries(b[1:])
			if err != nil {
				m.count.add("gossip_malformed")
			}
			if news := m.take(es); b[0] == gossipRelay {
				m.relay(news)
			}
		}
	}
}
