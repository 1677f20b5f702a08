package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"weft/peer"
)

// link is a session whose hellos and verdicts have been exchanged: each side
// knows who the other is and has agreed to go on.
type link struct {
	s       *Session
	id      peer.ID
	rec     Record
	raw     []byte // of rec
	purpose purpose
	inside  bool // through the tunnel
	pace    pace // of an exchange
	stop    func() bool
}

const (
	// linkPatience is how long the other side may be silent within an exchange.
	linkPatience = 10 * time.Second
	dialTimeout  = redialEvery - dialTick // so that a host which does not answer is dialled as often as one that refuses
)

// extFounder is an extension of the hello: the founder's nickname, so that a
// refusal can name it.
const extFounder uint8 = 1

// source is whom the link counts for.
func (l *link) source() netip.Addr { return sourceOf(l.s.RemoteAddr().Addr(), l.inside) }

func (l *link) close() {
	l.stop()
	_ = l.s.Close()
}

// until makes the link end with another ctx than that of its making.
func (l *link) until(ctx context.Context) {
	l.stop()
	l.stop = context.AfterFunc(ctx, func() { _ = l.s.Close() })
}

func (l *link) write(t msgType, b []byte) error {
	err := l.pace.wait(l.s, func() (int, error) { return len(b), l.s.WriteMsg(append([]byte{byte(t)}, b...)) })
	l.pace.sent += len(b)
	return err
}

// read returns the next message, which must be of a type that is wanted.
func (l *link) read(limit int, want ...msgType) (t msgType, b []byte, err error) {
	err = l.pace.wait(l.s, func() (int, error) {
		t, b, err = readMsg(l.s, limit, want...)
		return len(b), err
	})
	l.pace.sent = 0
	return t, b, err
}

func readMsg(s *Session, limit int, want ...msgType) (msgType, []byte, error) {
	b, err := s.ReadMsg(limit)
	if err != nil {
		return 0, nil, err
	}
	if len(b) > 0 {
		for _, t := range want {
			if msgType(b[0]) == t {
				return t, b[1:], nil
			}
		}
	}
	return 0, nil, fmt.Errorf("read message: unexpected type in %d bytes", len(b))
}

// open dials, proves the secret, and goes through the hellos and verdicts, at the first
// address where that succeeds. Somebody else may answer at the others: hosts of
// different sites have the same private addresses. want is who is looked for; zero:
// any host but this one.
func (m *Mesh) open(ctx context.Context, p purpose, want peer.ID, addrs ...netip.AddrPort) (*link, error) {
	return race(ctx, addrs, raced[*link]{
		try: func(ctx context.Context, a netip.AddrPort) (*link, error) { return m.openOne(ctx, p, want, a) },
		won: func(l *link) {
			l.until(ctx) // the tries end here, the link does not
		},
		lost: (*link).close,
	})
}

func (m *Mesh) openOne(ctx context.Context, p purpose, want peer.ID, addr netip.AddrPort) (*link, error) {
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := m.conns.dial(dial, m.o.Network, addr)
	if err != nil {
		return nil, dialError(err)
	}
	s, err := Client(ctx, conn, m.o.Identity, m.o.Secret)
	if err != nil {
		return nil, err
	}
	l := &link{s: s, purpose: p, stop: context.AfterFunc(ctx, func() { _ = s.Close() })}
	err = m.greet(ctx, l)
	if err == nil && !want.IsZero() && l.id != want {
		err = &strangerError{addr, l.id}
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// strangerError says that another host was met than the one that was looked for.
type strangerError struct {
	at  netip.AddrPort
	met peer.ID
}

func (e *strangerError) Error() string { return fmt.Sprintf("%v answers at %v", e.met, e.at) }

// raced is what race does: a try ends with its ctx; won is called with what the first
// success gave before the ctx of all tries ends, lost with what came too late.
type raced[T any] struct {
	try       func(context.Context, netip.AddrPort) (T, error)
	won, lost func(T)
}

// race tries addresses until one try succeeds; the next one begins when one has
// failed, or all have been silent for a moment. Of several errors it returns the first
// of those that tell most.
func race[T any](ctx context.Context, addrs []netip.AddrPort, x raced[T]) (none T, err error) {
	if len(addrs) == 0 {
		return none, errors.New("dial: no address is known")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i   int
		got T
		err error
	}
	results := make(chan result, len(addrs))
	next := time.NewTimer(0)
	defer next.Stop()
	errs := make([]error, len(addrs))
	started := 0
	for ended := 0; ended < len(addrs); {
		select {
		case <-next.C:
			if started < len(addrs) {
				i := started
				started++
				go func() {
					got, err := x.try(ctx, addrs[i])
					results <- result{i, got, err}
				}()
				next.Reset(250 * time.Millisecond)
			}
		case r := <-results:
			ended++
			if r.err == nil {
				x.won(r.got)
				cancel()
				for range started - ended {
					if late := <-results; late.err == nil {
						x.lost(late.got)
					}
				}
				return r.got, nil
			}
			errs[r.i] = r.err
			next.Reset(0)
		}
	}
	return none, slices.MinFunc(errs, func(a, b error) int { return cmp.Compare(tells(a), tells(b)) })
}

// tells ranks the errors of several addresses by how much they tell: least that one of
// them is this host's own, as with a name that has the addresses of all hosts.
func tells(err error) int {
	switch r := (*Refusal)(nil); {
	case errors.As(err, &r) && r.Code == RefusedSelf:
		return 2
	case reasonOf(err) == Unreachable:
		return 1
	}
	return 0
}

// greet is the client's half of the hellos.
func (m *Mesh) greet(ctx context.Context, l *link) error {
	_ = l.s.SetDeadline(time.Now().Add(linkPatience))
	h, err := m.readHello(l)
	if err != nil {
		return err
	}
	if err := m.writeHello(l, hello{Purpose: l.purpose}); err != nil {
		return err
	}
	ours := m.judge(ctx, l, h)
	b, err := l.s.ReadMsg(maxRefusal)
	if err != nil {
		return fmt.Errorf("read verdict: %w", err)
	}
	theirs, err := parseRefusal(b)
	if err != nil {
		return err
	}
	if theirs.Code != Accepted {
		if ours != nil && ours.Code == theirs.Code { // both have seen it; this side's words are about this side
			return m.onOther(l, ours)
		}
		return &theirs
	}
	if err := m.writeVerdict(l, ours); err != nil {
		return m.onOther(l, err)
	}
	return m.accept(l, h)
}

// ownVerdict is this host's verdict on another, rather than the other's on it.
type ownVerdict struct{ error }

func (e *ownVerdict) Unwrap() error { return e.error }

// onOther marks a verdict of this host's, unless it is on itself.
func (m *Mesh) onOther(l *link, err error) error {
	if l.id == m.id {
		return err
	}
	return &ownVerdict{err}
}

// answer is the server's half.
func (m *Mesh) answer(ctx context.Context, l *link) error {
	_ = l.s.SetDeadline(time.Now().Add(linkPatience))
	if err := m.writeHello(l, hello{}); err != nil {
		return err
	}
	h, err := m.readHello(l)
	if err != nil {
		return err
	}
	l.purpose = h.Purpose
	if l.purpose == purposeProbe {
		v := &Refusal{Code: RefusedNonce, Text: "this is another start of the host"}
		if h.ProbeNonce == m.nonce {
			v = &Refusal{}
		}
		return l.s.WriteMsg(v.encode())
	}
	ours := m.judge(ctx, l, h)
	if err := m.writeVerdict(l, ours); err != nil {
		return err
	}
	_ = l.s.SetDeadline(time.Now().Add(linkPatience))
	b, err := l.s.ReadMsg(maxRefusal)
	if err != nil {
		return fmt.Errorf("read verdict: %w", err)
	}
	theirs, err := parseRefusal(b)
	if err != nil {
		return err
	}
	if theirs.Code != Accepted {
		return &theirs
	}
	return m.accept(l, h)
}

func (m *Mesh) writeHello(l *link, h hello) error {
	m.mu.Lock()
	founding, founder := m.founding, ""
	if !founding.IsZero() {
		founder = m.nicknameLocked(founding.Founder)
	}
	h.Record = m.own.raw
	m.mu.Unlock()
	h.Proto, h.Observed = l.s.Proto(), l.s.RemoteAddr()
	if founder != "" {
		h.Ext = append(h.Ext, TLV{extFounder, []byte(founder)})
	}
	var err error
	if h.Founding, err = founding.MarshalBinary(); err != nil {
		return err
	}
	b, err := h.encode()
	if err != nil {
		return err
	}
	return l.s.WriteMsg(b)
}

// readHello reads the other side's hello and proves that it is whose record it
// shows: the record names the key that this session was made with. Who has the secret
// can make up identities; a session through a tunnel is with the host whose tunnel it is.
func (m *Mesh) readHello(l *link) (hello, error) {
	b, err := l.s.ReadMsg(maxHello)
	if err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	h, err := parseHello(b)
	if err != nil {
		return hello{}, err
	}
	rec, err := m.verifyRecord(h.Record)
	if err == nil && rec.Join != l.s.RemoteStatic() {
		err = errors.New("host record is not of this session's key")
	}
	if err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	l.rec, l.raw, l.id = rec, h.Record, rec.ID()
	at := l.s.RemoteAddr().Addr()
	if l.inside = peer.ControlPrefix(m.mesh.Control()).Contains(at); l.inside && at != m.controlAddr(l.id) {
		err = fmt.Errorf("%v speaks through the tunnel of %v", l.id, idAt(at))
		m.rejectSent(idAt(at), reasonInvalid, err)
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	return h, nil
}

func (m *Mesh) writeVerdict(l *link, v *Refusal) error {
	_ = l.s.SetDeadline(time.Now().Add(linkPatience))
	if v == nil {
		return l.s.WriteMsg(Refusal{}.encode())
	}
	if err := l.s.WriteMsg(v.encode()); err != nil {
		return err
	}
	return v
}

// accept takes what the other side said: from here on it is a host of this mesh.
// The founding may have been learnt elsewhere since judge looked.
func (m *Mesh) accept(l *link, h hello) error {
	f, _ := ParseFounding(h.Founding) // judge has parsed it
	m.mu.Lock()
	if !m.founding.IsZero() && !f.IsZero() && !m.founding.Equal(f) {
		m.mu.Unlock()
		return m.judgeFounding(l, h)
	}
	news := m.noteRecordLocked(l.rec, l.raw, byItself)
	m.meetLocked(l.id)
	if m.hosts[l.id] == nil && l.id != m.id {
		news = m.notices.set("crowded", fmt.Sprintf("a host came and finds no place here: this host knows %d others and itself, as many as it can. "+
			"Remove those that are gone for good and were not reset (`weft rmpeer`), and restart weft here", maxAuthors-1), time.Now()) || news
	}
	if m.founding.IsZero() && !f.IsZero() {
		m.founding = f
		m.dirtyLocked(bucketMesh, keyFounding, h.Founding)
		news = true
		m.log.Info("learnt which mesh this is", "founding", f, "peer", l.id)
		poke(m.spread)
	}
	if news {
		m.publishLocked()
	}
	m.mu.Unlock()
	if news {
		m.o.OnChange()
	}
	return nil
}

// nicknameLocked is what a host calls itself; empty if it is not known.
func (m *Mesh) nicknameLocked(id peer.ID) string {
	if id == m.id {
		return m.o.Nickname
	}
	if h := m.hosts[id]; h != nil {
		return h.rec.Nickname
	}
	return ""
}

// dialError makes a dial's error a sentence.
func dialError(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens there: %w", err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer: %w", err)
	}
	return err
}

// reasonOf sorts an error of a session for programs.
func reasonOf(err error) Reason {
	if err == nil {
		return NoReason
	}
	if r := (*Refusal)(nil); errors.As(err, &r) {
		switch r.Code {
		case RefusedClone:
			if o := (*ownVerdict)(nil); !errors.As(err, &o) {
				return Clone // else the other is the copy, which is no fault of this host
			}
		case RefusedFounding:
			return OtherMesh
		case RefusedRange:
			return OtherRange
		}
		return OtherReason
	}
	var oe *net.OpError
	var de *net.DNSError
	switch {
	case errors.Is(err, ErrWrongSecret):
		return WrongSecret
	case errors.Is(err, ErrVersion):
		return OtherProto
	case errors.Is(err, ErrNotWeft):
		return NotWeft
	case errors.As(err, &oe), errors.As(err, &de), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, context.DeadlineExceeded):
		return Unreachable
	}
	return OtherReason
}
