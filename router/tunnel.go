package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft/mesh"
	"weft/peer"
)

// tunnels is what this host knows of its peers beside gossip: hosts that have
// just been met at the join port, endpoints that were seen to work, and when
// each tunnel was last heard. It is the mesh's Tunnel.
type tunnels struct {
	connect func(ctx context.Context, rec mesh.Record, begin bool) error // set before use

	// admitted says that a host of the mesh has taken this one for what it says
	// it is. Until then no tunnel is made: a copied machine has the original's
	// WireGuard key, and its first handshake would draw the original's traffic
	// to it.
	admitted atomic.Bool

	mu         sync.Mutex // guards the fields below
	introduced map[peer.ID]mesh.Record
	observed   map[peer.ID]netip.AddrPort
	keys       map[peer.ID]peer.Key // as planned last: a key has one host only, whatever records say
	owners     map[peer.Key]peer.ID // the same the other way
	heard      map[peer.Key]heard
}

// heard is the last sign of life of one tunnel.
type heard struct {
	rx    int64
	tx    int64
	at    time.Time // monotonic; zero: not since this router runs
	shake time.Time // wall clock, from the device
	end   netip.AddrPort

	allowed []netip.Prefix
}

const maxIntroduced = 4096 // hosts met at the join port but not in any log yet

// Connect makes sure that there is a tunnel to a host that has proven, at the
// join port, that it is of this mesh.
func (t *tunnels) Connect(ctx context.Context, rec mesh.Record, observed netip.AddrPort, begin bool) error {
	id := rec.ID()
	t.admitted.Store(true)
	t.mu.Lock()
	if t.introduced == nil {
		t.introduced = map[peer.ID]mesh.Record{}
		t.observed = map[peer.ID]netip.AddrPort{}
	}
	if len(t.introduced) >= maxIntroduced {
		clear(t.introduced)
		clear(t.observed)
	}
	t.introduced[id] = rec
	if observed.IsValid() {
		t.observed[id] = observed
	}
	t.mu.Unlock()
	return t.connect(ctx, rec, begin)
}

// LastReceive says how long ago the tunnel of a host last had something from
// it, to about a second.
func (t *tunnels) LastReceive(id peer.ID) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, known := t.keys[id]
	h, ok := t.heard[k]
	if !known || !ok || h.at.IsZero() {
		return 0, false
	}
	return time.Since(h.at), true
}

// observe takes in the device's counters.
func (t *tunnels) observe(now time.Time, ss []peer.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := make(map[peer.Key]heard, len(ss))
	for _, s := range ss {
		h, known := t.heard[s.PublicKey]
		if known && s.RxBytes != h.rx {
			h.at = now
		}
		h.rx, h.tx, h.shake, h.end, h.allowed = s.RxBytes, s.TxBytes, s.LastHandshake, s.Endpoint, s.AllowedIPs
		fresh[s.PublicKey] = h
	}
	t.heard = fresh
}

// withIntroduced adds to the known hosts those that were only met at the join port.
func (t *tunnels) withIntroduced(hosts []mesh.Host) []mesh.Host {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.Clone(hosts)
	known := map[peer.ID]int{}
	for i, h := range all {
		known[h.ID] = i
	}
	for id, rec := range t.introduced {
		i, ok := known[id]
		if !ok {
			all = append(all, mesh.Host{ID: id, Record: rec, Liveness: mesh.Unseen})
		} else if len(all[i].Record.Identity) > 0 && !newer(rec, all[i].Record) {
			delete(t.introduced, id) // gossip has caught up
		} else if !all[i].Self {
			all[i].Record = rec
		}
	}
	return all
}

// assign says whose tunnel is whose.
func (t *tunnels) assign(ps []plannedPeer) {
	keys, owners := make(map[peer.ID]peer.Key, len(ps)), make(map[peer.Key]peer.ID, len(ps))
	for _, p := range ps {
		keys[p.ID], owners[p.Config.PublicKey] = p.Config.PublicKey, p.ID
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys, t.owners = keys, owners
}

// holds says whether a key is a host's: as planned last, or else, when this router has
// just started, on the device, where the host has its control address.
func (t *tunnels) holds(k peer.Key, id peer.ID, control netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, planned := t.owners[k]; planned {
		return o == id
	}
	return slices.Contains(t.heard[k].allowed, host128(control))
}

func newer(a, b mesh.Record) bool {
	return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Serial > b.Serial
}

func (t *tunnels) observedOf(id peer.ID) []netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ap, ok := t.observed[id]; ok {
		return []netip.AddrPort{ap}
	}
	return nil
}

// session says whether the tunnel with this key has a session: WireGuard drops
// one 180 s after its handshake (REJECT_AFTER_TIME, whitepaper section 6.1).
func (t *tunnels) session(k peer.Key) (heard, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.heard[k]
	return h, ok && !h.shake.IsZero() && time.Since(h.shake) < 180*time.Second
}

// sessionWith is session of a host's tunnel, if it has one.
func (t *tunnels) sessionWith(id peer.ID) bool {
	t.mu.Lock()
	k, known := t.keys[id]
	t.mu.Unlock()
	_, ok := t.session(k)
	return known && ok
}

// forget drops what is known of a peer that was taken off the device.
func (t *tunnels) forget(k peer.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.heard, k)
}

// has says whether the device has had this peer.
func (t *tunnels) has(k peer.Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.heard[k]
	return ok
}

// watchTunnels reads the device's counters every second, and lets peers without
// a session try their next endpoint.
func (r *Router) watchTunnels(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.applyMu.Lock()
		stopped := r.stopped
		ss, err := r.dev.Status()
		r.applyMu.Unlock()
		if stopped {
			return nil
		}
		if err != nil && !errors.Is(err, peer.ErrGone) {
			r.log.Warn("read the tunnel device", "err", err)
			continue
		}
		if err != nil {
			r.log.Warn("the tunnel device is gone; making it again", "err", err)
			if err := r.remakeDevice(ctx); err != nil && ctx.Err() == nil {
				r.log.Error("make the tunnel device", "err", err)
			}
			r.Poke()
			continue
		}
		r.tunnels.observe(time.Now(), ss)
		v := r.view.Load()
		if v == nil || !r.anyWithoutSession(v.Plan.Peers) {
			continue
		}
		r.applyMu.Lock()
		if r.stopped {
			r.applyMu.Unlock()
			return nil
		}
		if err := r.applyPeers(r.view.Load().Plan.Peers); err != nil {
			r.log.Debug("try endpoints", "err", err)
		}
		r.applyMu.Unlock()
	}
}

// remakeDevice makes the tunnel device anew after it died, and tells the others
// that their sessions with it are dead.
func (r *Router) remakeDevice(ctx context.Context) error {
	if err := r.openDevice(ctx); err != nil {
		return err
	}
	r.applyMu.Lock()
	had, err := r.dev.Status()
	r.applyMu.Unlock()
	if err != nil {
		return err
	}
	if err := r.keepGeneration(len(had) > 0); err != nil {
		return err
	}
	r.mesh.Refresh()
	return nil
}

func (r *Router) anyWithoutSession(ps []plannedPeer) bool {
	return slices.ContainsFunc(ps, func(p plannedPeer) bool {
		_, ok := r.tunnels.session(p.Config.PublicKey)
		return !ok && len(p.Try) > 0
	})
}
