package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"weft/peer"
)

const (
	dialers     = 256             // hosts dialled at a time, beside targets: so many dead ones do not delay a dial of another
	dialersMet  = 64              // and so many more of those that are no strangers
	dialTick    = time.Second     // one random host that is not in gossip is dialled through the tunnel
	redialEvery = 5 * time.Second // each host that is not in gossip is dialled at its join port; see dialBook
	insideTry   = 4 * time.Second // how long to meet in gossip through a tunnel, likely dead, may take

	seekAfter = 3 * time.Second  // what is heard of a host but gossip does not know is asked for
	seekEvery = 15 * time.Second // … and by hosts that do not dial all others, anyway
	maxKnocks = 16
)

// dialAll dials targets, and hosts that are known and not in gossip, until ctx ends.
// memberlist never does: after a partition it does not merge again.
func (m *Mesh) dialAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(dialTick)
	defer tick.Stop()
	slots := func(n int) func(work func()) bool {
		busy := make(chan struct{}, n)
		return func(work func()) bool {
			select {
			case busy <- struct{}{}:
			default:
				return false
			}
			wg.Go(func() {
				work()
				<-busy
			})
			return true
		}
	}
	start := slots(maxTargets + 8) // one that is sought a second, of insideTry each
	startInside := slots(joiners)  // one lost host a second
	startAny, startMet := slots(dialers), slots(dialersMet)
	book := newDialBook()
	for {
		m.dialTargets(ctx, start)
		m.dialHosts(ctx, startAny, startMet, book)
		if id, ok := m.seek(time.Now()); ok {
			start(func() {
				ctx, cancel := context.WithTimeout(ctx, insideTry)
				defer cancel()
				_ = m.joinGossip(ctx, id)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-m.redial:
			continue
		case <-tick.C:
		}
		if id, ok := m.pickLost(); ok {
			startInside(func() { _ = m.rejoin(ctx, id, m.inside(id)) })
		}
	}
}

// dialTargets starts what is due.
func (m *Mesh) dialTargets(ctx context.Context, start func(func()) bool) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving {
		return
	}
	for _, t := range m.targets {
		if t.busy {
			continue
		}
		if h := m.hosts[t.peer]; t.state == stateEstablished {
			if h != nil && h.live == Alive {
				continue
			}
			t.lost(now)
		} else if h != nil && h.live == Alive && t.err != nil && reasonOf(t.err) == Unreachable && t.state == stateFailed {
			t.ended(t.peer, nil, now) // it came back by another way
			continue
		}
		if now.Before(t.next) {
			continue
		}
		t.busy = true
		if !start(func() { m.tryTarget(ctx, t) }) {
			t.busy = false
			return
		}
	}
}

func (m *Mesh) tryTarget(ctx context.Context, t *target) {
	var id peer.ID
	addrs, err := m.resolve(ctx, t.addr)
	if err == nil {
		id, err = m.joinAt(ctx, peer.ID{}, addrs...)
	}
	if ctx.Err() != nil {
		return
	}
	m.noteCopy(err)
	m.mu.Lock()
	old := t.err
	t.ended(id, err, time.Now())
	gone, first := t.gone, t.err != nil && (old == nil || old.Error() != err.Error())
	var text string
	if t.err != nil {
		switch reasonOf(err) {
		case Clone, OtherMesh, OtherRange, OtherProto, WrongSecret:
			text = fmt.Sprintf("target %s: %v", t.addr, err)
		}
	}
	next := t.next
	m.mu.Unlock()
	if first {
		m.log.Warn("target failed", "target", t.addr, "err", err, "next", next)
	}
	if !gone {
		m.notice("out "+t.addr, text)
	}
	m.changed()
}

func (m *Mesh) resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", addr, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	as, err := m.o.Network.Resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	var out []netip.AddrPort
	for _, a := range as[:min(len(as), 8)] {
		out = append(out, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("resolve %s: no address", host)
	}
	return out, nil
}

// dialHosts starts the join ports of hosts that are not in gossip and due, those that
// are no strangers first. Any number of strangers leaves a place to those.
func (m *Mesh) dialHosts(ctx context.Context, startAny, startMet func(func()) bool, book *dialBook) {
	now := time.Now()
	book.forget(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	met, others := m.dueLocked(now)
	for i, id := range append(met, others...) {
		h, known, most := m.hosts[id], i < len(met), dialsStranger
		if known {
			most = dialsMet
		}
		addrs := book.free(h.rec.Endpoints, most) // the TCP port has the number of the WireGuard port
		if len(addrs) == 0 {
			m.count.add("redial_held_back")
			continue
		}
		if h.dialled.IsZero() {
			h.dialled = now
		}
		h.dialling, h.nextDial = true, now.Add(h.untilRedial(now, known))
		dial := func() {
			_ = m.rejoin(ctx, id, addrs...)
			m.mu.Lock()
			h.dialling = false
			m.mu.Unlock()
		}
		if !startAny(dial) && !(known && startMet(dial)) {
			h.dialling, h.nextDial = false, time.Time{}
			continue
		}
		book.note(addrs, now)
	}
}

// dueLocked are the hosts that should be dialled now: those that are no strangers, and
// others, also those that have stopped.
func (m *Mesh) dueLocked(now time.Time) (met, others []peer.ID) {
	for id, h := range m.hosts {
		switch {
		case h.dialling || m.talks.with(id) || now.Before(h.nextDial) || len(h.rec.Endpoints) == 0 || !m.wantedLocked(id, h):
		case !m.logs.strangers.unmet(id) && !h.left:
			met = append(met, id)
		default:
			others = append(others, id)
		}
	}
	return met, others
}

// wantedLocked tells that a host should be met again: it is not in gossip and has not
// departed. One whose tunnel still works, so that it counts as alive, is dialled too: the
// answers are what shows that the tunnel works. While there is not room for all strangers
// it may be that two hosts do not hear of each other, or one not of the other: those that
// gossip holds alive and this host has not met are dialled, too.
func (m *Mesh) wantedLocked(id peer.ID, h *host) bool {
	if m.leaving || h.left && m.departedLocked(id) || h.gossip && !(m.logs.strangers.full() && m.logs.strangers.unmet(id)) {
		return false
	}
	if m.o.Discovery {
		return true
	}
	for _, t := range m.targets {
		if t.peer == id {
			return true
		}
	}
	return false
}

func (m *Mesh) departedLocked(id peer.ID) bool {
	a := m.logs.authors[id]
	return a != nil && a.leaves() != nil
}

// untilRedial is how long it is until the host is dialled again. One that stopped comes back by
// itself, but does not find who moved meanwhile. Nor does it find one that was down itself when
// it came back: if all stop at once, each knows of the others that they have, so a stop of
// before this router started may be over.
func (h *host) untilRedial(now time.Time, met bool) time.Duration {
	if h.left && !h.past {
		return backoffMax
	}
	return untilRedial(now.Sub(h.dialled), met)
}

// pickLost picks one random host that should be met again; every other time, if there
// are such, one that is no stranger.
func (m *Mesh) pickLost() (peer.ID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids, met []peer.ID
	for id, h := range m.hosts {
		if !m.wantedLocked(id, h) || h.left && !h.past || m.talks.with(id) {
			continue
		}
		if ids = append(ids, id); !m.logs.strangers.unmet(id) && !h.left {
			met = append(met, id)
		}
	}
	if len(met) > 0 && rand.IntN(2) == 0 {
		ids = met
	}
	if len(ids) == 0 {
		return peer.ID{}, false
	}
	return ids[rand.IntN(len(ids))], true
}

// hearFrom notes that a host holds this one for a member: it tells it its root.
// If it is not one here, gossip knows of one direction only; it would stay so.
func (m *Mesh) hearFrom(id peer.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meetLocked(id)
	if h := m.hosts[id]; h != nil && !h.gossip && !h.left {
		if len(m.knocked) < maxKnocks {
			m.knocked[id] = true
		}
		poke(m.redial)
	}
}

// seek picks a host to ask who is there: one that knocked, or any live one. Gossip
// tells of a newcomer a few times only; who misses it would not learn of it again,
// since whole states are not exchanged from time to time. That the newcomer is there
// shows in its log.
func (m *Mesh) seek(now time.Time) (peer.ID, bool) {
	m.mu.Lock()
	if now.Sub(m.sought) >= dialTick && !m.leaving {
		for id := range m.knocked {
			delete(m.knocked, id)
			if h := m.hosts[id]; h != nil && !h.gossip {
				m.sought = now
				m.mu.Unlock()
				return id, true
			}
		}
	}
	want := false
	for _, h := range m.hosts {
		if h.gossip || h.left {
			continue
		}
		want = want || !h.news.IsZero() && now.Sub(h.news) >= seekAfter || !m.o.Discovery && now.Sub(m.sought) >= seekEvery
	}
	if want {
		m.sought = now
		for _, h := range m.hosts {
			h.news = time.Time{}
		}
	}
	m.mu.Unlock()
	if !want {
		return peer.ID{}, false
	}
	for _, id := range m.live(1) {
		return id, true
	}
	return peer.ID{}, false
}

// noteCopy remembers that this host was refused as a copy, until a join succeeds.
func (m *Mesh) noteCopy(err error) {
	text := ""
	switch {
	case err == nil:
	case reasonOf(err) == Clone:
		text = err.Error()
	default:
		return
	}
	m.mu.Lock()
	changed := m.copied != text
	m.copied = text
	if changed {
		m.publishLocked()
	}
	m.mu.Unlock()
	if changed {
		m.o.OnChange()
	}
}

// rejoin is joinAt for a host that is known; what goes wrong is usual.
func (m *Mesh) rejoin(ctx context.Context, id peer.ID, addrs ...netip.AddrPort) error {
	_, err := m.joinAt(ctx, id, addrs...)
	if err == nil || ctx.Err() != nil {
		m.noteCopy(err)
		return err
	}
	m.count.add("redial_failed")
	m.log.Debug("redial", "peer", id, "err", err)
	m.noteCopy(err)
	if r := (*Refusal)(nil); errors.As(err, &r) && (r.Code == RefusedClone || r.Code == RefusedFounding) {
		m.mu.Lock()
		name := m.nameLocked(id)
		m.mu.Unlock()
		m.notice("host "+id.String(), fmt.Sprintf("host %s: %v", name, err))
	}
	return err
}
