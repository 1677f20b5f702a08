package mesh

import (
	"context"
	"math/rand/v2"
	"time"

	"weft/peer"
)

// watchTick is how often hosts are looked at that gossip calls dead and whose
// tunnel may still have something from them.
const watchTick = time.Second

// watch keeps the liveness of all hosts, and tells of what delegates changed.
func (m *Mesh) watch(ctx context.Context) {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	d := newDoubts()
	defer d.wg.Wait()
	for {
		for _, h := range m.lookAtHosts() {
			d.ask(ctx, m, h)
		}
		select {
		case <-ctx.Done():
			return
		case <-m.look:
		case <-tick.C:
		}
	}
}

// lookAtHosts decides about all hosts; it returns those that should be asked.
func (m *Mesh) lookAtHosts() (ask []doubtful) {
	heard := m.askTunnel()

	m.mu.Lock()
	now := time.Now()
	changed := m.stale
	lost := false
	m.stale = false
	m.eachHostLocked(func(id peer.ID, h *host, s sign) {
		if at, ok := heard[id]; ok {
			s.silent, s.heard = now.Sub(at), true
			m.meetLocked(id)
		}
		live := s.liveness()
		if s.dead() && h.live == Alive && now.Sub(h.doubted) >= grace {
			h.doubted = now
			ask = append(ask, doubtful{id, h.rec.Name()})
		}
		if live == Failed && h.live == Alive && (now.Sub(h.since) < grace || now.Sub(h.doubted) < doubtTime) {
			live = Alive // its first packets are still on the way, or its answer
		}
		if h.gossip && !s.current && !h.left {
			h.nextDial, lost = now, true
			if s.nodes > 0 { // a new start: most likely it is on its way into gossip
				h.nextDial = now.Add(time.Second + rand.N(time.Second))
			}
		}
		if h.gossip = s.current; h.gossip {
			h.news = time.Time{}
		}
		if live == h.live {
			return
		}
		m.log.Info("host is "+live.String(), "peer", id, "nickname", h.rec.Nickname, "was", h.live.String())
		lost = lost || h.live == Alive // a target may be
		if live == Alive {
			m.notices.clear("host " + id.String())
		}
		h.live, h.since, changed = live, now, true
	})
	if m.aged.IsZero() {
		m.aged = now
	}
	if now.Sub(m.aged) >= strangerTurn {
		m.aged = now
		m.logs.grow()
	}
	if own := m.ownEpochLocked(); own != nil && own.departed != nil { // it has taken that up, and nobody tells it again
		changed = m.noticeDepartureLocked() || changed
	}
	changed = m.notices.expire(now) || changed
	if now.Sub(m.buried) >= buryEvery {
		m.buried = now
		changed = m.buryLocked(now) || changed
	}
	if changed {
		m.publishLocked()
	}
	m.mu.Unlock()
	if lost {
		poke(m.redial)
	}
	if changed {
		m.o.OnChange()
	}
	return ask
}

// askTunnel tells when the tunnel had something last from those that gossip calls
// dead, or that are strangers when there are so many that some may have to go. It is asked without a lock: it has locks of its own. Mostly there is
// nobody to ask about.
func (m *Mesh) askTunnel() map[peer.ID]time.Time {
	var ids []peer.ID
	m.mu.Lock()
	many := m.logs.strangers.number >= maxStrangers/2
	m.eachHostLocked(func(id peer.ID, h *host, s sign) {
		if s.dead() || many && m.logs.strangers.unmet(id) {
			ids = append(ids, id)
		}
	})
	m.mu.Unlock()
	heard := make(map[peer.ID]time.Time, len(ids))
	for _, id := range ids {
		if silent, ok := m.o.Tunnel.LastReceive(id); ok {
			heard[id] = time.Now().Add(-silent)
		}
	}
	return heard
}

// eachHostLocked goes through the other hosts, with what of their signs does not
// come from the tunnel.
func (m *Mesh) eachHostLocked(f func(peer.ID, *host, sign)) {
	for _, h := range m.hosts {
		h.nodes, h.current = 0, false
	}
	for _, n := range m.nodes {
		if h := m.hosts[n.id]; h != nil {
			h.nodes++
			h.current = h.current || n.nonce == h.rec.BootNonce
		}
	}
	for id, h := range m.hosts {
		f(id, h, sign{left: h.left, nodes: h.nodes, current: h.current, met: h.met})
	}
}
