package simnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// packetQueue is how many datagrams wait for a reader before more are dropped.
const packetQueue = 512

// ListenPacket opens a datagram socket at addr.
func (h *Host) ListenPacket(_ context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), h.net.portLocked())
	}
	if h.packets[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: syscall.EADDRINUSE}
	}
	p := &packetConn{
		host: h, addr: addr,
		queue:   make(chan datagram, packetQueue),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	h.packets[addr] = p
	return p, nil
}

type datagram struct {
	data []byte
	from netip.AddrPort
}

type packetConn struct {
	host  *Host
	addr  netip.AddrPort
	queue chan datagram
	once  sync.Once
	done  chan struct{}

	mu      sync.Mutex // guards the fields below
	readBy  time.Time
	changed chan struct{}
}

func (p *packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(p.addr) }

func (p *packetConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Addr: p.LocalAddr(), Err: err}
}

func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		by, changed := p.readBy, p.changed
		p.mu.Unlock()
		var timeout <-chan time.Time
		if !by.IsZero() {
			t := time.NewTimer(time.Until(by))
			defer t.Stop()
			timeout = t.C
		}
		select {
		case d := <-p.queue:
			return copy(b, d.data), net.UDPAddrFromAddrPort(d.from), nil
		case <-p.done:
			return 0, nil, p.opError("read", net.ErrClosed)
		case <-timeout:
			return 0, nil, p.opError("read", os.ErrDeadlineExceeded)
		case <-changed:
		}
	}
}

// WriteTo never blocks and never tells of loss. A datagram to a port where
// nobody listens is lost like any other.
func (p *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.done:
		return 0, p.opError("write", net.ErrClosed)
	default:
	}
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, p.opError("write", syscall.EINVAL)
	}
	dst := ua.AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	way := p.host.net.pass(p.host, p.addr.Addr(), dst.Addr(), parcel{packets: 1, bytes: len(b)})
	if way.lost > 0 {
		return len(b), nil
	}
	d := datagram{data: append([]byte(nil), b...), from: p.addr}
	way.to.deliver(way.delay, func() { way.to.take(dst, d) })
	if delay, ok := p.host.net.again(p.host, way); ok {
		way.to.deliver(delay, func() { way.to.take(dst, d) })
	}
	return len(b), nil
}

// take puts a datagram into the queue of whoever listens at dst.
func (h *Host) take(dst netip.AddrPort, d datagram) {
	h.net.mu.Lock()
	q := h.packets[dst]
	if !h.down {
		h.heard[d.from.Addr()] = time.Now()
	}
	h.net.mu.Unlock()
	if q == nil {
		return
	}
	select {
	case q.queue <- d:
	default:
	}
}

func (p *packetConn) Close() error {
	p.once.Do(func() {
		p.host.net.mu.Lock()
		if p.host.packets[p.addr] == p {
			delete(p.host.packets, p.addr)
		}
		p.host.net.mu.Unlock()
		close(p.done)
	})
	return nil
}

func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readBy = t
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}
func (p *packetConn) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }
