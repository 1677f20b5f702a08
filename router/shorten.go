package router

import (
	"time"

	"weft/ipam"
	"weft/mesh"
)

// What is said about the ring is not withdrawn, but a base that the council decides
// stands for what was said before it; then logs need not hold that any more.
const (
	longLog      = mesh.MaxSnapshot / 16 // a log with more about the ring is to become shorter
	baseEvery    = 64                    // facts that no base covers are worth one
	worthIt      = 64                    // entries that are not needed any more are worth a new epoch
	shortenPause = 10 * time.Minute      // between two of those
)

// shorten prepares this host's log for an epoch without what the base covers: it gives the
// entries that are to be in it, or, when they are, has the epoch opened.
func (r *Router) shorten(b *books) (ds []mesh.Draft) {
	if b.ledger.Base() == nil || saidOfRing(b.st) <= longLog {
		return nil
	}
	n := 0
	for _, s := range b.folded.Source {
		if s.Keeper == b.st.Self && b.ledger.Obsolete(s.Fact) {
			n++
		}
	}
	if n < worthIt {
		return nil
	}
	if ds = r.lacks(b); len(ds) > 0 {
		return ds
	}
	if now := time.Now(); r.shortened.IsZero() || now.Sub(r.shortened) >= shortenPause {
		r.shortened = now
		r.log.Info("this host's log about the ring becomes shorter", "entries", n)
		r.mesh.Reopen()
	}
	return nil
}

// lacks are copies of what the base rests on that are not in this host's log.
func (r *Router) lacks(b *books) (ds []mesh.Draft) {
	type piece struct {
		by       ipam.Owner // of a vote
		instance uint32
		index    uint16 // of a piece of the base, whoever keeps it: its digest was voted on
	}
	has := map[piece]bool{}
	var others []source
	of := func(s source) piece {
		if s.Fact.Kind == ipam.FactBase {
			return piece{index: s.Fact.Chunk.Index}
		}
		return piece{by: s.Fact.By, instance: s.Fact.Vote.Instance}
	}
	for _, s := range b.folded.Source {
		switch {
		case !b.ledger.Needs(s.Fact):
		case s.Keeper == b.st.Self:
			has[of(s)] = true
		default:
			others = append(others, s)
		}
	}
	for _, s := range others {
		if has[of(s)] {
			continue
		}
		has[of(s)] = true
		var p []byte
		if s.Fact.Kind == ipam.FactBase {
			s.Fact.By = ipam.Owner(b.st.Self)
			p, _ = encodeFact(s.Fact) // what was read can be written
		} else {
			key := s.Key
			if h, ok := b.st.Host(s.Entry.Author); key == nil && ok {
				key = h.Record.Identity
			}
			p = encodeKept(key, s.Entry)
		}
		ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: p})
	}
	return ds
}

// obsolete says of an entry of this host's log that a base covers it. It is asked when an
// epoch is opened, and holds nothing back that the new one would not have.
func (r *Router) obsolete() func(payload []byte) bool {
	b, err := r.booksNow()
	if err != nil || b.ledger.Base() == nil || len(r.lacks(b)) > 0 {
		return nil
	}
	id := r.member.Secret.MeshID()
	return func(payload []byte) bool {
		s, err := parseFact(b.st.Self, mesh.Entry{Author: b.st.Self, Payload: payload}, id)
		return err == nil && b.ledger.Obsolete(s.Fact)
	}
}
