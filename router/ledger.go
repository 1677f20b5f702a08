package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const (
	// deadAfter is for how long a host must have been out of reach before its
	// address space may be taken over.
	deadAfter = time.Minute
	// patience is how long addresses are waited for before a ring begins with
	// fewer hosts than were named.
	patience = 2 * time.Second
)

// books are the ledger of a state, and what it was folded from.
type books struct {
	st      *mesh.State
	folded  folded
	ledger  *ipam.Ledger
	longest int // entries about the ring in one log
}

// booksNow folds the newest state, not that of the last pass.
func (r *Router) booksNow() (*books, error) {
	st := r.mesh.State()
	if b := r.books.Load(); b != nil && b.st == st {
		return b, nil
	}
	if !st.Founding.Range.IsValid() {
		return nil, ipam.ErrNotReady
	}
	b := &books{st: st, folded: r.foldNow(st)}
	b.ledger = ipam.NewLedger(ipam.Owner(r.id.ID()), ipam.Owner(st.Founding.Founder), st.Founding.Range, b.folded.Facts)
	said := map[peer.ID]int{}
	for _, s := range b.folded.Source {
		said[s.Keeper]++
		b.longest = max(b.longest, said[s.Keeper])
	}
	r.books.Store(b)
	return b, nil
}

// proofs are copies of the entries that the ownership of prefixes rests on, but
// for those that the log of to has itself. Of a host that leaves they are also all
// that it has ever said, and what anybody has kept: what was decided rests on its
// votes, too.
func (r *Router) proofs(b *books, prefixes []netip.Prefix, to, leaver peer.ID) [][]byte {
	var out [][]byte
	have := map[string]bool{}
	for _, e := range b.st.Logs[to] {
		have[string(e.Payload)] = true
	}
	for _, s := range b.folded.Source {
		if f := s.Fact; f.Kind == ipam.FactVote && !b.ledger.Relies(f) || b.ledger.Obsolete(f) {
			continue // a promise, of use until the instance is decided; of nobody's concern; or in the base
		}
		link := (s.Fact.Kind == ipam.FactGrant || s.Fact.Kind == ipam.FactAccept) && slices.ContainsFunc(prefixes, s.Fact.Grant.Prefix.Overlaps)
		left := !leaver.IsZero() && (s.Entry.Author == leaver || s.Key != nil)
		if s.Entry.Author == to || !link && !left {
			continue
		}
		switch s.Fact.Kind {
		case ipam.FactSeen, ipam.FactStand:
			continue // of use only while their author lives
		case ipam.FactBase:
			continue // electors keep it
		}
		key := s.Key
		if key == nil {
			h, ok := b.st.Host(s.Entry.Author)
			if !ok || len(h.Record.Identity) != 32 {
				continue
			}
			key = h.Record.Identity
		}
		if p := encodeKept(key, s.Entry); !have[string(p)] {
			have[string(p)] = true
			out = append(out, p)
		}
	}
	return out
}

// env is what this host knows about the others, for the ledger. mu is held.
func (r *Router) envLocked(b *books) ipam.Env {
	now := time.Now()
	alive, dead := map[ipam.Owner]bool{}, map[ipam.Owner]bool{}
	e := ipam.Env{Observer: r.beginning.observer, Leaving: r.leaving}
	for _, h := range b.st.Hosts {
		id := ipam.Owner(h.ID)
		alive[id] = h.Self || h.Liveness == mesh.Alive
		if !b.folded.Gone[h.ID] {
			e.Hosts = append(e.Hosts, id)
		}
	}
	e.Alive = func(o ipam.Owner) bool { return alive[o] }
	e.Gone = func(o ipam.Owner) bool { return b.folded.Gone[peer.ID(o)] }
	for _, o := range b.ledger.Hosts() { // those that are not known any more, too
		dead[o] = true
	}
	for _, h := range b.st.Hosts {
		dead[ipam.Owner(h.ID)] = true
	}
	for o := range dead { // looked at now: e outlives the lock
		dead[o] = e.Gone(o) || !alive[o] && now.Sub(r.lastAliveLocked(peer.ID(o))) >= deadAfter
	}
	e.Dead = func(o ipam.Owner) bool { return dead[o] }
	e.Wanted = r.wantedLocked(now) || now.Sub(r.wantedElsewhere) < 3*askEvery
	if r.beginning.seeds != nil && b.st.Founding.Founder == b.st.Self {
		e.Seeds, _ = r.beginning.owners(b.st)
	}
	if b.longest > longLog {
		e.BaseAt = baseEvery
	}
	e.Take = r.wishLocked(b, func(o ipam.Owner) bool { return e.Dead(o) && b.ledger.Mortal(o) })
	return e
}

// lastAliveLocked is when a host was last in reach; the start of this router for
// one that has not been since.
func (r *Router) lastAliveLocked(id peer.ID) time.Time {
	if t, ok := r.lastAlive[id]; ok {
		return t
	}
	return r.began
}

// noteAliveLocked keeps the account for lastAliveLocked.
func (r *Router) noteAliveLocked(st *mesh.State) {
	now := time.Now()
	for _, h := range st.Hosts {
		if h.Liveness == mesh.Alive || r.wasAlive[h.ID] {
			r.lastAlive[h.ID] = now // also at the moment in which it has gone
		}
		r.wasAlive[h.ID] = h.Liveness == mesh.Alive
	}
}

// deliberate writes what this host has to say about the ring: that it takes what
// it was given, and its votes. applyMu is held: what it says follows from what it
// has said.
func (r *Router) deliberate() []error {
	b, err := r.booksNow()
	if err != nil {
		return nil
	}
	if b.ledger != r.relied { // others' logs are kept for its sake
		r.relied = b.ledger
		hosts := b.ledger.Hosts()
		ids := make([]peer.ID, len(hosts))
		for i, h := range hosts {
			ids[i] = peer.ID(h)
		}
		r.mesh.Rely(ids)
	}
	r.mu.Lock()
	r.noticeSleepLocked()
	r.noteAliveLocked(b.st)
	if r.unproven || r.resetting && !r.leaving {
		r.mu.Unlock()
		return nil
	}
	e := r.envLocked(b)
	e.Start = r.beginsBallotLocked(b, e)
	r.mu.Unlock()
	return r.speak(b, e)
}

// speak writes what follows from what this host knew when it looked. It holds no lock: other hosts
// may be given space meanwhile.
func (r *Router) speak(b *books, e ipam.Env) []error {
	var ds []mesh.Draft
	var errs []error
	for _, g := range b.ledger.Waiting() {
		i := slices.IndexFunc(b.folded.Source, func(s source) bool { return s.Fact.Kind == ipam.FactGrant && s.Fact.Grant == g })
		if i < 0 {
			continue
		}
		s := b.folded.Source[i]
		gift := gift{Grants: []mesh.Entry{s.Entry}, Proofs: r.proofs(b, []netip.Prefix{g.Prefix}, b.st.Self, peer.ID{})}
		key := s.Key
		if h, ok := b.st.Host(s.Entry.Author); key == nil && ok {
			key = h.Record.Identity
		}
		more, err := r.acceptance(b, key, gift, peer.ID{})
		ds, errs = append(ds, more...), append(errs, err)
	}
	for _, f := range b.ledger.Next(e) {
		p, err := encodeFact(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		switch f.Kind {
		case ipam.FactAccept:
			r.log.Info("took over address space", "prefix", f.Grant.Prefix.String(), "peer", peer.ID(f.Grant.From).String())
		case ipam.FactVote:
			r.log.Debug("vote", "instance", f.Vote.Instance, "round", f.Vote.Promised.Round, "accepted", f.Vote.Accepted.Round)
		}
		if f.Kind == ipam.FactSeen { // from then on others may use what this host may not any more
			r.mu.Lock()
			_, err := r.spaceNowLocked()
			r.mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: p})
	}
	if more := append(r.inherit(b, e), r.shorten(b)...); len(more) > 0 { // what is to be said must not fail with these
		if _, err := r.mesh.Append(more[:min(len(more), maxCopies)]...); err != nil {
			errs = append(errs, fmt.Errorf("keep what the ring rests on: %w", err))
		} else {
			r.Poke()
		}
	}
	if len(ds) > 0 {
		if _, err := r.mesh.Append(ds...); err != nil {
			errs = append(errs, fmt.Errorf("speak about the ring: %w", err))
		}
		r.Poke() // what follows from it comes in the next pass
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// What is said about the ring is never withdrawn, and a log can only hold so much.
// Space is not taken when this host's is half full, so that others can not fill it,
// and not given when it is full but for a quarter: the rest is for votes.
const (
	fullToTake = mesh.MaxSnapshot / 2
	fullToGive = mesh.MaxSnapshot * 3 / 4
)

// saidOfRing counts what this host has said about the ring.
func saidOfRing(st *mesh.State) (n int) {
	for _, e := range st.Logs[st.Self] {
		if e.Kind == mesh.KindGrant {
			n++
		}
	}
	return n
}

var (
	errRingLogFull = errors.New("the log of what this host has said about the ring is full: see docs/operations.md, \"A mesh that has had many hosts\"")
	errNotHeard    = errors.New("a proof is of what this host has not heard of yet")
)

// heirs is how many electors keep what a departed host has said, maxCopies how many
// entries of that in one pass.
const (
	heirs     = 2
	maxCopies = 64
)

// inherit are copies of what a departed host has said, or kept, that the ring rests
// on: its log will be removed. The first electors in reach keep it. What proves who owns
// what, the owners have.
func (r *Router) inherit(b *books, e ipam.Env) []mesh.Draft {
	var keepers []ipam.Owner
	for _, o := range b.ledger.Electors() {
		if e.Alive(o) && !e.Gone(o) && len(keepers) < heirs {
			keepers = append(keepers, o)
		}
	}
	if len(keepers) > 0 && !slices.Contains(keepers, ipam.Owner(b.st.Self)) {
		return nil
	}
	var ds []mesh.Draft
	var have map[string]bool
	based := false
	for _, s := range b.folded.Source {
		if !b.folded.Gone[s.Keeper] || !b.ledger.Relies(s.Fact) {
			continue
		}
		if s.Fact.Kind == ipam.FactBase {
			based = true
			continue
		}
		key := s.Key
		if h, ok := b.st.Host(s.Entry.Author); key == nil && ok {
			key = h.Record.Identity
		}
		if len(key) != 32 {
			continue
		}
		if have == nil {
			have = map[string]bool{}
			for _, e := range b.st.Logs[b.st.Self] {
				have[string(e.Payload)] = true
			}
		}
		if p := encodeKept(key, s.Entry); !have[string(p)] {
			have[string(p)] = true
			ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: p})
		}
	}
	if based {
		ds = append(ds, ownPieces(b)...)
	}
	return ds
}

// rests says whether a departed host's log is needed: it owns something that nobody
// has taken, or it is an elector or to take something over. It goes when `weft rmpeer`
// has put that right.
func (r *Router) rests(id peer.ID) bool {
	b := r.books.Load()
	if b == nil {
		return true // nothing is known yet
	}
	o := ipam.Owner(id)
	return len(b.ledger.Ring().Owned(o)) > 0 || slices.Contains(b.ledger.Electors(), o) ||
		slices.ContainsFunc(b.ledger.Takeovers(), func(t ipam.Takeover) bool { return t.To == o && b.ledger.Pending(t) })
}

// acceptance are the entries by which this host takes grants that the host with
// that identity key made to it, and keeps the chains that prove them: of the copies
// that came, those that this host would make itself, since what is kept is kept
// for ever. leaver is who hands over all that it has, and what it has said.
func (r *Router) acceptance(b *books, key []byte, g gift, leaver peer.ID) ([]mesh.Draft, error) {
	if len(key) != 32 {
		return nil, errors.New("the identity key of a giver is not known")
	}
	var ds []mesh.Draft
	id := r.member.Secret.MeshID()
	have := map[string]bool{}
	for _, e := range b.st.Logs[b.st.Self] {
		have[string(e.Payload)] = true
	}
	add := func(p []byte) {
		if !have[string(p)] {
			have[string(p)] = true
			ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: p})
		}
	}
	var prefixes []netip.Prefix
	for _, e := range g.Grants {
		p := encodeCarried(key, e)
		gr, err := parseGrant(b.st.Self, p, id)
		if err != nil {
			return nil, err
		}
		if !b.ledger.MayAccept(gr) {
			return nil, fmt.Errorf("%v gave %v, which is not its own any more", e.Author, gr.Prefix)
		}
		if g.In.IsValid() && (gr.Prefix.Bits() < g.In.Bits() || !g.In.Contains(gr.Prefix.Addr())) {
			return nil, fmt.Errorf("%v gave %v, asked for space in %v", e.Author, gr.Prefix, g.In)
		}
		prefixes = append(prefixes, gr.Prefix)
		add(p)
	}
	heard := map[string]bool{}
	for _, s := range b.folded.Source {
		heard[string(s.Entry.Raw())] = true
	}
	needed := map[string]bool{}
	for _, p := range r.proofs(b, prefixes, b.st.Self, leaver) {
		needed[string(p)] = true
	}
	for _, p := range g.Proofs {
		if len(p) < 1 || p[0] != grantKept {
			return nil, errPayload
		}
		s, err := parseFact(b.st.Self, mesh.Entry{Author: b.st.Self, Payload: p}, id)
		switch {
		case err != nil:
			return nil, err
		case needed[string(p)]:
			add(p)
		case !heard[string(s.Entry.Raw())]:
			return nil, errNotHeard
		}
	}
	if len(ds) > 0 && saidOfRing(b.st)+len(ds) > fullToTake {
		return nil, errRingLogFull
	}
	return ds, nil
}
