package router

import (
	"slices"
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
	if ds, ok := lacks(b); !ok || len(ds) > 0 {
		return ds
	}
	if now := time.Now(); r.shortened.IsZero() || now.Sub(r.shortened) >= shortenPause {
		r.shortened = now
		r.log.Info("this host's log about the ring becomes shorter", "entries", n)
		r.mesh.Reopen()
	}
	return nil
}

// lacks are copies of what the base rests on that are not in this host's log; not ok if
// one can not be made, since the key of who signed it is not known.
func lacks(b *books) (ds []mesh.Draft, ok bool) {
	type vote struct {
		by       ipam.Owner
		kind     ipam.FactKind // of force, too
		instance uint32
	}
	of := func(f ipam.Fact) vote { return vote{f.By, f.Kind, f.Vote.Instance} }
	has := map[vote]bool{}
	var others []source
	for _, s := range b.folded.Source {
		switch {
		case !b.ledger.Needs(s.Fact):
		case s.Fact.Kind == ipam.FactBase: // see ownPieces
		case s.Keeper == b.st.Self:
			has[of(s.Fact)] = true
		default:
			others = append(others, s)
		}
	}
	for _, s := range others {
		key := s.Key
		if h, ok := b.st.Host(s.Entry.Author); key == nil && ok {
			key = h.Record.Identity
		}
		if has[of(s.Fact)] || len(key) != 32 {
			continue
		}
		has[of(s.Fact)] = true
		ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: encodeKept(key, s.Entry)})
	}
	ok = !slices.ContainsFunc(others, func(s source) bool { return !has[of(s.Fact)] })
	return append(ds, ownPieces(b)...), ok
}

// ownPieces are the pieces of the base that this host's log does not have. They need no
// copy with a signature: their digest was voted on.
func ownPieces(b *books) (ds []mesh.Draft) {
	have := map[string]bool{}
	for _, e := range b.st.Logs[b.st.Self] {
		have[string(e.Payload)] = true
	}
	for _, f := range b.ledger.Pieces() {
		if p, err := encodeFact(f); err == nil && !have[string(p)] {
			ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: p})
		}
	}
	return ds
}

// obsolete says of an entry of this host's log that a base covers it. It is asked when an
// epoch is opened, and holds nothing back that the new one would not have.
func (r *Router) obsolete() func(payload []byte) bool {
	b, err := r.booksNow()
	if err != nil || b.ledger.Base() == nil {
		return nil
	}
	if ds, ok := lacks(b); !ok || len(ds) > 0 {
		return nil
	}
	id := r.member.Secret.MeshID()
	return func(payload []byte) bool {
		s, err := parseFact(b.st.Self, mesh.Entry{Author: b.st.Self, Payload: payload}, id)
		return err == nil && b.ledger.Obsolete(s.Fact)
	}
}
