package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"weft/peer"
)

// joinTimeout bounds what a join does after the exchange of logs: making the tunnel,
// and then meeting in gossip.
const joinTimeout = 20 * time.Second

// joinAt joins with a host that serves the join port at one of the addresses, the
// one that is wanted or, if that is zero, any: logs both ways, a tunnel, and then gossip
// through it. The ID is returned with an error too, if it got that far. A host that is
// wanted must be met soon, since it is dialled again soon.
func (m *Mesh) joinAt(ctx context.Context, want peer.ID, addrs ...netip.AddrPort) (peer.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	soon, done := ctx, context.CancelFunc(func() {})
	if !want.IsZero() {
		soon, done = context.WithTimeout(ctx, dialTimeout)
	}
	l, err := m.open(soon, purposeJoin, want, addrs...)
	if err != nil {
		done()
		return peer.ID{}, err
	}
	l.until(ctx)
	done()
	defer l.close()
	news, err := m.introduce(ctx, l)
	if err != nil {
		return l.id, err
	}
	wait := joinTimeout
	if !want.IsZero() {
		wait = dialTimeout // a known host is dialled again soon, also where only its UDP is blocked
	}
	ctx, cancel = context.WithTimeout(ctx, wait)
	defer cancel()
	if err := m.joinGossip(ctx, l.id); err != nil {
		return l.id, fmt.Errorf("join %v: %w", l.id, err)
	}
	m.count.add("joins")
	m.log.Info("joined", "peer", l.id, "nickname", l.rec.Nickname, "endpoint", l.s.RemoteAddr())
	m.handOn(news)
	return l.id, nil
}

// introduce is the part of a join that takes a turn: the logs and the tunnel's making,
// but not the wait for the tunnel.
func (m *Mesh) introduce(ctx context.Context, l *link) ([]Entry, error) {
	// Only who has proved the secret gets this far, so that what accepts a
	// connection and says nothing takes no turn. The other side waits meanwhile.
	k := m.talks.begun(l)
	if !k.begin(ctx, turnWait) {
		return nil, fmt.Errorf("join %v: %w", l.id, errBeside)
	}
	defer k.end()
	news, err := m.exchange(ctx, l, k)
	if r := (*Refusal)(nil); err == nil || errors.As(err, &r) { // it is there, if it is busy
		k.over()
	}
	if err != nil {
		return nil, fmt.Errorf("join %v: %w", l.id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	// The server's device knows this host first, so that the tunnel's first
	// handshake is not lost on it, and leaves that handshake to this side.
	_ = l.s.SetDeadline(time.Now().Add(joinTimeout + l.pace.onItsWay()))
	_, b, err := readMsg(l.s, 1+maxRefusal, msgReady)
	if err == nil {
		err = ready(b)
	}
	if err != nil {
		return nil, fmt.Errorf("join %v: %w", l.id, err)
	}
	return news, m.connect(ctx, l, l.s.RemoteAddr(), true)
}

// serveJoin is the other half of joinAt.
func (m *Mesh) serveJoin(ctx context.Context, l *link) error {
	k := m.talks.serving(l)
	news, err := m.exchange(ctx, l, k)
	k.end() // there is more to do, but that takes nothing of the way to the others
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	// The connection's source port is not the WireGuard port; that has the number
	// of the join port, unless a NAT has changed it.
	seen := netip.AddrPortFrom(l.s.RemoteAddr().Addr(), l.rec.joinPort(m.o.Port))
	if err := m.connect(ctx, l, seen, false); err != nil {
		_ = l.write(msgReady, Refusal{RefusedBusy, err.Error()}.encode())
		return err
	}
	m.count.add("joins_served")
	m.log.Info("host joins", "peer", l.id, "nickname", l.rec.Nickname, "endpoint", l.s.RemoteAddr())
	m.handOn(news)
	m.notice("in "+l.s.RemoteAddr().Addr().String(), "")
	return l.write(msgReady, Refusal{}.encode())
}

// connect has the router make the tunnel.
func (m *Mesh) connect(ctx context.Context, l *link, observed netip.AddrPort, begin bool) error {
	if l.inside {
		observed = netip.AddrPort{}
	}
	m.mu.Lock()
	rec := l.rec
	if h := m.hosts[l.id]; h != nil && fresher(h.rec, rec) {
		rec = h.rec // the exchange brought a newer one
	}
	m.mu.Unlock()
	if err := m.o.Tunnel.Connect(ctx, rec, observed, begin); err != nil {
		return fmt.Errorf("make tunnel to %v: %w", l.id, err)
	}
	return nil
}

// handOn pushes what little a join brought to the other live hosts; more is
// left to the digests.
func (m *Mesh) handOn(news []Entry) {
	if len(news) <= flushMax {
		m.relay(news)
	}
}
