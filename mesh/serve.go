package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"weft/peer"
)

// listen opens the join port on the underlay and on the control address; one
// socket does for both when every address is asked for.
func (m *Mesh) listen(ctx context.Context) ([]net.Listener, error) {
	bind := m.o.BindHost
	if !bind.IsValid() || bind.IsUnspecified() {
		bind = netip.IPv6Unspecified()
	}
	addrs := []netip.AddrPort{netip.AddrPortFrom(bind, uint16(m.o.Port))}
	if !bind.IsUnspecified() {
		addrs = append(addrs, netip.AddrPortFrom(m.controlAddr(m.id), uint16(m.o.Port)))
	}
	var lns []net.Listener
	for _, a := range addrs {
		ln, err := m.o.Network.Listen(ctx, a)
		if err != nil {
			for _, l := range lns {
				_ = l.Close()
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				return nil, &portTakenError{port: m.o.Port, err: err}
			}
			return nil, fmt.Errorf("listen for joins on %v: %w", a, err)
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// portTakenError says that another process has the join port.
type portTakenError struct {
	port int
	err  error
}

func (e *portTakenError) Error() string {
	return fmt.Sprintf("listen for joins: TCP port %d is in use by another process", e.port)
}
func (e *portTakenError) Unwrap() error { return e.err }

// Hint is how to find it, and the way round.
func (e *portTakenError) Hint() string {
	return fmt.Sprintf("`ss -ltnp sport = :%d` shows which; end it, or launch every host of the mesh with another --port", e.port)
}

// serve accepts until ctx ends and returns when all that it accepted is done.
func (m *Mesh) serve(ctx context.Context, ln net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil { // out of files, most likely
			m.log.Warn("accept", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		from := addrPortOf(conn.RemoteAddr())
		inside := peer.ControlPrefix(m.mesh.Control()).Contains(from.Addr())
		source := sourceOf(from.Addr(), inside)
		if !inside && !m.limits.allow(source, time.Now()) {
			m.count.add("join_refused_rate")
			_ = conn.Close()
			continue
		}
		if inside && !m.senders.take(source, 0, false, time.Now()) {
			m.count.add("session_refused_flood")
			_ = conn.Close()
			continue
		}
		// Strangers cannot use up what hosts of the mesh need.
		slots, holds := m.guests, m.guestHolds
		if inside {
			slots, holds = m.locals, m.localHolds
		}
		if !holds.take(source) {
			m.count.add("join_refused_limit")
			_ = conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			holds.give(source)
			m.count.add("join_refused_limit")
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			conn := m.conns.accepted(conn)
			defer func() { _ = conn.Close(); holds.give(source); <-slots }()
			m.handle(ctx, conn)
		})
	}
}

// handle serves one connection. Until Server returns, the other side has proven
// nothing; that is bounded in time, bytes and number.
func (m *Mesh) handle(ctx context.Context, conn net.Conn) {
	from := addrPortOf(conn.RemoteAddr())
	s, err := Server(ctx, conn, m.o.Identity, m.o.Secret)
	if err != nil {
		m.refused(from, err)
		return
	}
	// A session that is not a call has an end, however slowly the other side speaks.
	limited, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	l := &link{s: s, stop: context.AfterFunc(limited, func() { _ = s.Close() })}
	defer func() { l.close() }()
	if err := m.answer(ctx, l); err != nil {
		m.refused(from, err)
		return
	}
	switch l.purpose {
	case purposeJoin:
		err = m.serveJoin(limited, l)
	case purposeSync:
		err = m.serveSync(limited, l)
	case purposeCall:
		l.stop()
		l.stop = context.AfterFunc(ctx, func() { _ = s.Close() })
		err = m.serveCall(ctx, l)
	}
	if err != nil && ctx.Err() == nil {
		m.log.Debug("session ended", "purpose", l.purpose.String(), "peer", l.id, "endpoint", from, "err", err)
	}
}

// serveSync exchanges logs with a member if others are not at it already.
func (m *Mesh) serveSync(ctx context.Context, l *link) error {
	k := m.talks.serving(l)
	defer k.end()
	if _, err := m.exchange(ctx, l, k); err != nil {
		return err
	}
	return l.write(msgReady, Refusal{}.encode())
}

// refused tells this side's operator of a session that did not come about.
// Strangers that do not even speak the protocol are counted only: a port on the
// Internet is scanned all day.
func (m *Mesh) refused(from netip.AddrPort, err error) {
	var text string
	r := (*Refusal)(nil)
	switch {
	case errors.As(err, &r):
		if r.Code == RefusedSelf || r.Code == RefusedBusy {
			return
		}
		text = r.Text
	case errors.Is(err, ErrWrongSecret):
		text = "wrong secret: its password or token is of another mesh"
	case errors.Is(err, ErrVersion):
		text = err.Error()
	default:
		m.count.add("join_failed")
		m.log.Debug("session failed", "endpoint", from, "err", err)
		return
	}
	m.count.add("join_refused_" + strings.ReplaceAll(string(reasonOf(err)), "-", "_"))
	m.log.Warn("host refused", "endpoint", from, "err", text)
	m.notice("in "+from.Addr().String(), fmt.Sprintf("a host at %v was refused: %s", from.Addr(), text))
}

// notice tells the operator something; the empty text takes it back.
func (m *Mesh) notice(cause, text string) {
	m.mu.Lock()
	var changed bool
	if text == "" {
		changed = m.notices.clear(cause)
	} else {
		changed = m.notices.set(cause, text, time.Now())
	}
	if changed {
		m.publishLocked()
	}
	m.mu.Unlock()
	if changed {
		m.o.OnChange()
	}
}

// Rates are a burst, then so many a second, per source.
const (
	sourceBurst = 30 // connections of strangers
	sourceRate  = 10
	senderBurst = 2000 // datagrams of members
	senderRate  = 500
	maxSources  = 4096

	challengeBurst = 30 // challenges of former starts, by who has this host ask
	challengeRate  = 1
)

// sourceLimits is a token bucket per source: see sourceOf.
type sourceLimits struct {
	burst, rate float64

	mu      sync.Mutex // guards sources
	sources map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newSourceLimits(burst, rate float64) *sourceLimits {
	return &sourceLimits{burst: burst, rate: rate, sources: make(map[netip.Addr]bucket)}
}

// allow takes one token if there is one.
func (s *sourceLimits) allow(a netip.Addr, now time.Time) bool { return s.take(a, 1, false, now) }

// charge takes tokens whether they are there or not.
func (s *sourceLimits) charge(a netip.Addr, n float64, now time.Time) { s.take(a, n, true, now) }

func (s *sourceLimits) take(a netip.Addr, n float64, always bool, now time.Time) bool {
	if !a.IsValid() {
		return true // no IP address: a test's pipe
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.sources[a]
	if !ok {
		if len(s.sources) >= maxSources {
			s.forgetLocked(now)
		}
		b = bucket{tokens: s.burst, at: now}
	}
	b.tokens = min(s.burst, b.tokens+now.Sub(b.at).Seconds()*s.rate)
	b.at = now
	allowed := b.tokens >= n
	if allowed || always {
		b.tokens = max(b.tokens-n, -s.burst)
	}
	s.sources[a] = b
	return allowed
}

// forgetLocked drops sources whose bucket is full again; if all are busy, any one.
func (s *sourceLimits) forgetLocked(now time.Time) {
	for src, b := range s.sources {
		if b.tokens+now.Sub(b.at).Seconds()*s.rate >= s.burst {
			delete(s.sources, src)
		}
	}
	for src := range s.sources {
		if len(s.sources) < maxSources*3/4 { // room for a while: this loop is not free
			return
		}
		delete(s.sources, src)
	}
}
