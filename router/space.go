package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const (
	methodAsk = "space.ask"
	askEvery  = time.Second
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
	case methodReady:
		return nil, r.promise() // that it is answered is the answer
	case methodHand:
		return nil, r.take(ctx, from, body)
	}
	return nil, fmt.Errorf("unknown call %q", method)
}

// give grants part of this host's space in a subnet to another host, at most
// half of it. The grants are in this host's log, on disk, before it answers,
// and no address of them can be allocated here in between.
func (r *Router) give(to peer.ID, subnet netip.Prefix) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alloc == nil || r.resetting {
		return nil, nil
	}
	ring, err := r.ringNow()
	if err != nil {
		return nil, err
	}
	r.alloc.SetRing(ring)
	gs := ipam.Donate(ring, ipam.Owner(r.id.ID()), ipam.Owner(to), r.alloc.Used, subnet)
	if len(gs) == 0 {
		return nil, nil
	}
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
	if ring, err = r.ringNow(); err != nil {
		return nil, err
	}
	r.alloc.SetRing(ring)
	for _, g := range gs {
		r.log.Info("granted address space", "prefix", g.Prefix.String(), "peer", to.String())
	}
	r.Poke()
	return encodeEntries(es), nil
}

// ringNow folds the ring from the newest state, not that of the last pass.
func (r *Router) ringNow() (*ipam.Ring, error) {
	st := r.mesh.State()
	if !st.Founding.Range.IsValid() {
		return nil, ipam.ErrNotReady
	}
	ring, _ := ipam.NewRing(st.Founding.Range, r.foldNow(st).Grants)
	return ring, nil
}

// ask asks the others for space in a subnet, the one with most of it first, and
// says whether somebody gave some.
func (r *Router) ask(ctx context.Context, subnet netip.Prefix) (bool, error) {
	ring, err := r.ringNow()
	if err != nil {
		return false, err
	}
	st := r.mesh.State()
	alive := map[peer.ID]bool{}
	for _, h := range st.Hosts {
		alive[h.ID] = !h.Self && h.Liveness == mesh.Alive
	}
	var errs []error
	for _, o := range ring.Donors(ipam.Owner(r.id.ID()), subnet) {
		id := peer.ID(o)
		if !alive[id] {
			continue
		}
		got, err := r.askOne(ctx, id, subnet)
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %v for address space: %w", id, err))
			continue
		}
		if got {
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}

func (r *Router) askOne(ctx context.Context, id peer.ID, subnet netip.Prefix) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := r.mesh.Call(ctx, id, methodAsk, encodePrefix(subnet))
	if err != nil {
		return false, err
	}
	es, err := parseEntries(answer)
	if err != nil || len(es) == 0 {
		return false, err
	}
	if err := r.carry(ctx, id, es); err != nil {
		return false, err
	}
	return true, nil
}

// carry copies grants that another host made to this one into the own log: they
// are this host's proof, also when the giver is gone.
func (r *Router) carry(ctx context.Context, from peer.ID, es []mesh.Entry) error {
	ds, err := r.carried(from, es)
	if err != nil {
		return err
	}
	if _, err := r.mesh.Append(ds...); err != nil {
		return err
	}
	_ = r.pass(ctx) // the grants are kept, whatever else ails the host
	return nil
}

// carried are another host's grants to this one as they go into the own log.
func (r *Router) carried(from peer.ID, es []mesh.Entry) ([]mesh.Draft, error) {
	key, err := r.identityOf(from)
	if err != nil {
		return nil, err
	}
	var ds []mesh.Draft
	for _, e := range es {
		d := mesh.Draft{Kind: mesh.KindGrant, Payload: encodeCarried(key, e)}
		if e.Author != from {
			return nil, fmt.Errorf("grant in the name of %v", e.Author)
		}
		if _, err := parseGrant(r.id.ID(), d.Payload, r.member.Secret.MeshID()); err != nil {
			return nil, err
		}
		ds = append(ds, d)
	}
	return ds, nil
}

func (r *Router) identityOf(id peer.ID) ([]byte, error) {
	for _, h := range r.mesh.State().Hosts {
		if h.ID == id && len(h.Record.Identity) == 32 {
			return h.Record.Identity, nil
		}
	}
	return nil, fmt.Errorf("the identity key of %v is not known", id)
}

// gatherSpace gets this host a part of the ring as soon as it has joined, so
// that containers can be attached here while everybody else is out of reach.
func (r *Router) gatherSpace(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		if r.hasSpace() {
			return nil
		}
		if ring, err := r.ringNow(); err == nil && ring.Seeded() {
			if _, err := r.ask(ctx, r.defaultSubnet()); err != nil && ctx.Err() == nil {
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

// allocate gives a container an address in a subnet (invalid: the default one).
// It asks the other hosts when this one has none left, and waits until ctx ends.
func (r *Router) allocate(ctx context.Context, key string, subnet netip.Prefix) (ipam.Allocation, bool, error) {
	if r.o.NoIPAM {
		return ipam.Allocation{}, false, &Error{Msg: "this router was launched without an address range and allocates nothing", Code: 409,
			Tip: "name the address: weft attach 10.32.1.1/24 CONTAINER"}
	}
	counted := false
	defer func() {
		if counted {
			r.mu.Lock()
			r.allocating--
			r.mu.Unlock()
		}
	}()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	if err := checkAddress(subnet); err != nil && subnet.IsValid() {
		return ipam.Allocation{}, false, err
	}
	for {
		again := r.passes.next()
		if al, isNew, err := r.tryAllocate(key, subnet); err == nil || !errors.Is(err, ipam.ErrNoSpace) && !errors.Is(err, ipam.ErrNotReady) {
			return al, isNew, err
		} else if errors.Is(err, ipam.ErrNoSpace) {
			want := subnet
			if !want.IsValid() {
				want = r.defaultSubnet()
			}
			if got, _ := r.ask(ctx, want); got {
				continue
			}
		}
		if !counted {
			counted = true
			r.mu.Lock()
			r.allocating++
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return ipam.Allocation{}, false, ctx.Err()
		case <-again:
		case <-tick.C:
		}
	}
}

func (r *Router) tryAllocate(key string, subnet netip.Prefix) (ipam.Allocation, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resetting {
		return ipam.Allocation{}, false, errResetting
	}
	if r.alloc == nil {
		return ipam.Allocation{}, false, ipam.ErrNotReady
	}
	al, isNew, err := r.alloc.Allocate(key, subnet)
	if err != nil && !errors.Is(err, ipam.ErrNoSpace) && !errors.Is(err, ipam.ErrNotReady) {
		return al, false, &Error{Err: err, Code: 400, Tip: "`weft status ipam` shows the range"}
	}
	return al, isNew, err
}

// hasSpace says whether addresses can be allocated here.
func (r *Router) hasSpace() bool {
	ring, err := r.ringNow()
	return err == nil && len(ring.Owned(ipam.Owner(r.id.ID()))) > 0
}

// prime waits until addresses can be allocated.
func (r *Router) prime(ctx context.Context) error {
	if r.o.NoIPAM {
		return &Error{Msg: "this router was launched without an address range and allocates nothing", Code: 409,
			Tip: "name addresses yourself: weft attach ip:192.0.2.1/24 CONTAINER"}
	}
	for {
		again := r.passes.next()
		if r.hasSpace() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again:
		}
	}
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
