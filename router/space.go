package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const (
	methodAsk = "space.ask"
	askEvery  = time.Second

	// gatherEvery is how often a host whose addresses are all in use asks for more, though nobody
	// waits: all hosts do, in a range that is used up.
	gatherEvery = time.Minute
	// maxGifts is how many gifts an allocation tries before it waits a moment: who gives what is
	// of no use keeps nobody busy.
	maxGifts = 8
)

// handle answers the calls of other hosts.
func (r *Router) handle(ctx context.Context, from peer.ID, method string, body []byte) ([]byte, error) {
	switch method {
	case methodAsk:
		subnet, err := parsePrefix(body)
		if err != nil {
			return nil, err
		}
		return r.give(from, subnet)
	case methodTake:
		return nil, r.proposeFor(from, body)
	case methodReady:
		return nil, r.promise(from) // that it is answered is the answer
	case methodHand:
		return nil, r.take(ctx, from, body)
	}
	return nil, fmt.Errorf("unknown call %q", method)
}

// give grants part of this host's space in a subnet to another host, at most
// half of it, or the one address that it asks for. The grants are in this host's log, on disk, before it answers,
// and no address of them can be allocated here in between.
func (r *Router) give(to peer.ID, subnet netip.Prefix) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mayGiveLocked() != nil {
		return nil, nil
	}
	b, err := r.spaceNowLocked()
	if err != nil {
		return nil, err
	}
	if !b.ledger.Ring().Seeded() {
		r.wantedElsewhere = time.Now()
		r.Poke()
		return nil, nil
	}
	if saidOfRing(b.st) > fullToGive {
		return nil, errRingLogFull
	}
	gs := b.ledger.Donate(ipam.Owner(to), r.alloc.Used, subnet)
	if len(gs) == 0 {
		return nil, nil
	}
	proofs := r.proofs(b, prefixesOf(gs), to, peer.ID{})
	var ds []mesh.Draft
	for _, g := range gs {
		b, err := encodeGrant(g)
		if err != nil {
			return nil, err
		}
		ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: b})
	}
	es, err := r.mesh.Append(ds...)
	if err != nil {
		return nil, err
	}
	if _, err := r.spaceNowLocked(); err != nil {
		return nil, err
	}
	for _, g := range gs {
		r.log.Info("granted address space", "prefix", g.Prefix.String(), "peer", to.String())
	}
	r.Poke()
	return gift{Grants: es, Proofs: proofs}.encode(), nil
}

func prefixesOf(gs []ipam.Grant) []netip.Prefix {
	ps := make([]netip.Prefix, len(gs))
	for i, g := range gs {
		ps[i] = g.Prefix
	}
	return ps
}

// spaceNowLocked tells the allocator, once there is one, what this host may use. It takes nobody's
// ledger for that: grants are made under mu, and one that was read before lacks the last of them.
// mu is held.
func (r *Router) spaceNowLocked() (*books, error) {
	b, err := r.booksNow()
	if err == nil && r.alloc != nil {
		r.alloc.SetSpace(b.ledger.Ring(), b.ledger.Usable())
	}
	return b, err
}

// ringNow folds the ring from the newest state, not that of the last pass.
func (r *Router) ringNow() (*ipam.Ring, error) {
	b, err := r.booksNow()
	if err != nil {
		return nil, err
	}
	return b.ledger.Ring(), nil
}

// donors are the hosts that may have space in a subnet, at random, those with much
// of it sooner; while nobody has any, those that decide when the ring begins. Without need
// only those that have a lot more than this host.
func (r *Router) donors(w want) ([]peer.ID, error) {
	b, err := r.booksNow()
	if err != nil {
		return nil, err
	}
	var ids []peer.ID
	if !b.ledger.Ring().Seeded() {
		for _, o := range b.ledger.Electors() {
			ids = append(ids, peer.ID(o))
		}
		return ids, nil
	}
	ring, self := b.ledger.Ring(), ipam.Owner(r.id.ID())
	asked := ring.Asked(self, w.subnet, rand.Float64)
	if !w.needed && len(b.ledger.Usable()) > 0 { // what it owns and may not use, since it was taken over, is no share
		asked = ring.Spares(asked, self, w.subnet)
	}
	for _, o := range asked {
		ids = append(ids, peer.ID(o))
	}
	return ids, nil
}

// mayAsk says whether a host is in reach, and why this one can take no space now.
func (r *Router) mayAsk(id peer.ID) (bool, error) {
	h, ok := r.mesh.State().Host(id)
	return ok && !h.Self && h.Liveness == mesh.Alive, r.mayTake()
}

// asksFor is what a host is asked for that may have space: half of that in the subnet, or,
// where half is nothing and somebody here needs it, its one address. Hosts without need
// would pass it to each other for ever.
func (r *Router) asksFor(id peer.ID, w want) netip.Prefix {
	if ring, err := r.ringNow(); err == nil && w.needed {
		if one, ok := ring.Single(ipam.Owner(id), w.subnet); ok {
			return one
		}
	}
	return w.subnet
}

func (r *Router) askOne(ctx context.Context, id peer.ID, w want) (bool, error) {
	subnet := r.asksFor(id, w)
	before, err := r.ringNow()
	if err != nil {
		return false, err
	}
	answer, err := r.mesh.Call(ctx, id, methodAsk, encodePrefix(subnet))
	if err != nil {
		return false, err
	}
	g, err := parseGift(answer)
	if err != nil || len(g.Grants) == 0 {
		return false, err
	}
	g.In = subnet
	if err := r.carry(ctx, id, g, peer.ID{}); err != nil {
		return false, err
	}
	// It may have come by the giver's log before the answer, or long ago.
	now, err := r.ringNow()
	self := ipam.Owner(r.id.ID())
	return err == nil && !slices.Equal(before.Owned(self), now.Owned(self)), err
}

// carry copies grants that another host made to this one into the own log, with
// the chain that proves them: also when the giver is gone. From then on this host
// uses the space. leaver: see acceptance.
func (r *Router) carry(ctx context.Context, from peer.ID, g gift, leaver peer.ID) error {
	key, err := r.identityOf(from)
	if err != nil {
		return err
	}
	for _, e := range g.Grants {
		if e.Author != from {
			return fmt.Errorf("grant in the name of %v", e.Author)
		}
	}
	if err := r.accept(key, g, leaver); err != nil {
		return err
	}
	_ = r.pass(ctx) // the grants are kept, whatever else ails the host
	return nil
}

// mayTake says why this host can take no space now.
func (r *Router) mayTake() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noticeSleepLocked()
	switch {
	case r.unproven:
		return ipam.ErrUnproven
	case r.resetting: // it would go with this host
		return errResetting
	}
	return nil
}

// accept writes it. applyMu keeps it apart from what deliberate says meanwhile:
// that a giver is known to be dead.
func (r *Router) accept(key []byte, g gift, leaver peer.ID) error {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	b, err := r.booksNow()
	if err != nil {
		return err
	}
	if err := r.mayTake(); err != nil {
		return err
	}
	ds, err := r.acceptance(b, key, g, leaver)
	if err != nil || len(ds) == 0 {
		return err
	}
	_, err = r.mesh.Append(ds...)
	return err
}

func (r *Router) identityOf(id peer.ID) ([]byte, error) {
	for _, h := range r.mesh.State().Hosts {
		if h.ID == id && len(h.Record.Identity) == 32 {
			return h.Record.Identity, nil
		}
	}
	return nil, fmt.Errorf("the identity key of %v is not known", id)
}

// gatherSpace gets this host a part of the ring whenever it has none: as soon as
// it has joined, so that containers can be attached here while everybody else is
// out of reach, and when it finds that its part was taken over. A host whose addresses are
// all in use, as those are that were claimed, asks for more, once in a while.
func (r *Router) gatherSpace(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var asked time.Time // though it has some
	for {
		seen := r.asks.given.Load()
		lacks := !r.hasSpace()
		if !lacks && time.Since(asked) >= gatherEvery && r.isFull() {
			lacks, asked = true, time.Now()
		}
		if ring, err := r.ringNow(); err == nil && lacks && (ring.Seeded() || r.isWanted()) && r.mayTake() == nil {
			r.mu.Lock()
			needed := r.priming > 0
			r.mu.Unlock()
			if _, err := r.asks.ask(ctx, want{r.defaultSubnet(), needed}, seen); err != nil && ctx.Err() == nil {
				r.log.Debug("ask for address space", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// isFull says that all addresses which this host may use are in use, or on hold.
func (r *Router) isFull() bool {
	b, err := r.booksNow()
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alloc != nil && !slices.ContainsFunc(b.ledger.Usable(), func(p netip.Prefix) bool { return !r.alloc.Full(p) })
}

// allocate gives a container an address in a subnet (invalid: the default one).
// It asks the other hosts when this one has none left, and waits until ctx ends.
func (r *Router) allocate(ctx context.Context, key string, subnet netip.Prefix) (ipam.Allocation, bool, error) {
	if r.o.NoIPAM {
		return ipam.Allocation{}, false, &Error{Msg: "this router was launched without an address range and allocates nothing", Code: 409,
			Tip: "name the address: weft attach 10.32.1.1/24 CONTAINER"}
	}
	if err := checkAddress(subnet); err != nil && subnet.IsValid() {
		return ipam.Allocation{}, false, err
	}
	return r.await(ctx, func() (al ipam.Allocation, isNew bool, err error) {
		for range maxGifts {
			seen := r.asks.given.Load()
			al, isNew, err = r.tryAllocate(key, subnet)
			if !errors.Is(err, ipam.ErrNoSpace) {
				return al, isNew, err
			}
			w := want{subnet, true}
			if !subnet.IsValid() {
				w.subnet = r.defaultSubnet()
			}
			if got, _ := r.asks.ask(ctx, w, seen); !got {
				return al, isNew, err
			}
		}
		return al, isNew, err
	})
}

// await tries to get an address until it is given or refused for good, or ctx ends.
// Meanwhile status says what is waited for.
func (r *Router) await(ctx context.Context, try func() (ipam.Allocation, bool, error)) (al ipam.Allocation, isNew bool, err error) {
	counted := false
	defer func() {
		if counted {
			r.waitsForSpace(-1, 0)
		}
	}()
	if ended := r.until(ctx, func() bool {
		al, isNew, err = try()
		if waits(err) && !counted {
			counted = true
			r.waitsForSpace(1, 0)
		}
		return !waits(err)
	}); ended != nil {
		return ipam.Allocation{}, false, ended
	}
	return al, isNew, err
}

// until tries after every pass, and every second, until it is done or ctx ends.
func (r *Router) until(ctx context.Context, try func() (done bool)) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		again := r.passes.next()
		if try() {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-tick.C:
		}
	}
	return context.Cause(ctx)
}

func (r *Router) tryAllocate(key string, subnet netip.Prefix) (ipam.Allocation, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	alloc, err := r.allocatorLocked()
	if err != nil {
		return ipam.Allocation{}, false, err
	}
	al, isNew, err := alloc.Allocate(key, subnet)
	if err != nil && !waits(err) {
		return al, false, &Error{Err: err, Code: 400, Tip: "`weft status ipam` shows the range"}
	}
	return al, isNew, err
}

// mayGiveLocked says why this host can give nothing of the range to anybody anew; nil: it
// can. Whoever is about to asks. mu is held.
func (r *Router) mayGiveLocked() error {
	r.noticeSleepLocked()
	switch {
	case r.resetting:
		return errResetting
	case r.alloc == nil:
		return ipam.ErrNotReady
	case r.unadopted != nil:
		return r.unadopted
	case r.unproven:
		return ipam.ErrUnproven
	}
	return nil
}

// allocatorLocked is the allocator, once this host has joined and knows what its containers
// have, and until it is reset. mu is held.
func (r *Router) allocatorLocked() (*ipam.Allocator, error) {
	// Unproven, it gives nothing anew, and containers what they have.
	if err := r.mayGiveLocked(); err != nil && !errors.Is(err, ipam.ErrUnproven) {
		return nil, err
	}
	return r.alloc, nil
}

// waits says that no address could be given for now: it is tried again.
func waits(err error) bool {
	return errors.Is(err, ipam.ErrNoSpace) || errors.Is(err, ipam.ErrNotReady) || errors.Is(err, ipam.ErrUnproven) || errors.Is(err, errUnproven) || errors.Is(err, errUnadopted)
}

// waitsForSpace counts the calls that wait for addresses, and those that wait
// until there are any.
func (r *Router) waitsForSpace(allocating, priming int) {
	r.mu.Lock()
	r.allocating += allocating
	r.priming += priming
	switch wanted := r.allocating+r.priming > 0; {
	case !wanted:
		r.wantedSince = time.Time{}
	case r.wantedSince.IsZero():
		r.wantedSince = time.Now()
		time.AfterFunc(patience+10*time.Millisecond, r.Poke)
	}
	r.mu.Unlock()
	r.Poke()
}

// isWanted says whether somebody here has waited for addresses for a moment.
func (r *Router) isWanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wantedLocked(time.Now())
}

func (r *Router) wantedLocked(now time.Time) bool {
	return !r.wantedSince.IsZero() && now.Sub(r.wantedSince) >= patience
}

// hasSpace says whether addresses can be allocated here.
func (r *Router) hasSpace() bool {
	b, err := r.booksNow()
	return err == nil && len(b.ledger.Usable()) > 0
}

// prime waits until addresses can be allocated.
func (r *Router) prime(ctx context.Context) error {
	if r.o.NoIPAM {
		return &Error{Msg: "this router was launched without an address range and allocates nothing", Code: 409,
			Tip: "name addresses yourself: weft attach ip:192.0.2.1/24 CONTAINER"}
	}
	r.waitsForSpace(0, 1)
	defer r.waitsForSpace(0, -1)
	var err error
	ended := r.until(ctx, func() bool {
		seen := r.asks.given.Load()
		r.mu.Lock()
		err = r.mayGiveLocked()
		r.mu.Unlock()
		if err != nil {
			return !waits(err)
		}
		if r.hasSpace() || !r.beginning.observer {
			return r.hasSpace()
		}
		// An observer has asked for none yet.
		if _, err := r.asks.ask(ctx, want{r.defaultSubnet(), true}, seen); err != nil && ctx.Err() == nil {
			r.log.Debug("ask for address space", "err", err)
		}
		return r.hasSpace()
	})
	return cmp.Or(ended, err)
}

// adoptFounding keeps on disk what a newcomer learnt about its mesh.
func (r *Router) adoptFounding(ctx context.Context) error {
	if !r.member.Founding.IsZero() {
		return nil
	}
	for {
		again := r.passes.next()
		if f := r.mesh.State().Founding; !f.IsZero() {
			b, err := f.MarshalBinary()
			if err != nil {
				return err
			}
			if err := r.db.Apply(bucketRouter, map[string][]byte{keyFounding: b}, nil); err != nil {
				return err
			}
			r.log.Info("became a member", "mesh", r.member.Secret.MeshID().String(), "founder", f.Founder.String())
			if err := r.warnOverlap(f.Range); err != nil {
				r.log.Warn("look for routes that overlap the range", "err", err)
			}
			r.restoreAllocations(f)
			r.Poke()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		}
	}
}
