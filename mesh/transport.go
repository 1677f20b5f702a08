package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxPacket     = 64 << 10
	gossipStreams = 64 // streams from other members at a time; more wait in the kernel's backlog
	gossipDial    = 5 * time.Second
)

// transport carries memberlist over a Network: one datagram socket and one
// listener on the control address. Errors of the sockets are passed on as they
// are: memberlist looks for *net.OpError by type assertion.
type transport struct {
	network Network
	self    netip.AddrPort
	inside  netip.Prefix // all control addresses; what comes from elsewhere is dropped
	pc      net.PacketConn
	ln      net.Listener
	packets chan *memberlist.Packet
	streams chan net.Conn
	slots   chan struct{}
	done    chan struct{}
	wg      sync.WaitGroup
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport opens the sockets and starts to read them; Shutdown ends that.
func newTransport(ctx context.Context, n Network, self netip.AddrPort, inside netip.Prefix) (*transport, error) {
	ln, err := n.Listen(ctx, self)
	if err != nil {
		return nil, fmt.Errorf("listen for gossip streams on %v: %w", self, err)
	}
	pc, err := n.ListenPacket(ctx, self)
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen for gossip packets on %v: %w", self, err)
	}
	t := &transport{
		network: n, self: self, inside: inside, pc: pc, ln: ln,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		slots:   make(chan struct{}, gossipStreams),
		done:    make(chan struct{}),
	}
	t.wg.Go(t.readPackets)
	t.wg.Go(t.accept)
	return t, nil
}

func (t *transport) readPackets() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.pc.ReadFrom(buf)
		if err != nil {
			if t.pause() {
				return
			}
			continue
		}
		if u, ok := from.(*net.UDPAddr); n == 0 || !ok || !t.inside.Contains(u.AddrPort().Addr().Unmap()) {
			continue
		}
		// memberlist keeps the buffer.
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packets <- p:
		case <-t.done:
			return
		}
	}
}

func (t *transport) accept() {
	for {
		select {
		case t.slots <- struct{}{}:
		case <-t.done:
			return
		}
		c, err := t.ln.Accept()
		if err != nil {
			<-t.slots
			if t.pause() {
				return
			}
			continue
		}
		s := &slotConn{Conn: c, free: func() { <-t.slots }}
		select {
		case t.streams <- s:
		case <-t.done:
			_ = s.Close()
			return
		}
	}
}

// pause keeps a socket that only returns errors from using up a core. It
// reports whether the transport has ended.
func (t *transport) pause() bool {
	wait := time.NewTimer(100 * time.Millisecond)
	defer wait.Stop()
	select {
	case <-t.done:
		return true
	case <-wait.C:
		return false
	}
}

// slotConn gives its place back when it is closed.
type slotConn struct {
	net.Conn
	once sync.Once
	free func()
}

func (c *slotConn) Close() error {
	c.once.Do(c.free)
	return c.Conn.Close()
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.self.Addr().AsSlice(), int(t.self.Port()), nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send gossip to %q: %w", a.Addr, err)
	}
	_, err = t.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial gossip of %q: %w", a.Addr, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, gossipDial))
	defer cancel()
	go func() { // ends with this function: a dial must not outlive Shutdown
		select {
		case <-t.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return t.network.Dial(ctx, to)
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown closes the sockets and returns when nothing reads them any more.
func (t *transport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		_ = t.ln.Close()
		_ = t.pc.Close()
	})
	t.wg.Wait()
	return nil
}
