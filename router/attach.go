package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/host"
	"weft/ipam"
	"weft/peer"
)

// attachRequest is the body of POST /attach.
type attachRequest struct {
	Container        string   `json:"container"`
	Addrs            []string `json:"addrs"`
	WithoutDNS       bool     `json:"withoutDNS"`
	RewriteHosts     bool     `json:"rewriteHosts"`
	NoMulticastRoute bool     `json:"noMulticastRoute"`
}

// attach gives a container its addresses, interface and names, and returns when
// all of it is in force here. Repeating it changes nothing and returns the same
// addresses. Whatever fails, what the call allocated is given back.
func (r *Router) attach(ctx context.Context, req attachRequest) (changed, error) {
	var none changed
	args, err := parseAddrArgs(req.Addrs)
	if err != nil {
		return none, err
	}
	t, err := r.resolve(ctx, req.Container)
	if err != nil {
		return none, err
	}
	// That may take as long as the mesh has no addresses to give, or this host may give
	// none, and the container may stop meanwhile. Then nobody needs them.
	wait, stop := t.whileAlive(ctx)
	defer stop()
	var out changed
	if ended := r.until(wait, func() bool {
		out, err = r.attachAs(ctx, wait, t, req, args)
		return !waits(err)
	}); ended != nil {
		return none, ended
	}
	return out, err
}

// attachAs does it once, for a container that has been found. Addresses are obtained before
// it is locked, while wait lasts.
func (r *Router) attachAs(ctx, wait context.Context, t target, req attachRequest, args []ipam.AddrArg) (out changed, err error) {
	var none changed
	var given []ipam.Allocation // by this call
	var got []ipam.Allocation
	defer func() {
		if err != nil {
			r.giveBack(given)
		}
	}()
	for _, arg := range args {
		al, isNew, err := r.obtain(wait, t.Key, arg)
		if err != nil {
			return none, err
		}
		if isNew {
			given = append(given, al)
		}
		got = append(got, al)
	}
	unlock, err := r.ops.lock(wait, t.Key)
	if err != nil {
		return none, err
	}
	defer unlock()
	before := t
	if t, err = r.resolve(ctx, req.Container); err != nil {
		return none, err
	}
	if err := before.same(t); err != nil {
		return none, err
	}
	addrs, err := r.attachLocked(t, req, got)
	if err != nil {
		return none, err
	}
	given = nil
	warn := warnings(r.pass(ctx))
	r.mu.Lock()
	a := r.attached[t.Key]
	r.mu.Unlock()
	if err := r.rewriteHosts(a); err != nil {
		warn = append(warn, fmt.Sprintf("the hosts file of %s was not rewritten: %s", req.Container, describe(err)))
	}
	return changed{addrs, warn}, nil
}

// changed is the answer to an attach or a detach.
type changed struct {
	Addresses []netip.Addr `json:"addresses"`
	Warnings  []string     `json:"warnings,omitempty"`
}

// attachLocked does it for a container that is locked. Whatever fails, the
// container has afterwards what it had before.
func (r *Router) attachLocked(t target, req attachRequest, got []ipam.Allocation) ([]netip.Addr, error) {
	r.mu.Lock()
	before := r.attached[t.Key]
	r.mu.Unlock()
	var addrs []netip.Addr
	for _, al := range got {
		addrs = append(addrs, al.Addr.Addr())
	}
	a := attachedTo(before, t, req, got, r.defaultName(t), r.o.Domain)
	if err := r.heldBack(a); err != nil {
		return nil, err
	}
	r.mu.Lock()
	err := r.stillHeldLocked(t.Key, got)
	if err == nil {
		err = r.putAttachmentLocked(a) // on disk before it is used
	}
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := r.wire(a.clone()); err != nil {
		if ended := t.lives(); ended != nil {
			err = ended
		}
		r.mu.Lock()
		if before != nil {
			err = errors.Join(err, r.putAttachmentLocked(before))
		} else {
			err = errors.Join(err, r.dropAttachmentLocked(t.Key))
			before = &attachment{Key: t.Key, NetNS: t.NetNS}
		}
		r.mu.Unlock()
		undo := r.port(before)
		undo.NetNS = t.NetNS // the container may have been started anew since before
		return nil, errors.Join(err, r.host.Detach(undo))
	}
	return addrs, nil
}

// attachedTo is the attachment of a container that it is asked for, with addresses that are there for it; before may be nil. fqdn is
// the container's name. Health and services are followed also without a name: dns-add may give it one.
func attachedTo(before *attachment, t target, req attachRequest, got []ipam.Allocation, fqdn, domain string) *attachment {
	a := &attachment{Key: t.Key}
	if before != nil {
		a = before.clone()
	}
	renamed := before != nil && before.Name != t.Name
	a.Name, a.NetNS, a.NSID, a.NoMulticast = t.Name, t.NetNS, t.NSID, req.NoMulticastRoute
	a.RewriteHosts = a.RewriteHosts || req.RewriteHosts
	if renamed { // the engine's event has not come yet
		a.rename(fqdn)
	}
	if !req.WithoutDNS {
		a.Default = fqdn
	}
	for _, al := range got {
		a.addAddr(al.Addr, al.Claimed)
		if !req.WithoutDNS && fqdn != "" {
			a.addName(attachedName{FQDN: fqdn, Addr: al.Addr.Addr()})
		}
	}
	if t.container.ID != "" {
		a.follow(t.container, domain)
	}
	a.running = true
	return a
}

// stillHeldLocked says whether addresses that were obtained before the container
// was locked are its own still: a detach may have come between, or a reset, or a sleep:
// then what is new to it may be another host's by now.
func (r *Router) stillHeldLocked(key string, got []ipam.Allocation) error {
	r.noticeSleepLocked()
	if r.resetting || r.alloc == nil {
		return errResetting
	}
	held, have := r.alloc.Lookup(key), r.attached[key]
	for _, g := range got {
		if r.unproven && (have == nil || !hasAddr(have.Addrs, g.Addr.Addr())) {
			return errUnproven
		}
		if !slices.ContainsFunc(held, func(h ipam.Allocation) bool { return h.Addr.Addr() == g.Addr.Addr() }) {
			return &Error{Msg: fmt.Sprintf("%v was detached while it was being attached", g.Addr.Addr()), Tip: "run the same again", Code: 409}
		}
	}
	return nil
}

// giveBack frees what a call that failed has obtained, unless an attachment has
// it meanwhile.
func (r *Router) giveBack(as []ipam.Allocation) {
	r.mu.Lock() // throughout: another call for the container may have obtained the same
	defer r.mu.Unlock()
	for _, al := range as {
		a := r.attached[al.Container]
		switch {
		case r.alloc == nil:
		case a == nil || !hasAddr(a.Addrs, al.Addr.Addr()):
			r.alloc.Free(time.Now(), al.Container, al.Addr.Addr())
		default: // it was claimed with another length than it has
			other := func(have ipam.Allocation) bool { return have.Addr.Addr() != al.Addr.Addr() }
			for _, err := range r.alloc.Restore(slices.DeleteFunc(a.allocations(), other)) {
				r.log.Error("give an address back", "err", err)
			}
		}
	}
}

// checkAddress refuses what package host could not give to a container: this
// release gives IPv4 unicast addresses.
func checkAddress(p netip.Prefix) error {
	if host.CheckAddr(p) != nil || p.Addr().As4()[0] == 0 {
		return badRequest("for example 10.32.0.9/12", "%v cannot be given to a container: it must be an IPv4 unicast address with its subnet's length", p)
	}
	return nil
}

// obtain claims or allocates one address. It waits while nobody can say whose the
// addresses are, or the mesh has no space to give, until ctx ends.
func (r *Router) obtain(ctx context.Context, key string, arg ipam.AddrArg) (ipam.Allocation, bool, error) {
	if arg.Kind == ipam.ArgIP {
		return r.claim(ctx, key, arg.Prefix)
	}
	return r.allocate(ctx, key, arg.Prefix)
}

// claim takes one address for a container. It waits as allocate does: for the range,
// and if the address is of the range, for the ring and the proof of this host's state.
// What another host has to give is asked of that host.
func (r *Router) claim(ctx context.Context, key string, p netip.Prefix) (ipam.Allocation, bool, error) {
	if err := checkAddress(p); err != nil {
		return ipam.Allocation{}, false, err
	}
	var begun time.Time // to ask for it
	return r.await(ctx, func() (ipam.Allocation, bool, error) {
		al, isNew, err := r.tryClaim(key, p)
		var foreign *ipam.NotOwnedError
		if !errors.As(err, &foreign) || foreign.Owner.IsZero() {
			return al, isNew, err
		}
		owner := foreign.Owner
		asked := r.askOwner(ctx, peer.ID(owner), p.Addr())
		// It may have come by the owner's log before its answer.
		if al, isNew, err = r.tryClaim(key, p); !errors.As(err, &foreign) || foreign.Owner.IsZero() {
			return al, isNew, err
		}
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case foreign.Owner != owner: // it has changed hands
			err = fmt.Errorf("ask for %v: %w", p.Addr(), ipam.ErrNotReady)
		default:
			if begun.IsZero() {
				begun = time.Now()
			}
			err = r.notGiven(foreign, p, asked, time.Since(begun) < ownerPatience)
		}
		return ipam.Allocation{}, false, err
	})
}

// askOwner asks a host for one address, when its turn comes. If that takes long it is counted as
// waiting meanwhile.
func (r *Router) askOwner(ctx context.Context, owner peer.ID, addr netip.Addr) error {
	slow := time.AfterFunc(roundPatience, func() { r.waitsForSpace(1, 0) })
	defer func() {
		if !slow.Stop() {
			r.waitsForSpace(-1, 0)
		}
	}()
	_, _, err := r.asks.one(ctx, owner, want{netip.PrefixFrom(addr, addr.BitLen()), true}, func() bool { return true })
	return err
}

// ownerPatience is how long a claim waits for the host that owns the address: who has just
// joined knows the ring before it has met everybody.
const ownerPatience = 10 * time.Second

// notGiven says why another host's address cannot be claimed here; early: it may be soon.
func (r *Router) notGiven(foreign *ipam.NotOwnedError, p netip.Prefix, asked error, early bool) error {
	if asked != nil && (waits(asked) || errors.Is(asked, errResetting)) {
		return asked
	}
	owner := peer.ID(foreign.Owner)
	there, _ := r.asks.may(owner)
	msg := fmt.Sprintf("address %v belongs to %s", foreign.Addr, label(owner.String(), nicknames(r.mesh.State())[owner]))
	tip := "let weft choose: net:" + p.Masked().String()
	switch {
	case asked != nil:
		return &Error{Msg: msg + ", which could not be asked for it: " + describe(asked), Code: 503, Tip: "try again, or " + tip}
	case !there && early:
		return fmt.Errorf("%s: %w", msg, ipam.ErrNotReady)
	case !there:
		return &Error{Msg: msg + ", which is out of reach", Code: 409, Tip: "try again when it is back; if it is dead, `weft rmpeer` gives its addresses to others; or " + tip}
	}
	return &Error{Msg: fmt.Sprintf("%s, which does not give it: a container there has it, or had it within the last %v, or the host has just started", msg, ipam.Hold), Code: 409,
		Tip: "`weft ps` there says who has it; or " + tip}
}

func (r *Router) tryClaim(key string, p netip.Prefix) (ipam.Allocation, bool, error) {
	r.mu.Lock()
	_, err := r.allocatorLocked()
	r.mu.Unlock()
	if err != nil { // the range may not be known
		return ipam.Allocation{}, false, err
	}
	if err := r.refuseUnderlay(p); err != nil {
		return ipam.Allocation{}, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	alloc, err := r.allocatorLocked()
	if err != nil {
		return ipam.Allocation{}, false, err
	}
	al, isNew, err := alloc.Claim(key, p)
	var taken *ipam.InUseError
	var foreign *ipam.NotOwnedError
	switch {
	case errors.As(err, &taken):
		return al, false, &Error{Err: err, Code: 409, Tip: "`weft ps` shows who has which address"}
	case errors.As(err, &foreign) && foreign.Owner == ipam.Owner(r.id.ID()):
		return al, false, &Error{Msg: fmt.Sprintf("address %v is this host's, but not yet to use: who had it before may not know", foreign.Addr), Code: 409,
			Tip: "`weft status ipam` says what the takeover waits for; or let weft choose: net:" + p.Masked().String()}
	case errors.As(err, &foreign) && !foreign.Owner.IsZero():
		return al, false, err // the owner is asked for it
	case err != nil && !waits(err):
		return al, false, &Error{Err: err, Code: 400}
	}
	return al, isNew, err
}

var errNotJoined = &Error{Msg: "this host has not joined its mesh yet: nobody could say whose the address is", Code: 503,
	Tip: "`weft prime` waits until it has; `weft status` says what is missing"}

// refuseUnderlay keeps the host's own networks from being given to containers.
func (r *Router) refuseUnderlay(p netip.Prefix) error {
	if r.wholeRange().Contains(p.Addr()) {
		return nil
	}
	over, dev, overlaps, err := r.host.Overlaps(p.Masked())
	if err != nil {
		return err
	}
	if overlaps {
		return &Error{Msg: fmt.Sprintf("%v overlaps the route to %v on %s", p, over, dev), Code: 409, Tip: "choose a subnet that this host does not use"}
	}
	return nil
}

// detach takes addresses away from a container. Without addresses, that of the
// default subnet. It never waits for other hosts.
func (r *Router) detach(ctx context.Context, container string, raw []string) (changed, error) {
	var none changed
	args, err := parseAddrArgs(raw)
	if err != nil {
		return none, err
	}
	key, err := r.keyOf(ctx, container)
	if err != nil {
		return none, err
	}
	unlock, err := r.ops.lock(ctx, key)
	if err != nil {
		return none, err
	}
	defer unlock()
	r.mu.Lock()
	have := r.attached[key]
	r.mu.Unlock()
	if have == nil {
		return none, &Error{Msg: fmt.Sprintf("%s is not attached", container), Tip: "`weft ps` lists what is", Code: 404}
	}
	a := have.clone()
	var gone []netip.Addr
	for i, arg := range args {
		found := false
		for _, p := range have.Addrs {
			if !matches(arg, p, r.defaultSubnet()) {
				continue
			}
			if found = true; !slices.Contains(gone, p.Addr()) {
				gone = append(gone, p.Addr())
				a.dropAddr(p.Addr())
			}
		}
		if !found { // and nothing is taken away
			what := "address in the default subnet"
			if len(raw) > 0 {
				what = "address " + raw[i]
			}
			return none, &Error{Msg: fmt.Sprintf("%s has no %s", container, what), Tip: "`weft ps` lists what it has", Code: 404}
		}
	}
	// The interface goes first: an address is free only when nobody uses it.
	if err := r.host.Detach(r.port(a)); err != nil {
		return none, err
	}
	left, err := r.host.AttachedAddrs(key)
	if err != nil {
		return none, err
	}
	if slices.ContainsFunc(gone, func(g netip.Addr) bool { return hasAddr(left, g) }) {
		return none, &Error{Msg: fmt.Sprintf("%s cannot be reached to take %v away", container, gone), Code: 503,
			Tip: "start the container engine, which knows where it is; or detach all of its addresses, which takes its interface away"}
	}
	r.mu.Lock()
	err = r.putAttachmentLocked(a)
	r.mu.Unlock()
	if err != nil {
		return none, err
	}
	for _, addr := range gone {
		r.free(key, addr)
	}
	warn := warnings(r.pass(ctx))
	if err := r.rewriteHosts(a); err != nil {
		warn = append(warn, fmt.Sprintf("the hosts file of %s may still name %v: %s", container, gone, describe(err)))
	}
	return changed{gone, warn}, nil
}

func (r *Router) free(key string, addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alloc != nil {
		r.alloc.Free(time.Now(), key, addr)
	}
}

// matches says whether a detach argument means the address.
func matches(arg ipam.AddrArg, p, def netip.Prefix) bool {
	switch arg.Kind {
	case ipam.ArgIP:
		return arg.Prefix.Addr() == p.Addr()
	case ipam.ArgNet:
		return arg.Prefix == p.Masked()
	default:
		return def == p.Masked()
	}
}

func (r *Router) defaultSubnet() netip.Prefix {
	if r.o.DefaultSubnet.IsValid() {
		return r.o.DefaultSubnet
	}
	return r.mesh.State().Founding.Subnet
}

// keyOf finds the attachment that an operator means, also when its container
// no longer exists for the engine.
func (r *Router) keyOf(ctx context.Context, name string) (string, error) {
	r.mu.Lock()
	_, exact := r.attached[name]
	var named, begun []string
	for k, a := range r.attached {
		if a.Name == name && name != "" {
			named = append(named, k)
		}
		if a.docker() && len(name) >= 4 && strings.HasPrefix(k, name) {
			begun = append(begun, k)
		}
	}
	r.mu.Unlock()
	switch {
	case exact:
		return name, nil
	case len(named) == 1:
		return named[0], nil
	case len(named) == 0 && len(begun) == 1:
		return begun[0], nil
	}
	c, err := r.askEngine(ctx, name)
	switch {
	case err == nil:
		return c.ID, nil
	case len(named) > 0: // one was renamed, and that has not come here
		return "", &Error{Msg: fmt.Sprintf("several containers here were called %s, and the container engine does not say which is now", name), Err: err,
			Tip: "name it by its ID, which `weft ps` lists", Code: 409}
	}
	return "", &Error{Msg: fmt.Sprintf("%s is not attached", name), Tip: "`weft ps` lists what is", Code: 404}
}

// parseAddrArgs reads the addresses of a command line; none means the default
// subnet.
func parseAddrArgs(raw []string) ([]ipam.AddrArg, error) {
	if len(raw) == 0 {
		return []ipam.AddrArg{{Kind: ipam.ArgDefault}}, nil
	}
	var out []ipam.AddrArg
	var errs []error
	for _, s := range raw {
		a, err := ipam.ParseAddrArg(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, a)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, &Error{Err: err, Code: 400, Tip: "addresses are written ip:10.32.1.1/24, net:10.32.1.0/24, net:default or 10.32.1.1/24"}
	}
	return out, nil
}
