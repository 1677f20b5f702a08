package router

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/api"
	"weft/ipam"
)

// The /ip operations are for programs that wire containers themselves: they
// hold addresses under an ID of the program's choice, and touch no interface.

func (r *Router) pathPrefix(q *api.Request) (netip.Prefix, error) {
	s := q.Path("ip") + "/" + q.Path("plen")
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, badRequest("for example /ip/ID/10.32.0.9/12", "%q is not an address with a prefix length", s)
	}
	return p, nil
}

func (r *Router) allocateIP(ctx context.Context, q *api.Request) (any, error) {
	arg := ipam.AddrArg{Kind: ipam.ArgDefault}
	if q.Path("ip") != "" {
		p, err := r.pathPrefix(q)
		if err != nil {
			return nil, err
		}
		arg = ipam.AddrArg{Kind: ipam.ArgNet, Prefix: p.Masked()}
	}
	return r.hold(ctx, q.Path("id"), arg)
}

func (r *Router) claimIP(ctx context.Context, q *api.Request) (any, error) {
	p, err := r.pathPrefix(q)
	if err != nil {
		return nil, err
	}
	return r.hold(ctx, q.Path("id"), ipam.AddrArg{Kind: ipam.ArgIP, Prefix: p})
}

// holding is a call under way that is to hold an address for an ID.
type holding struct {
	key    string
	claim  netip.Addr // the address that it is to be; invalid: any
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

var errFreed = &Error{Msg: "the ID was freed while an address was obtained for it", Code: 409}

// hold gives an ID an address without wiring anything: a persisted attachment
// without a namespace. The address is obtained before the ID is locked, as in
// attach: freeing the ID must not have to wait for the mesh.
func (r *Router) hold(ctx context.Context, id string, arg ipam.AddrArg) (any, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := &holding{key: heldPrefix + id, cancel: cancel, ended: make(chan struct{})}
	if arg.Kind == ipam.ArgIP {
		h.claim = arg.Prefix.Addr()
	}
	r.mu.Lock()
	r.holding = append(r.holding, h)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.holding = slices.DeleteFunc(r.holding, func(o *holding) bool { return o == h })
		r.mu.Unlock()
		close(h.ended)
	}()
	var got netip.Prefix
	var err error
	if ended := r.until(ctx, func() bool {
		got, err = r.holdOne(ctx, h.key, arg)
		return !waits(err)
	}); ended != nil {
		return nil, ended
	}
	if err != nil {
		return nil, err
	}
	r.Poke()
	return got.String() + "\n", nil
}

func (r *Router) holdOne(ctx context.Context, key string, arg ipam.AddrArg) (netip.Prefix, error) {
	al, isNew, err := r.obtain(ctx, key, arg)
	if err != nil {
		return netip.Prefix{}, err
	}
	if err := r.keepHeld(ctx, al); err != nil {
		if isNew {
			r.giveBack([]ipam.Allocation{al})
		}
		return netip.Prefix{}, err
	}
	return al.Addr, nil
}

// keepHeld makes an address that was obtained the ID's, unless it was freed meanwhile.
func (r *Router) keepHeld(ctx context.Context, al ipam.Allocation) error {
	unlock, err := r.ops.lock(ctx, al.Container)
	if err != nil {
		return err
	}
	defer unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stillHeldLocked(al.Container, []ipam.Allocation{al}); err != nil {
		return err
	}
	a := &attachment{Key: al.Container}
	if have := r.attached[a.Key]; have != nil {
		a = have.clone()
	}
	a.addAddr(al.Addr, al.Claimed)
	return r.putAttachmentLocked(a)
}

// getIP lists the addresses of an ID: all, or those in a subnet.
func (r *Router) getIP(_ context.Context, q *api.Request) (any, error) {
	var subnet netip.Prefix
	if q.Path("ip") != "" {
		p, err := r.pathPrefix(q)
		if err != nil {
			return nil, err
		}
		subnet = p.Masked()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, key := range []string{heldPrefix + q.Path("id"), q.Path("id")} {
		a := r.attached[key]
		if a == nil {
			continue
		}
		for _, p := range a.Addrs {
			if !subnet.IsValid() || p.Masked() == subnet {
				b.WriteString(p.String() + "\n")
			}
		}
	}
	if b.Len() == 0 {
		return nil, notHeld(q.Path("id"))
	}
	return b.String(), nil
}

func (r *Router) isAttached(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attached[key] != nil
}

func notHeld(id string) error {
	return &Error{Msg: "no such address is held for " + id, Tip: "GET /ip/" + id + " lists what is", Code: 404}
}

func (r *Router) freeIP(ctx context.Context, q *api.Request) (any, error) {
	var ip netip.Addr
	switch s := q.Path("ip"); {
	case q.Path("plen") != "":
		p, err := r.pathPrefix(q)
		if err != nil {
			return nil, err
		}
		ip = p.Addr()
	case s != "":
		var err error
		if ip, err = netip.ParseAddr(s); err != nil {
			return nil, badRequest("for example /ip/ID/10.32.0.9", "%q is not an address", s)
		}
	}
	return answer(r.freeHeld(ctx, q.Path("id"), ip))
}

// freeHeld frees one address of an ID, or all (invalid), and ends the calls that are about to
// hold the same. It waits for no other host.
func (r *Router) freeHeld(ctx context.Context, id string, ip netip.Addr) (string, error) {
	key := heldPrefix + id
	wanted := func(a netip.Addr) bool { return !ip.IsValid() || ip == a }
	var ending []*holding
	r.mu.Lock()
	for _, h := range r.holding {
		if h.key == key && wanted(h.claim) {
			h.cancel(errFreed)
			ending = append(ending, h)
		}
	}
	r.mu.Unlock()
	for _, h := range ending { // else they would free what the next call obtains
		select {
		case <-h.ended:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	unlock, err := r.ops.lock(ctx, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	r.mu.Lock()
	have := r.attached[key]
	r.mu.Unlock()
	a := &attachment{Key: key}
	if have != nil {
		a = have.clone()
	}
	var gone []netip.Addr
	for _, p := range slices.Clone(a.Addrs) {
		if wanted(p.Addr()) {
			gone = append(gone, p.Addr())
			a.dropAddr(p.Addr())
		}
	}
	switch {
	case len(gone) == 0 && len(ending) > 0:
		return "0\n", nil
	case len(gone) == 0 && r.isAttached(id): // GET lists what it has
		return "", &Error{Msg: id + " is attached: its addresses are not a program's to free", Tip: "weft detach " + id, Code: 409}
	case len(gone) == 0:
		return "", notHeld(id)
	}
	r.mu.Lock()
	err = r.putAttachmentLocked(a)
	r.mu.Unlock()
	if err != nil {
		return "", err
	}
	for _, ip := range gone {
		r.free(key, ip)
	}
	r.Poke()
	return strconv.Itoa(len(gone)) + "\n", nil
}
