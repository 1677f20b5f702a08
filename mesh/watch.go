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
	// The tunnel is asked without a lock: it has locks of its own.
	m.mu.Lock()
	signs := m.signsLocked()
	m.mu.Unlock()
	for id, s := range signs {
		if !s.left && s.nodes == 0 && s.met {
			s.silent, s.heard = m.o.Tunnel.LastReceive(id)
			signs[id] = s
		}
	}

	m.mu.Lock()
	now := time.Now()
	changed := m.stale
	lost := false
	m.stale = false
	for id, s := range m.signsLocked() {
		s.silent, s.heard = signs[id].silent, signs[id].heard
		h := m.hosts[id]
		live := s.liveness()
		if dead := !s.left && s.met && s.nodes == 0; dead && h.live == Alive && now.Sub(h.doubted) >= grace {
			h.doubted = now
			ask = append(ask, doubtful{id, h.rec.Name()})
		}
		if live == Failed && h.live == Alive && (now.Sub(h.since) < grace || now.Sub(h.doubted) < doubtTime) {
			live = Alive // its first packets are still on the way, or its answer
		}
		if h.gossip && !s.current {
			h.nextDial, lost = now, true
			if s.nodes > 0 { // a new start: most likely it is on its way into gossip
				h.nextDial = now.Add(time.Second + rand.N(time.Second))
			}
		}
		if h.gossip = s.current; h.gossip {
			h.news = time.Time{}
		}
		if live == h.live {
			continue
		}
		m.log.Info("host is "+live.String(), "peer", id, "nickname", h.rec.Nickname, "was", h.live.String())
		lost = lost || h.live == Alive // a target may be
		if live == Alive {
			m.notices.clear("host " + id.String())
		}
		h.live, h.since, changed = live, now, true
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

func (m *Mesh) signsLocked() map[peer.ID]sign {
	signs := make(map[peer.ID]sign, len(m.hosts))
	for id, h := range m.hosts {
		signs[id] = sign{left: h.rec.left(), met: h.met}
	}
	for _, n := range m.nodes {
		if s, ok := signs[n.id]; ok {
			s.nodes++
			s.current = s.current || n.nonce == m.hosts[n.id].rec.BootNonce
			signs[n.id] = s
		}
	}
	return signs
}
