package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/host"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const methodHand = "space.hand"

const methodReady = "space.ready"

var errResetting = &Error{Msg: "this host is being reset", Tip: "launch it again afterwards", Code: 409}

// stop announces that this host goes, so that its names hide at once, and takes
// the tunnels down. Bridge, addresses and local traffic stay.
func (r *Router) stop(ctx context.Context) error {
	defer r.end()
	return r.takeDown(ctx)
}

func (r *Router) takeDown(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // a caller that hangs up must not leave half a stop
	leave, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r.announceMu.Lock()
	r.silent = true
	r.announceMu.Unlock()
	if err := r.mesh.Leave(leave); err != nil {
		r.log.Warn("announce the stop", "err", err)
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	r.stopped = true // no pass may make the tunnel again
	return errors.Join(r.dev.Remove(ctx), r.host.RemoveTunnel())
}

// reset hands this host's address space to another, then removes all that weft
// made on the host. It refuses, with nothing changed, when nobody is there to
// take the space, unless it is forced. From then on there is no way back: the
// addresses are free when they are handed over, and nothing here uses them.
//
// Its warnings are for what went wrong without a way back.
func (r *Router) reset(ctx context.Context, force bool) (warn []string, err error) {
	if err := r.beginReset(ctx, force); err != nil {
		return nil, err
	}
	var taker peer.ID
	if force && r.isUnproven() { // what it would hand over may not be its own any more
		warn = append(warn, fmt.Sprintf("this host's state may not be the latest, so it has handed no address space over; `weft rmpeer %v` on another host takes it", r.id.ID()))
	} else {
		taker, err = r.findTaker(ctx)
	}
	if err != nil && !force {
		r.mu.Lock()
		r.resetting = false
		r.mu.Unlock()
		return nil, &Error{Msg: "this host's address space could not be handed over", Err: err, Code: 409,
			Tip: "bring another host of the mesh back, or give the space up: weft reset --force"}
	}
	ctx = context.WithoutCancel(ctx)
	defer r.end()
	gone, left, errs := r.detachAll(ctx)
	warn = append(warn, left...)
	if !gone && !taker.IsZero() { // who takes the space may give out what is in use here
		taker = peer.ID{}
		warn = append(warn, fmt.Sprintf("not every container could be taken off the mesh, so this host has handed no address space over; `weft rmpeer %v` on another host takes it", r.id.ID()))
	}
	r.leaveCouncil(ctx)
	if !taker.IsZero() {
		r.takeLast()
		if err := r.handOver(ctx, taker); err != nil {
			r.log.Warn("hand address space over", "peer", taker.String(), "err", err)
			warn = append(warn, fmt.Sprintf("host %v has not confirmed that it took the address space: %v; look at `weft status ipam` there", taker, err))
		}
	}
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindDepart}); err != nil {
		r.log.Warn("announce the departure", "err", err)
	}
	errs = append(errs, r.takeDown(ctx), r.host.Remove(), removeFiles(r.o))
	return warn, errors.Join(errs...)
}

// proofPatience is how long a reset waits for another host's word that this one's
// state is the latest: a second if one is in reach, dialIn and a look at the clock if
// it is the only one of its mesh.
const proofPatience = dialIn + markEvery + time.Second

// waitProven waits for that word, for a while.
func (r *Router) waitProven(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, proofPatience)
	defer cancel()
	for {
		again := r.passes.next()
		if !r.isUnproven() {
			return
		}
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Router) beginReset(ctx context.Context, force bool) error {
	if !force {
		r.waitProven(ctx)
	}
	resume, err := r.asks.pause(ctx) // what is on its way here comes first
	if err != nil {
		return err
	}
	defer resume() // nobody asks while resetting
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resetting {
		return errResetting
	}
	if !force {
		if r.unproven {
			return &Error{Msg: "this host's state may not be the latest, and no other host of the mesh has told it what it may have forgotten: what it would hand over may be another's", Code: 503,
				Tip: "bring another host of the mesh into reach; or give the address space up: weft reset --force"}
		}
		if err := r.promisesLocked(time.Now()); err != nil {
			return err
		}
		if err := r.heirLocked(); err != nil {
			return err
		}
	}
	r.resetting = true // no address is given out, to containers or to hosts
	return nil
}

// heirLocked refuses a reset while this host is to take over from another: that would be
// nobody's then. mu is held.
func (r *Router) heirLocked() error {
	b := r.books.Load()
	if b == nil {
		return nil
	}
	for _, t := range b.ledger.Takeovers() {
		if t.To == ipam.Owner(b.st.Self) && b.ledger.Pending(t) {
			why, tip := r.waitsFor(b, r.envLocked(b), t)
			return &Error{Msg: fmt.Sprintf("this host is to take over from %s, and can not yet: %s", r.show(b.st, t.From), why), Code: 409,
				Tip: fmt.Sprintf("%s; or leave it to others, and run `weft rmpeer %v` on one of them then: weft reset --force", tip, b.st.Self)}
		}
	}
	if ps, taker := b.ledger.LeftOver(); len(ps) > 0 && taker == ipam.Owner(b.st.Self) {
		return &Error{Msg: fmt.Sprintf("this host is to take what takeovers have left over (%s), and can not before all hosts have heard of them", strings.Trim(fmt.Sprint(ps), "[]")), Code: 409,
			Tip: fmt.Sprintf("bring them into reach, or remove them (weft rmpeer) if they are dead; or leave it to others, and run `weft rmpeer %v` on one of them then: weft reset --force", b.st.Self)}
	}
	return nil
}

// findTaker finds a host that can take this one's space, the one with most of
// it first. The zero ID: there is nothing to hand over, or nobody who could miss it.
func (r *Router) findTaker(ctx context.Context) (peer.ID, error) {
	b, err := r.booksNow()
	if errors.Is(err, ipam.ErrNotReady) {
		return peer.ID{}, nil
	}
	if err != nil {
		return peer.ID{}, err
	}
	others := r.bySpace(b.ledger.Ring())
	if len(others) == 0 || len(b.ledger.Usable())+len(b.ledger.Waiting()) == 0 {
		return peer.ID{}, nil
	}
	var refusals []string
	for _, h := range others {
		if h.Liveness != mesh.Alive {
			continue
		}
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := r.mesh.Call(call, h.ID, methodReady, nil)
		cancel()
		if err == nil {
			return h.ID, nil
		}
		refusals = append(refusals, fmt.Sprintf("%s: %v", r.show(b.st, ipam.Owner(h.ID)), err))
	}
	if len(refusals) == 0 {
		return peer.ID{}, errors.New("no other host of the mesh is in reach")
	}
	return peer.ID{}, errors.New(strings.Join(refusals, "; "))
}

// detachAll takes every container off the mesh, for good, those that no attachment tells of
// too. It says whether all are gone, for the kernel, and what hosts files it could not give back.
func (r *Router) detachAll(ctx context.Context) (gone bool, warn []string, errs []error) {
	r.mu.Lock()
	var all []*attachment
	for _, a := range r.attached {
		all = append(all, a.clone())
	}
	r.mu.Unlock()
	for _, a := range all {
		// An operation that is under way ends first: it gives back what it took.
		wait, cancel := context.WithTimeout(ctx, engineTimeout)
		unlock, err := r.ops.lock(wait, a.Key)
		cancel()
		if err != nil {
			unlock = func() {}
		}
		p := r.port(a)
		p.Addrs = nil
		if strings.HasPrefix(a.Key, heldPrefix) {
			p.NetNS = ""
		}
		errs = append(errs, r.host.Detach(p))
		r.mu.Lock()
		errs = append(errs, r.dropAttachmentLocked(a.Key))
		r.mu.Unlock()
		a.Addrs = nil
		if err := r.rewriteHosts(a); err != nil {
			warn = append(warn, fmt.Sprintf("the hosts file of %s may still name its addresses: %s", cmp.Or(a.Name, shortKey(a.Key)), describe(err)))
		}
		unlock()
	}
	left, err := r.host.Attached()
	for k := range left {
		errs = append(errs, r.host.Detach(host.Port{Key: k}))
	}
	if len(left) > 0 {
		left, err = r.host.Attached()
	}
	return err == nil && len(left) == 0, warn, append(errs, err)
}

// takeLast takes what was given to this host by a call that it did not wait for:
// nobody would own it once this host has gone.
func (r *Router) takeLast() {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	for _, err := range r.deliberate() {
		r.log.Warn("take what was given", "err", err)
	}
}

// handOver grants all that this host owns to another, and waits until that one
// has the grants on disk. They are in this host's log in any case: a taker that
// does not answer now finds them there.
func (r *Router) handOver(ctx context.Context, to peer.ID) error {
	g, err := r.grantAll(to)
	if err != nil || len(g.Grants) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = r.mesh.Call(ctx, to, methodHand, g.encode())
	return err
}

// grantAll gives away all that this host may use. What proves it goes with it,
// and what this host has ever given or voted: its log will go.
func (r *Router) grantAll(to peer.ID) (gift, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.booksNow() // under mu: no grant may come between
	if err != nil {
		return gift{}, err
	}
	var ds []mesh.Draft
	for _, g := range b.ledger.HandOver(ipam.Owner(to)) {
		b, err := encodeGrant(g)
		if err != nil {
			return gift{}, err
		}
		ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: b})
	}
	if len(ds) == 0 {
		return gift{}, nil
	}
	proofs := r.proofs(b, b.ledger.Usable(), to, b.st.Self)
	es, err := r.mesh.Append(ds...)
	return gift{Grants: es, Proofs: proofs}, err
}

// leaveCouncil has the others decide without this host from now on. They can as
// well do it later, by themselves, as long as they are a majority without it.
func (r *Router) leaveCouncil(ctx context.Context) {
	r.mu.Lock()
	r.leaving = true
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		again := r.passes.next()
		b, err := r.booksNow()
		if err != nil || r.isUnproven() || len(b.ledger.Electors()) < 2 || !slices.Contains(b.ledger.Electors(), ipam.Owner(r.id.ID())) {
			return
		}
		r.Poke()
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
	}
}

// bySpace are the other hosts, the one with most address space first.
func (r *Router) bySpace(ring *ipam.Ring) []mesh.Host {
	byID := map[peer.ID]mesh.Host{}
	var out []mesh.Host
	st := r.mesh.State()
	gone := r.foldNow(st).Gone
	for _, h := range st.Hosts {
		if !h.Self && !gone[h.ID] {
			byID[h.ID] = h
		}
	}
	for _, o := range ring.Donors(ipam.Owner(r.id.ID()), ring.Whole()) {
		if h, ok := byID[peer.ID(o)]; ok {
			out = append(out, h)
			delete(byID, h.ID)
		}
	}
	for _, h := range st.Hosts {
		if _, left := byID[h.ID]; left {
			out = append(out, h)
		}
	}
	return out
}

// take carries grants that another host made to this one when it was reset.
func (r *Router) take(ctx context.Context, from peer.ID, body []byte) error {
	g, err := parseGift(body)
	if err != nil {
		return err
	}
	for {
		again := r.passes.next()
		err := r.carry(ctx, from, g, from)
		if err == nil {
			break
		}
		if !errors.Is(err, errNotHeard) {
			return err
		}
		select { // it is on its way
		case <-again:
		case <-ctx.Done():
			return err
		}
	}
	r.mu.Lock()
	delete(r.promised, from)
	r.mu.Unlock()
	return nil
}

// A host that was asked whether it can take another's space waits for it for promiseFor:
// the other first takes its containers off. It may ask again meanwhile, and then not
// before promiseAgain after the first time: no member keeps this host from being reset.
const (
	promiseFor   = 15 * time.Second
	promiseAgain = time.Minute
)

// promise is a host's word that it takes another's space.
type promise struct{ first, until time.Time }

// promise says that this host can take another's space, and keeps it from being
// reset meanwhile: of two hosts that are reset at the same moment, each would count
// on the other.
func (r *Router) promise(to peer.ID) error {
	if err := r.mayTake(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resetting {
		return errResetting
	}
	now := time.Now()
	p, ok := r.promised[to]
	switch age := now.Sub(p.first); {
	case !ok || age >= promiseAgain:
		p.first = now
	case age >= promiseFor:
		return fmt.Errorf("this host has waited for the address space already, in vain: it does so again in %v", (promiseAgain - age).Round(time.Second))
	}
	p.until = now.Add(promiseFor)
	if r.promised == nil {
		r.promised = map[peer.ID]promise{}
	}
	r.promised[to] = p
	return nil
}

// promisesLocked refuses a reset while somebody counts on this host.
func (r *Router) promisesLocked(now time.Time) error {
	maps.DeleteFunc(r.promised, func(_ peer.ID, p promise) bool { return now.Sub(p.first) >= promiseAgain })
	var last peer.ID
	for to, p := range r.promised {
		if p.until.After(now) && !p.until.Before(r.promised[last].until) {
			last = to
		}
	}
	if last.IsZero() {
		return nil
	}
	return &Error{Msg: fmt.Sprintf("host %v is being reset, and this one takes its address space", last), Code: 409,
		Tip: fmt.Sprintf("run the same again in %v", max(r.promised[last].until.Sub(now), time.Second).Round(time.Second))}
}

// removeFiles deletes the files that weft makes in the state and run directories,
// and the directories if nothing else is in them.
func removeFiles(o Options) error {
	var errs []error
	for dir, patterns := range map[string][]string{
		o.StateDir: {"identity", "identity.tmp-*", tokenFile, "." + tokenFile + "-*", "state.db", "state.db.damaged-*"},
		o.RunDir:   {"weft.lock", "weft.sock", ".s*", "router.log*", "device.log*", "device.pid*", markFile, witnessPrefix + "*"},
	} {
		if dir == "" {
			continue
		}
		for _, p := range patterns {
			found, err := filepath.Glob(filepath.Join(dir, p))
			errs = append(errs, err)
			for _, f := range found {
				if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
			}
		}
		err := os.Remove(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// StopOffline takes the tunnels down when no router runs to do it. Others
// notice that the host is gone by its silence.
func StopOffline(o Options) error {
	o, h, err := offline(o)
	if err != nil {
		return err
	}
	return removeDevice(o, h)
}

// ResetOffline removes all that weft made on the host when no router runs. The
// host's address space cannot be handed over then, which force accepts.
func ResetOffline(o Options, force bool) error {
	o, h, err := offline(o)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, tokenFile)); err == nil && !force {
		return &Error{Msg: "no router is running, so this host's address space cannot be handed to another host", Code: 409,
			Tip: "`weft launch --resume` and `weft reset` hand it over; `weft reset --force` gives it up"}
	}
	for _, err := range giveHostsBack(filepath.Join(o.StateDir, "state.db")) {
		o.Log.Warn("a hosts file may still name addresses of the mesh", "err", err)
	}
	return errors.Join(removeDevice(o, h), h.Remove(), removeFiles(o))
}

func removeDevice(o Options, h *host.Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return peer.Remove(ctx, peer.Options{Interface: wireGuardName, RunDir: o.RunDir, Links: h, Log: o.Log})
}

func offline(o Options) (Options, *host.Host, error) {
	o, err := o.withDefaults()
	if err != nil {
		return o, nil, err
	}
	if os.Geteuid() != 0 {
		return o, nil, &Error{Msg: "weft needs root to remove network devices", Tip: "sudo weft …", Code: 403}
	}
	h, err := host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName, Log: o.Log})
	return o, h, err
}
