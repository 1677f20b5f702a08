package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"weft/peer"
)

// probeTimeout is how long the former start of a host gets to show that it is
// still there.
const probeTimeout = 1500 * time.Millisecond

// judge decides whether to go on with the host at the other end; nil is yes.
// Both sides judge, so that both can say why not.
func (m *Mesh) judge(ctx context.Context, l *link, h hello) *Refusal {
	switch l.purpose {
	case purposeJoin, purposeSync, purposeCall, purposeProbe:
	default:
		return &Refusal{RefusedPurpose, fmt.Sprintf("%v is not known here: another version of weft?", l.purpose)}
	}
	if l.id == m.id {
		if l.rec.BootNonce == m.nonce {
			return &Refusal{RefusedSelf, "this host itself"}
		}
		return m.cloneRefusal(l.id, l.rec.Nickname, "")
	}
	if (l.purpose == purposeSync || l.purpose == purposeCall) && !l.inside {
		return &Refusal{RefusedPurpose, fmt.Sprintf("a %v is served through the tunnel only", l.purpose)}
	}
	// Who it is, is proven here, wherever it comes from: what it has used up counts.
	if !m.senders.take(m.controlAddr(l.id), 0, false, time.Now()) {
		m.count.add("session_refused_flood")
		return &Refusal{RefusedBusy, "it has sent more than one member may: it is heard again in a few seconds"}
	}
	if r := m.judgeFounding(l, h); r != nil {
		return r
	}
	m.mu.Lock()
	leaving := m.leaving
	m.mu.Unlock()
	if leaving && l.purpose == purposeJoin {
		return &Refusal{RefusedBusy, "this host is stopping"}
	}
	return m.judgeClone(ctx, l.rec, l.source())
}

func (m *Mesh) judgeFounding(l *link, h hello) *Refusal {
	theirs, err := ParseFounding(h.Founding)
	if err != nil {
		return &Refusal{RefusedRecord, err.Error()}
	}
	m.mu.Lock()
	ours := m.founding
	mine, founder := m.nameLocked(m.id), m.nameLocked(ours.Founder)
	m.mu.Unlock()
	if theirs.IsZero() {
		return nil
	}
	if ours.IsZero() {
		if m.o.WantRange.IsValid() && m.o.WantRange != theirs.Range {
			return &Refusal{RefusedRange, fmt.Sprintf(
				"%s was launched with the range %v, the mesh of %s has %v: launch it with that range or without one",
				mine, m.o.WantRange, display(l.id, l.rec.Nickname), theirs.Range)}
		}
		return nil
	}
	if ours.Equal(theirs) {
		return nil
	}
	name := display(theirs.Founder, "")
	for _, x := range h.Ext {
		if x.Type == extFounder {
			name = display(theirs.Founder, cleanNickname(string(x.Value)))
		}
	}
	return &Refusal{RefusedFounding, fmt.Sprintf(
		"two meshes were founded apart: %s is in the one founded by %s, %s in the one founded by %s; they cannot be merged: "+
			"run `weft reset` on all hosts of one of them, then launch those with a host of the other as peer",
		mine, founder, display(l.id, l.rec.Nickname), name)}
}

// judgeClone takes a new boot nonce for a restart, unless the old one still
// answers: then one image runs twice. from is where the session comes from, as a source.
func (m *Mesh) judgeClone(ctx context.Context, rec Record, from netip.Addr) *Refusal {
	id := rec.ID()
	m.mu.Lock()
	h := m.hosts[id]
	if h == nil || h.rec.BootNonce == rec.BootNonce || h.vetted == rec.BootNonce || h.left {
		m.mu.Unlock()
		return nil
	}
	old, alive := h.rec, h.live == Alive
	// The record names the addresses: whoever has the secret could have others dialled from here
	// as often as it opens a session.
	if !m.challenges.allow(from, time.Now()) {
		copied, at := h.copied == rec.BootNonce, h.copiedAt
		m.mu.Unlock()
		m.count.add("clone_check_held_back")
		if copied {
			return m.cloneRefusal(id, old.Nickname, " at "+at.String())
		}
		return &Refusal{RefusedBusy, "asked a moment ago whether the former start of this host still runs"}
	}
	m.mu.Unlock()
	if at, still := m.answers(ctx, old, rec.BootNonce, alive); still {
		m.count.add("clone_refused")
		m.mu.Lock()
		h.copied, h.copiedAt = rec.BootNonce, at
		m.mu.Unlock()
		return m.cloneRefusal(id, old.Nickname, " at "+at.String())
	}
	m.mu.Lock()
	h.vetted = rec.BootNonce
	m.mu.Unlock()
	return nil
}

func (m *Mesh) cloneRefusal(id peer.ID, nickname, at string) *Refusal {
	return &Refusal{RefusedClone, fmt.Sprintf(
		"the identity %s already runs on a live host%s, and one identity cannot run on two: is this a cloned image? "+
			"Run `weft reset --force` on the host that was launched last, the clone, and launch it again: it gets an identity of its own",
		display(id, nickname), at)}
}

// answers challenges a former start of a host at its join ports. It returns as
// soon as one shows that it is still there, or the new one shows that it has
// taken the old one's place.
func (m *Mesh) answers(ctx context.Context, old Record, newNonce uint64, alive bool) (at netip.AddrPort, still bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	addrs := append([]netip.AddrPort(nil), old.Endpoints...) // the TCP port has the number of the WireGuard port
	if alive {
		addrs = append(addrs, netip.AddrPortFrom(m.controlAddr(old.ID()), old.joinPort(m.o.Port)))
	}
	type result struct {
		at    netip.AddrPort
		nonce uint64
		ok    bool
	}
	results := make(chan result, len(addrs))
	for _, a := range addrs {
		go func() { // ends with ctx, which is waited for below
			nonce, err := m.probe(ctx, a, old)
			results <- result{a, nonce, err == nil}
		}()
	}
	replaced := false
	for range addrs {
		r := <-results
		switch {
		case !r.ok:
		case r.nonce == old.BootNonce && !still:
			at, still = r.at, true
			cancel()
		case r.nonce == newNonce && !replaced:
			replaced = true
			// What still has to answer answers at once or is not there: the new one
			// has the old one's address.
			time.AfterFunc(probeTimeout/5, cancel)
		}
	}
	return at, still
}

// probe asks a join port which start of the host is there.
func (m *Mesh) probe(ctx context.Context, at netip.AddrPort, old Record) (nonce uint64, err error) {
	conn, err := m.o.Network.Dial(ctx, at)
	if err != nil {
		return 0, err
	}
	s, err := Client(ctx, conn, m.o.Identity, m.o.Secret)
	if err != nil {
		return 0, err
	}
	l := &link{s: s, purpose: purposeProbe, stop: context.AfterFunc(ctx, func() { _ = s.Close() })}
	defer l.close()
	if _, err := m.readHello(l); err != nil {
		return 0, err
	}
	if l.id != old.ID() {
		return 0, fmt.Errorf("probe %v: it is %v now", at, l.id)
	}
	if err := m.writeHello(l, hello{Purpose: purposeProbe, ProbeNonce: old.BootNonce}); err != nil {
		return 0, err
	}
	if _, err := s.ReadMsg(maxRefusal); err != nil {
		return 0, fmt.Errorf("probe %v: %w", at, err)
	}
	return l.rec.BootNonce, nil
}
