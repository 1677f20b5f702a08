package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/api"
	"weft/host"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// loop is the only caller of pass once the router runs, but for operations that
// must not return before their change is in force.
func (r *Router) loop(ctx context.Context) error {
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.rewire.Store(true)
		case <-r.poke:
		}
		_ = r.pass(ctx) // it has logged it, and status shows it
	}
}

// pass turns the state into the host once: it announces what changed here,
// then plans, then applies. It goes on after an error, logs an error that is
// new, and leaves the rest to the next pass. Its error is for who waits for the
// change to be in force.
func (r *Router) pass(ctx context.Context) error {
	r.applyMu.Lock()
	if r.stopped {
		r.applyMu.Unlock()
		return nil
	}
	errs := append(r.deliberate(), r.announceChanges()...)
	v := r.look()
	errs = append(errs, r.apply(v)...)
	r.view.Store(v)
	err := errors.Join(errs...)
	// What was cut short says nothing about the host.
	if problem := describe(err); problem != r.problem && ctx.Err() == nil {
		if problem != "" {
			r.log.Warn("the host does not match its wanted state; trying again", "err", problem)
		} else {
			r.log.Info("the host matches its wanted state again")
		}
		r.problem = problem
	}
	r.applyMu.Unlock()
	r.passes.wake()
	return err
}

// describe is an error in one line, with what the operator can type about it;
// empty for none.
func describe(err error) string {
	if err == nil {
		return ""
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if hs := api.Hints(err); len(hs) > 0 {
		text += "; try: " + strings.Join(hs, "; ")
	}
	return text
}

// warnings tell who asked for a change that it was made but is not wholly in
// force yet.
func warnings(err error) []string {
	if err == nil {
		return nil
	}
	return []string{mismatch + describe(err)}
}

const mismatch = "the host does not match its wanted state: "

// announce is what the own log should say: the names of living containers,
// the names without a container, and addresses outside the range.
func (r *Router) announce() *announced {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.static)
	for _, at := range r.attached {
		n += len(at.Names) + len(at.Offers)
	}
	a := &announced{Names: make(map[nameKey]bool, n), Claims: map[netip.Prefix]bool{}}
	whole, others := r.wholeRange(), r.othersLocked()
	for _, at := range r.attached {
		for _, p := range at.Addrs {
			if !whole.IsValid() || !whole.Contains(p.Addr()) {
				a.Claims[p] = true
			}
		}
		named := false
		at.found(r.o.Domain, others, func(k nameKey) {
			named = true
			a.Names[k] = true
		})
		if named && at.Unhealthy {
			a.Names[mark(shortKey(at.Key))] = true
		}
	}
	for k := range r.static {
		a.Names[k] = true
	}
	r.addLingeringLocked(a.Names, others)
	return a
}

// othersLocked says of an address whether it is another host's now, or may be. mu is held.
func (r *Router) othersLocked() func(netip.Addr) bool {
	whole := r.wholeRange()
	doubt := whole.IsValid() && r.doubtLocked()
	stray := map[netip.Addr]bool{}
	if r.alloc != nil {
		for _, s := range r.alloc.Stray() {
			stray[s.Addr.Addr()] = true
		}
	}
	return func(a netip.Addr) bool { return stray[a] || doubt && whole.Contains(a) }
}

// base is called by the mesh when it opens an epoch of this host's log. It
// takes no lock: the mesh may hold its own.
func (r *Router) base() []mesh.Draft {
	want := r.wanted.Load()
	ds, err := base(r.mesh.State().Logs[r.id.ID()], want.Names, want.Claims)
	if err != nil {
		r.log.Error("write the log's snapshot", "err", err)
	}
	f := r.mesh.State().Founding
	if f.Founder != r.id.ID() || slices.ContainsFunc(ds, func(d mesh.Draft) bool { return begins(r.id.ID(), d, r.member.Secret.MeshID()) }) || r.beginsElsewhere() {
		return ds
	}
	if f := r.beginning.fact(r.id.ID()); f != nil {
		b, err := encodeFact(*f)
		if err != nil {
			r.log.Error("write how the ring begins", "err", err)
			return ds
		}
		return append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: b})
	}
	seed, err := encodeGrant(ipam.Seed(f.Range, ipam.Owner(r.id.ID())))
	if err != nil {
		r.log.Error("write the ring's seed", "err", err)
		return ds
	}
	return append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: seed})
}

// begins says whether an entry of the founder's log is its seed, or says how else
// the ring begins.
func begins(self peer.ID, d mesh.Draft, id mesh.MeshID) bool {
	if d.Kind != mesh.KindGrant {
		return false
	}
	s, err := parseFact(self, mesh.Entry{Author: self, Payload: d.Payload}, id)
	return err == nil && s.Key == nil && (s.Fact.Kind == ipam.FactInit || s.Fact.Kind == ipam.FactGrant && s.Fact.Grant.Version == 1)
}

// beginsElsewhere says that the ring has begun, whatever this host's own log
// says: it may have been lost. A founder must not found twice.
func (r *Router) beginsElsewhere() bool {
	b, err := r.booksNow()
	if err != nil {
		return false
	}
	first, _ := b.ledger.Beginning()
	return b.ledger.Ring().Seeded() || first > 0
}

// wholeRange is the mesh's range; invalid while unknown. A host that was launched
// without IPAM allocates nothing, but the range is the mesh's all the same.
func (r *Router) wholeRange() netip.Prefix { return r.mesh.State().Founding.Range }

// look reads all of the state and plans. It says whose tunnel is whose from then on.
// applyMu is held.
func (r *Router) look() *view {
	v := &view{}
	read := func(b *books, err error) {
		if err == nil {
			v.State, v.Folded, v.Ledger, v.Ring = b.st, b.folded, b.ledger, b.ledger.Ring()
			return
		}
		v.State = r.mesh.State() // the range is not known yet
		v.Folded = r.foldNow(v.State)
	}
	read(r.booksNow()) // mostly the work, so not under mu
	mtu, err := r.mtu()
	if err != nil {
		r.log.Debug("find the underlay's MTU", "err", err)
		mtu = 1420
	}
	v.MTU = mtu

	r.mu.Lock()
	read(r.spaceNowLocked())
	var stray []ipam.Allocation
	if r.alloc != nil && v.Ledger != nil {
		stray = r.alloc.Stray()
		old := r.view.Load()
		if old == nil || !slices.Equal(old.Stray, stray) {
			r.pokeNames() // theirs are not answered here
		}
		for _, s := range stray {
			if old == nil || !slices.Contains(old.Stray, s) {
				r.log.Warn("the address of a container is not this host's any more: it is taken off", "container", s.Container, "address", s.Addr)
			}
		}
	}
	st, whole := v.State, v.State.Founding.Range
	known := st.Hosts
	if !r.tunnels.admitted.Load() {
		known = nil
	}
	local := make([]*attachment, 0, len(r.attached))
	for _, a := range r.attached {
		c := a.clone()
		for _, s := range stray { // another host's now: not to be answered for here
			if s.Container == c.Key {
				c.dropAddr(s.Addr.Addr())
			}
		}
		local = append(local, c)
	}
	v.Stray = stray
	listen := r.listenLocked()
	r.mu.Unlock()
	r.rejects.Store(int64(v.Folded.Bad) + r.zone.bad.Load())

	self := r.id.WireGuardPublic()
	v.Plan = makePlan(inputs{
		Self: r.id.ID(), Key: self, MeshID: r.member.Secret.MeshID(), Hosts: r.tunnels.withIntroduced(known), Gone: v.Folded.Gone, Ring: v.Ring, Range: whole,
		Port: r.o.Port, Gossip: DefaultGossipPort, MTU: mtu,
		PSK:    func(k peer.Key) peer.Key { return r.member.Secret.WireGuardPSK(self, k) },
		Claims: v.Folded.Claims, Local: local, DNS: listen,
		Observe: r.tunnels.observedOf,
		Holds: func(k peer.Key, id peer.ID) bool {
			return r.tunnels.holds(k, id, peer.ControlAddr(r.member.Secret.MeshID().Control(), id))
		},
	})
	r.tunnels.assign(v.Plan.Peers)
	r.nameDisputes(v.Plan.KeyDisputes)
	return v
}

// hidden says whether a host's names are not answered now. A host that gossip
// has not met yet, as all have after a restart, counts as there while its
// tunnel is heard.
func (r *Router) hidden(h mesh.Host) bool {
	if h.Self || h.Liveness == mesh.Alive {
		return false
	}
	if h.Liveness != mesh.Unseen {
		return true
	}
	if time.Since(r.began) < benefit {
		if r.tunnels.sessionWith(h.ID) {
			return false
		}
	}
	age, ok := r.tunnels.LastReceive(h.ID)
	return !ok || age > 5*time.Second
}

// benefit is how long after its start a router takes a session that it found on
// the device for a sign that the host at the other end lives.
const benefit = 10 * time.Second

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// apply makes the host match the plan. applyMu is held.
func (r *Router) apply(v *view) []error {
	var errs []error
	if err := r.applyPeers(v.Plan.Peers); err != nil {
		errs = append(errs, err)
	}
	if err := r.host.Set(v.Plan.Host); err != nil {
		errs = append(errs, err)
	}
	if r.rewire.Swap(false) {
		errs = append(errs, r.wireAll()...)
	}
	if r.dns != nil {
		r.guests.setMesh(v.Plan.Host.Covered)
		if r.zone.setRanges(v.Plan.Reverse, r.mesh.State, r.hidden) {
			for _, p := range v.Plan.Reverse {
				if err := checkForwards(r.o, p); err != nil { // known only now
					r.log.Warn("servers of a domain are not asked: its names are the mesh's", "err", err)
				}
			}
		}
		r.syncNames()
		if err := r.dns.SetListen(v.Plan.Host.DNS); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// applyPeers sets the device's peers; where a peer has no session, it tries the
// next endpoint.
func (r *Router) applyPeers(want []plannedPeer) error {
	dropped := r.dropDead(want)
	now, err := r.dev.Status()
	if err != nil {
		return errors.Join(dropped, err)
	}
	r.tunnels.observe(time.Now(), now)
	byKey := map[peer.Key]peer.Status{}
	for _, s := range now {
		byKey[s.PublicKey] = s
	}
	keys := make(map[peer.Key]bool, len(want))
	for _, p := range want {
		keys[p.Config.PublicKey] = true
	}
	maps.DeleteFunc(r.met, func(k peer.Key, _ meeting) bool { return !keys[k] })
	maps.DeleteFunc(r.devices, func(k peer.Key, _ uint64) bool { return !keys[k] })
	cs := make([]peer.Config, len(want))
	for i, p := range want {
		if r.waitsForPeer(p.Config.PublicKey) {
			p.Config.Keepalive = 0 // which would begin a handshake
		}
		p.Config.Endpoint = r.paths.Choose(time.Now(), p.Config.PublicKey, p.Try, byKey[p.Config.PublicKey])
		cs[i] = p.Config
	}
	return errors.Join(dropped, r.dev.Set(cs), r.beginAgain())
}

// wireAll gives every living container its interface again, if it lost it. A
// container that an operation has locked is left to that, and to the next pass:
// what is being detached must not be attached again.
func (r *Router) wireAll() []error {
	var errs []error
	for _, a := range r.living() {
		unlock, ok := r.ops.try(a.Key)
		if !ok {
			r.rewire.Store(true)
			continue
		}
		if err := r.rewireOne(a.Key); err != nil {
			errs = append(errs, fmt.Errorf("attach %s: %w", shortKey(a.Key), err))
		}
		unlock()
	}
	return errs
}

// rewireOne does it for a container that is locked.
func (r *Router) rewireOne(key string) error {
	r.mu.Lock()
	a := r.attached[key]
	r.mu.Unlock()
	if a == nil || !a.running {
		return nil
	}
	if r.heldBack(a) != nil {
		r.rewire.Store(true)
		return nil
	}
	mac, err := r.host.Attach(r.port(a))
	if err != nil || mac == a.mac {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached[key] == a {
		b := a.clone()
		b.mac = mac
		r.attached[key] = b
	}
	return nil
}

// living are copies of the attachments whose containers live.
func (r *Router) living() []*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*attachment
	for _, a := range r.attached {
		if a.running {
			out = append(out, a.clone())
		}
	}
	return out
}

func (r *Router) port(a *attachment) host.Port {
	mtu := 1420
	if v := r.view.Load(); v != nil {
		mtu = v.MTU
	} else if m, err := r.mtu(); err == nil {
		mtu = m
	}
	r.mu.Lock()
	var servers []netip.Addr
	for _, s := range r.listenLocked() {
		servers = append(servers, s.Addr())
	}
	r.mu.Unlock()
	return host.Port{NetNS: a.NetNS, Key: a.Key, Addrs: slices.SortedFunc(slices.Values(a.Addrs), comparePrefix), MTU: mtu,
		Multicast: !a.NoMulticast && !r.o.NoMulticastRoute, DNS: servers}
}
