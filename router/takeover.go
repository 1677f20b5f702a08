package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// methodTake asks an elector to propose a takeover: body is the dead host's ID.
const methodTake = "space.take"

// takePatience is how long a takeover may take. It is over in a second when all
// electors are there.
const takePatience = 20 * time.Second

// settlePatience is how long a takeover that is decided is waited for: it is carried out in
// the next moment, if nothing is in its way.
const settlePatience = 5 * time.Second

// removed is the answer of DELETE /peer/{id}.
type removed struct {
	Peer     string `json:"peer"`
	Nickname string `json:"nickname,omitempty"`
	IPs      uint64 `json:"ips"`
	Forced   bool   `json:"forced,omitempty"`
}

// findPeer finds a host by its ID or nickname.
func findPeer(st *mesh.State, name string) (mesh.Host, error) {
	var found []mesh.Host
	for _, h := range st.Hosts {
		if h.ID.String() == name {
			return h, nil
		}
		if h.Record.Nickname == name && name != "" {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return mesh.Host{}, &Error{Msg: fmt.Sprintf("no host %q is known", name), Tip: "`weft status ipam` and `weft status peers` list them", Code: 404}
	}
	return mesh.Host{}, &Error{Msg: fmt.Sprintf("%d hosts have the nickname %q", len(found), name), Tip: "name it by its peer ID: `weft status peers`", Code: 409}
}

// removePeer takes over the address space of a host that is dead: by a majority
// of those that own space, or by force.
func (r *Router) removePeer(ctx context.Context, name string, force bool) (removed, error) {
	if r.isUnproven() {
		return removed{}, errUnproven
	}
	b, err := r.booksNow()
	if err != nil {
		return removed{}, errNotJoined
	}
	h, err := findPeer(b.st, name)
	if err != nil {
		return removed{}, err
	}
	shown := label(h.ID.String(), h.Record.Nickname)
	dead := ipam.Owner(h.ID)
	gone := b.folded.Gone[h.ID]
	out := removed{Peer: h.ID.String(), Nickname: h.Record.Nickname, Forced: force}
	r.mu.Lock()
	away := time.Since(r.lastAliveLocked(h.ID))
	_, seen := r.lastAlive[h.ID]
	r.mu.Unlock()
	switch {
	case h.Self:
		return out, &Error{Msg: "this is the host itself", Tip: "`weft reset` hands its address space to another host and leaves the mesh", Code: 409}
	case h.Liveness == mesh.Alive && !gone:
		return out, &Error{Msg: fmt.Sprintf("%s is alive", shown), Tip: "run `weft reset` on it: it hands its address space over", Code: 409}
	case !b.ledger.Mortal(dead):
		t, _ := takenBefore(b, dead)
		b = r.carriedOut(ctx, b, t, r.booksNow)
		switch pending, mine := b.ledger.Pending(t), t.To == ipam.Owner(b.st.Self); {
		case mine && pending:
			return out, r.whyNotTaken(b, h, shown, nil)
		case mine: // asked again: it is as wanted
			out.IPs, out.Forced = taken(b, t), t.Forced
			return out, nil
		case pending:
			r.mu.Lock()
			e := r.envLocked(b)
			r.mu.Unlock()
			why, tip := r.waitsFor(b, e, t)
			return out, &Error{Msg: fmt.Sprintf("%s is to take over from %s, and can not yet: %s", r.show(b.st, t.To), shown, why), Tip: tip, Code: 409}
		}
		return out, &Error{Msg: fmt.Sprintf("%s took over from %s already", r.show(b.st, t.To), shown), Tip: "`weft status ipam` shows who owns what", Code: 409}
	case !gone && !force && away < deadAfter:
		return out, tooSoon(shown, name, away, seen)
	}
	before := b.ledger.Takeovers()
	if force {
		if err := r.force(dead); err != nil {
			return out, err
		}
	} else if err := r.propose(ctx, b, h.ID); err != nil {
		return out, err
	}
	defer func() {
		r.mu.Lock()
		if w := r.taking[h.ID]; w.to.IsZero() { // not somebody else's
			delete(r.taking, h.ID)
		}
		r.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, takePatience)
	defer cancel()
	for {
		again := r.passes.next()
		if b, err = r.booksNow(); err != nil {
			return out, err
		}
		for _, t := range b.ledger.Takeovers() {
			if t.From != dead || slices.Contains(before, t) {
				continue
			}
			if t.To != ipam.Owner(b.st.Self) {
				return out, &Error{Msg: fmt.Sprintf("%s took over from %s at the same time", r.show(b.st, t.To), shown), Tip: "nothing is left to do: `weft status ipam`", Code: 409}
			}
			if !b.ledger.Pending(t) {
				out.IPs = taken(b, t)
				r.log.Info("took over a dead host", "peer", h.ID.String(), "addresses", out.IPs, "forced", t.Forced)
				return out, nil
			}
		}
		select {
		case <-again:
		case <-ctx.Done():
			return out, r.whyNotTaken(b, h, shown, before)
		}
	}
}

// carriedOut waits, for a while, until a takeover is no longer pending, and returns the newest
// books that look has.
func (r *Router) carriedOut(ctx context.Context, b *books, t ipam.Takeover, look func() (*books, error)) *books {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for {
		again := r.passes.next()
		if now, err := look(); err == nil {
			b = now
		}
		if !b.ledger.Pending(t) {
			return b
		}
		select {
		case <-again:
		case <-ctx.Done():
			return b
		}
	}
}

// tooSoon refuses to take a host for dead that was last in reach, or, if this router
// has never seen it, could last have been, away ago.
func tooSoon(shown, name string, away time.Duration, seen bool) error {
	e := &Error{Msg: fmt.Sprintf("%s was seen %v ago, and is taken for dead after %v", shown, away.Round(time.Second), deadAfter), Code: 409,
		Tip: fmt.Sprintf("try again in %v: weft rmpeer %s", max(deadAfter-away, time.Second).Round(time.Second), name)}
	if !seen {
		e.Msg = fmt.Sprintf("%s is not known to have been out of reach for %v: the router of this host has run for %v", shown, deadAfter, away.Round(time.Second))
	}
	return e
}

// takenBefore finds the last takeover of a host's space.
func takenBefore(b *books, dead ipam.Owner) (ipam.Takeover, bool) {
	for _, t := range slices.Backward(b.ledger.Takeovers()) {
		if t.From == dead {
			return t, true
		}
	}
	return ipam.Takeover{}, false
}

// taken counts the addresses that a takeover has brought.
func taken(b *books, t ipam.Takeover) (n uint64) {
	seen := map[ipam.Grant]bool{}
	for _, f := range b.folded.Facts {
		if f.Kind == ipam.FactAccept && t.Brings(f.Grant) && !seen[f.Grant] {
			seen[f.Grant] = true
			n += ipam.Size(f.Grant.Prefix)
		}
	}
	return n
}

// propose makes the takeover this host's wish, or that of an elector in reach.
func (r *Router) propose(ctx context.Context, b *books, dead peer.ID) error {
	electors := b.ledger.Electors()
	if slices.Contains(electors, ipam.Owner(b.st.Self)) {
		r.mu.Lock()
		r.taking[dead], r.ballots, r.nextBallot = wish{since: time.Now()}, 0, time.Time{}
		r.mu.Unlock()
		r.Poke()
		return nil
	}
	var refusals []string
	for _, o := range electors {
		if h, ok := b.st.Host(peer.ID(o)); !ok || h.Liveness != mesh.Alive {
			continue
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := r.mesh.Call(call, peer.ID(o), methodTake, dead[:])
		cancel()
		if err == nil {
			return nil
		}
		refusals = append(refusals, fmt.Sprintf("%s: %v", r.show(b.st, o), err))
	}
	return notProposed(dead, r.show(b.st, ipam.Owner(dead)), refusals)
}

func notProposed(dead peer.ID, shown string, refusals []string) error {
	e := &Error{Msg: fmt.Sprintf("nobody proposes that %s is dead: no host that may decide is in reach", shown), Code: 409, Tip: "`weft status peers` shows who is in reach"}
	if len(refusals) > 0 {
		e.Msg = fmt.Sprintf("nobody proposes that %s is dead: %s", shown, strings.Join(refusals, "; "))
		e.Tip = fmt.Sprintf("try again in a minute: weft rmpeer %v", dead)
	}
	return e
}

// maxWishes bounds the takeovers that are wished here at a time.
const maxWishes = 8

// proposeFor makes another host's takeover this one's wish, for a while. What is
// decided stays for ever, so only the death of a host that owns something, and that
// this one sees dead as well, is worth a ballot.
func (r *Router) proposeFor(from peer.ID, body []byte) error {
	if len(body) != len(peer.ID{}) {
		return errPayload
	}
	dead := peer.ID(body)
	b, err := r.booksNow()
	if err != nil {
		return err
	}
	h, known := b.st.Host(dead)
	shown := r.show(b.st, ipam.Owner(dead))
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.envLocked(b)
	for d, w := range r.taking { // what is decided, or cannot be, has no place
		if !w.to.IsZero() && !(e.Dead(ipam.Owner(d)) && b.ledger.Mortal(ipam.Owner(d))) {
			delete(r.taking, d)
		}
	}
	old, wished := r.taking[dead]
	switch {
	case !known || h.Self:
		return fmt.Errorf("no other host %s is known here", shown)
	case !e.Dead(ipam.Owner(dead)):
		return fmt.Errorf("%s was seen here %v ago", shown, time.Since(r.lastAliveLocked(dead)).Round(time.Second))
	case !b.ledger.Mortal(ipam.Owner(dead)):
		return fmt.Errorf("%s was taken over already", shown)
	case wished && old.to != from:
		return fmt.Errorf("somebody else is taking over from %s", shown)
	case !wished && len(r.taking) >= maxWishes:
		return fmt.Errorf("%d takeovers are wished already", len(r.taking))
	}
	if !wished && time.Since(r.hastened) >= time.Minute { // who asks waits for seconds; no member fills the log
		r.hastened, r.ballots, r.nextBallot = time.Now(), 0, time.Time{}
	}
	r.taking[dead] = wish{to: from, since: time.Now(), tried: old.tried}
	time.AfterFunc(takePatience, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w := r.taking[dead]; w.to == from && time.Since(w.since) >= takePatience {
			delete(r.taking, dead)
		}
	})
	r.Poke()
	return nil
}

// wish is a takeover that this host is to propose.
type wish struct {
	to    peer.ID // zero: this host, for its operator
	since time.Time
	tried int // ballots
}

// wishLocked picks the takeover to propose: that of the ballot under way, or else the operator's
// before those of others, and by turns, since one that others do not agree to keeps none
// waiting. mu is held.
func (r *Router) wishLocked(b *books, mayTake func(ipam.Owner) bool) ipam.Value {
	var dead peer.ID
	var first wish
	for d, w := range r.taking {
		if !mayTake(ipam.Owner(d)) {
			continue
		}
		if d == r.trying && time.Now().Before(r.nextBallot) {
			dead, first = d, w
			break
		}
		if dead.IsZero() || w.before(first) {
			dead, first = d, w
		}
	}
	if dead.IsZero() {
		return ipam.Value{}
	}
	to := first.to
	if to.IsZero() {
		to = b.st.Self
	}
	return ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{ipam.Owner(dead), ipam.Owner(to)}}
}

func (w wish) before(o wish) bool {
	if w.to.IsZero() != o.to.IsZero() {
		return w.to.IsZero()
	}
	return cmp.Or(cmp.Compare(w.tried, o.tried), w.since.Compare(o.since)) < 0
}

// triedLocked notes what a ballot begins for. mu is held.
func (r *Router) triedLocked(v ipam.Value) {
	if v.Op != ipam.OpTake {
		return
	}
	r.trying = peer.ID(v.Hosts[0])
	if w, ok := r.taking[r.trying]; ok {
		w.tried++
		r.taking[r.trying] = w
	}
}

// force decides alone.
func (r *Router) force(dead ipam.Owner) error {
	r.applyMu.Lock() // two at once would be one takeover
	defer r.applyMu.Unlock()
	b, err := r.booksNow()
	if err != nil {
		return err
	}
	p, err := encodeFact(b.ledger.Force(dead))
	if err != nil {
		return err
	}
	r.log.Warn("taking over a host by force", "peer", peer.ID(dead).String())
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindGrant, Payload: p}); err != nil {
		return err
	}
	r.Poke()
	return nil
}

func (r *Router) show(st *mesh.State, o ipam.Owner) string {
	h, _ := st.Host(peer.ID(o))
	return label(peer.ID(o).String(), h.Record.Nickname)
}

// whyNotTaken says what is missing for a takeover that is none of before.
func (r *Router) whyNotTaken(b *books, h mesh.Host, shown string, before []ipam.Takeover) error {
	r.mu.Lock()
	e := r.envLocked(b)
	r.mu.Unlock()
	if t, ok := takenBefore(b, ipam.Owner(h.ID)); ok && !slices.Contains(before, t) {
		why, tip := r.waitsFor(b, e, t)
		return &Error{Msg: fmt.Sprintf("it is decided that this host takes over from %s, but not in force yet: %s", shown, why), Code: 409, Tip: tip}
	}
	electors := b.ledger.Electors()
	var missing []ipam.Owner
	for _, o := range electors {
		if !e.Alive(o) {
			missing = append(missing, o)
		}
	}
	quorum := len(electors)/2 + 1
	if len(electors)-len(missing) >= quorum {
		return &Error{Msg: fmt.Sprintf("%d of the %d hosts that own addresses have to take %s for dead; so many are in reach, and not all of them have missed it for %v yet: their routers may have started since", quorum, len(electors), shown, deadAfter), Code: 409,
			Tip: fmt.Sprintf("try again in a minute: weft rmpeer %s", h.ID)}
	}
	return &Error{Msg: fmt.Sprintf("no majority of those that own addresses has confirmed that %s is dead: %d of %d are needed, and %d are in reach (not: %s)", shown, quorum, len(electors), len(electors)-len(missing), r.showAll(b.st, missing)), Code: 409,
		Tip: fmt.Sprintf("bring more of them back; or, if it is certain that %s never comes back: weft rmpeer --force %s", shown, h.ID)}
}

// waitsFor says what a takeover that is decided and not in force waits for, and what to do.
func (r *Router) waitsFor(b *books, e ipam.Env, t ipam.Takeover) (why, tip string) {
	if e.Gone(t.To) {
		return r.show(b.st, t.To) + " has left the mesh", fmt.Sprintf("take over from it what it was to have: weft rmpeer %v", peer.ID(t.To))
	}
	if !e.Alive(t.To) {
		return r.show(b.st, t.To) + " is out of reach itself", fmt.Sprintf("it comes into force when that host is in reach again; if it is dead, too: weft rmpeer %v", peer.ID(t.To))
	}
	if t.Forced {
		return "its taker has not said yet that it has it", "try again in a moment"
	}
	if unheard := b.ledger.Unheard(t, e); len(unheard) > 0 {
		return r.showAll(b.st, unheard) + " may have been given space by it that nobody else knows of",
			"it comes into force when they are in reach again; if they are dead, too: weft rmpeer each of them"
	}
	for _, o := range b.ledger.Takeovers() {
		if o.ID < t.ID && !o.Forced && b.ledger.Pending(o) {
			why, tip = r.waitsFor(b, e, o)
			return fmt.Sprintf("first %s is to take over from %s: %s", r.show(b.st, o.To), r.show(b.st, o.From), why), tip
		}
	}
	return "its taker has not said yet that it has it", "try again in a moment"
}

func (r *Router) showAll(st *mesh.State, os []ipam.Owner) string {
	var s []string
	for _, o := range os {
		s = append(s, r.show(st, o))
	}
	return strings.Join(s, ", ")
}
