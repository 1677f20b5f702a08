package router

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"weft/mesh"
	"weft/peer"
)

// meeting is a peer without a session: the first handshake with it is under way,
// or fails.
type meeting struct {
	since time.Time
	fresh bool // the device did not have the peer before
	begin bool // this side begins
	tries int  // of again
}

const (
	// courtesy is how long the one of two new peers leaves the first handshake
	// to the other.
	courtesy = 400 * time.Millisecond
	// stale is the age of a meeting beyond which more than a lost packet is the
	// matter. WireGuard repeats its handshake after 5 s (REKEY_TIMEOUT).
	stale = 12 * time.Second
	// again is when the side that begins makes a new peer anew, if its first
	// handshake has failed: the other may not have known this host yet, or both
	// may have begun after all. WireGuard itself would wait 5 s.
	again    = 1200 * time.Millisecond
	maxAgain = 3
)

// waitsForPeer says whether the other side should begin the first handshake.
// Two hosts that learn of each other at the same moment would both begin, each
// would answer the other's and forget its own, both would drop both answers, and
// the next try comes after 5 s. So the one with the lower key begins, unless
// the join has agreed otherwise, and the other only if it has waited in vain, or
// has something to send. applyMu is held.
func (r *Router) waitsForPeer(k peer.Key) bool {
	if _, session := r.tunnels.session(k); session {
		delete(r.met, k)
		return false
	}
	self := r.id.WireGuardPublic()
	m, met := r.met[k]
	if !met {
		m = r.meet(k, bytes.Compare(self[:], k[:]) < 0)
	}
	return m.fresh && !m.begin && time.Since(m.since) < courtesy
}

// meet notes that a peer has no session from now on.
func (r *Router) meet(k peer.Key, begin bool) meeting {
	m := meeting{since: time.Now(), fresh: !r.tunnels.has(k), begin: begin}
	r.met[k] = m
	if m.fresh && !begin {
		time.AfterFunc(courtesy, r.Poke)
	}
	return m
}

// beginAgain gives new peers whose first handshake was lost another one, soon.
// applyMu is held.
func (r *Router) beginAgain() error {
	var errs []error
	for k, m := range r.met {
		if !m.fresh || !m.begin || m.tries >= maxAgain || time.Since(m.since) < again*time.Duration(m.tries+1) {
			continue
		}
		m.tries++
		r.met[k] = m
		errs = append(errs, r.dev.Renew(k))
	}
	return errors.Join(errs...)
}

// dropDead takes the peers off the device whose own device was made anew since
// their session began. What is sent to such a peer with the old session's keys
// is lost; to a peer without a session, it waits for the handshake.
// applyMu is held.
func (r *Router) dropDead(want []plannedPeer) error {
	var stay []peer.Config
	var dead []peer.Key
	fresh := map[peer.Key]uint64{}
	for _, p := range want {
		k := p.Config.PublicKey
		old, known := r.devices[k]
		if known && old != p.Device && p.Device != 0 && r.tunnels.has(k) {
			dead = append(dead, k)
			fresh[k] = p.Device
			continue
		}
		r.devices[k] = p.Device
		stay = append(stay, p.Config)
	}
	if len(dead) == 0 {
		return nil
	}
	// What fails for other peers is no reason to keep these.
	err := r.dev.Set(stay)
	now, unread := r.dev.Status()
	if unread != nil {
		return errors.Join(err, unread)
	}
	for _, k := range dead {
		if slices.ContainsFunc(now, func(s peer.Status) bool { return s.PublicKey == k }) {
			continue // again in the next pass
		}
		r.devices[k] = fresh[k]
		r.tunnels.forget(k)
		r.paths.Forget(k)
		delete(r.met, k)
	}
	return err
}

// connect applies the peers at once, outside the loop, and gives a peer whose
// handshakes have failed for a while a fresh start: a clock that ran ahead and
// was set back keeps them from being taken until the entry is made anew. What
// fails for other peers is a matter of the next pass.
func (r *Router) connect(_ context.Context, rec mesh.Record, begin bool) error {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if r.stopped {
		return nil
	}
	v := r.look()
	for _, d := range v.Plan.KeyDisputes {
		if d.Host == rec.ID() {
			return d
		}
	}
	if _, met := r.met[rec.WireGuard]; !met && !r.tunnels.has(rec.WireGuard) {
		r.meet(rec.WireGuard, begin)
	}
	if err := r.applyPeers(v.Plan.Peers); err != nil && !r.hasTunnel(rec) {
		return err
	}
	m, met := r.met[rec.WireGuard]
	if !met || time.Since(m.since) < stale {
		return nil
	}
	r.met[rec.WireGuard] = meeting{since: time.Now()}
	return r.dev.Renew(rec.WireGuard)
}

// hasTunnel says whether the device has a host's peer now, so that packets for the host's
// router go there. applyMu is held.
func (r *Router) hasTunnel(rec mesh.Record) bool {
	control := host128(peer.ControlAddr(r.member.Secret.MeshID().Control(), rec.ID()))
	now, err := r.dev.Status()
	return err == nil && slices.ContainsFunc(now, func(s peer.Status) bool {
		return s.PublicKey == rec.WireGuard && slices.Contains(s.AllowedIPs, control)
	})
}
