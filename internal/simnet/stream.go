package simnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	streamWindow = 256 << 10 // bytes on the way, unread or not acknowledged before a writer waits
	backlog      = 64        // connections that wait for Accept
)

// Listen takes streams at addr; an unspecified address stands for all of the
// host's.
func (h *Host) Listen(_ context.Context, addr netip.AddrPort) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), h.net.portLocked())
	}
	if h.streams[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{host: h, addr: addr, queue: make(chan *conn, backlog), done: make(chan struct{})}
	h.streams[addr] = l
	return l, nil
}

type listener struct {
	host  *Host
	addr  netip.AddrPort
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.host.net.mu.Lock()
		if l.host.streams[l.addr] == l {
			delete(l.host.streams, l.addr)
		}
		l.host.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue:
				c.abort()
			default:
				return
			}
		}
	})
	return nil
}

// listenerLocked finds who takes streams at addr.
func (h *Host) listenerLocked(addr netip.AddrPort) *listener {
	if l := h.streams[addr]; l != nil {
		return l
	}
	for _, any := range []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		if l := h.streams[netip.AddrPortFrom(any, addr.Port())]; l != nil {
			return l
		}
	}
	return nil
}

// Dial makes a stream to addr. Nobody there: it ends with ctx, or after 2 minutes
// as a kernel's would. A live host without a listener refuses.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	h.net.mu.Lock()
	src, err := h.sourceLocked(addr.Addr())
	local := netip.AddrPortFrom(src, h.net.portLocked())
	h.net.mu.Unlock()
	if err != nil {
		return nil, fail(syscall.ENETUNREACH)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	syn := parcel{packets: 1, stream: true}
	for tries := 0; ; tries++ {
		there := h.net.pass(h, src, addr.Addr(), syn)
		ok := there.lost == 0
		wait := min(synRetransmit<<tries, maxRetransmit)
		if ok {
			there.to.deliver(there.delay, func() { there.to.hear(src) })
			back := h.net.pass(there.to, addr.Addr(), src, syn)
			if ok = back.lost == 0; ok {
				wait = max(there.delay, there.to.still()) + back.delay
			}
		}
		if wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				if errors.Is(ctx.Err(), context.DeadlineExceeded) {
					return nil, fail(os.ErrDeadlineExceeded)
				}
				return nil, fail(ctx.Err())
			}
		}
		if !ok {
			continue
		}
		c, err := h.connect(there.to, local, addr)
		if err != nil {
			return nil, fail(err)
		}
		return c, nil
	}
}

func (h *Host) connect(to *Host, local, addr netip.AddrPort) (net.Conn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.heard[addr.Addr()] = time.Now()
	l := to.listenerLocked(addr)
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	out, in := newHalf(), newHalf()
	a := &conn{host: h, local: local, remote: addr, in: in, out: out}
	b := &conn{host: to, local: addr, remote: local, in: out, out: in}
	a.peer, b.peer = b, a
	select {
	case l.queue <- b:
	default:
		return nil, syscall.ECONNREFUSED
	}
	h.conns[a] = struct{}{}
	to.conns[b] = struct{}{}
	return a, nil
}

// conn is one end of a stream.
type conn struct {
	host          *Host
	peer          *conn
	local, remote netip.AddrPort
	in, out       *half
}

func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	if err != nil && err != io.EOF {
		err = &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b, func(p []byte) { c.send(&segment{data: p}) })
	if err != nil {
		err = &net.OpError{Op: "write", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	return n, err
}

// segment is what travels: bytes, or the end of them. It may be several packets.
type segment struct {
	data  []byte
	fin   bool
	end   int  // bytes of the stream up to here
	there bool // all of it has come; guarded by the half's mu
}

// send starts the journey of a segment. Segments keep their order, whatever
// delay each draws.
func (c *conn) send(s *segment) {
	c.out.enter(s)
	c.travel(s, parcel{packets: max(1, (len(s.data)+segmentSize-1)/segmentSize), bytes: len(s.data), stream: true}, 0)
}

// pass sends a parcel to the other end. Who has that end's address by now, but not the
// stream, takes nothing.
func (c *conn) pass(p parcel) passage {
	way := c.host.net.pass(c.host, c.local.Addr(), c.remote.Addr(), p)
	if way.to != c.peer.host {
		way.open, way.lost = false, p.packets
	}
	return way
}

// travel sends the packets of a segment when the host's uplink lets them, and what is
// lost of them again, later each time.
func (c *conn) travel(s *segment, p parcel, tries int) {
	if c.host == c.peer.host {
		c.depart(s, p, tries)
		return
	}
	c.host.upload(c.out, p.bytes, func() { c.depart(s, p, tries) })
}

func (c *conn) depart(s *segment, p parcel, tries int) {
	way := c.pass(p)
	if way.lost > 0 {
		p.bytes, p.packets = p.bytes*way.lost/p.packets, way.lost
		c.again(s, p, tries)
		return
	}
	c.peer.host.deliver(way.delay, func() {
		c.peer.host.hear(c.local.Addr())
		c.acknowledge(s, p, tries, c.out.arrive(s))
	})
}

func (c *conn) again(s *segment, p parcel, tries int) {
	time.AfterFunc(min(retransmit<<tries, maxRetransmit), func() {
		if !c.out.settled(s) {
			c.travel(s, p, min(tries+1, 16))
		}
	})
}

// acknowledge sends what the other end's kernel would answer: a packet for every other
// one, which says how much has come in all. If they are lost, the segment's last packet
// is sent again, unless a later answer has made up for it by then.
func (c *conn) acknowledge(s *segment, p parcel, tries, upTo int) {
	n := (p.packets + 1) / 2
	way := c.peer.pass(parcel{packets: n, stream: true})
	if way.lost == n {
		c.again(s, parcel{packets: 1, bytes: min(len(s.data), segmentSize), stream: true}, tries)
		return
	}
	c.host.deliver(way.delay, func() {
		c.host.hear(c.remote.Addr())
		c.out.acknowledge(upTo)
	})
}

// Close sends the end of the stream behind what was written.
func (c *conn) Close() error {
	if c.forget() {
		c.in.closeRead(net.ErrClosed, true)
		c.out.closeWrite(net.ErrClosed)
		c.send(&segment{fin: true})
	}
	return nil
}

// abort ends the stream here; the other end sees a reset if this host still can
// send one.
func (c *conn) abort() {
	if c.forget() {
		tell := c.pass(parcel{packets: 1, stream: true}).open
		c.in.closeRead(net.ErrClosed, tell)
		c.out.closeWrite(net.ErrClosed)
		c.out.abandon()
		if tell {
			c.out.reset()
		}
	}
}

func (c *conn) forget() bool {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	_, ok := c.host.conns[c]
	delete(c.host.conns, c)
	return ok
}

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setReadDeadline(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }
