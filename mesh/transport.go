package mesh

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxPacket     = 64 << 10
	maxDatagram   = 1500    // a compressed one grows 400-fold at most: no bomb
	maxStream     = 4 << 20 // bytes of one stream: the states of 4,096 hosts
	gossipStreams = 64      // streams from other members at a time; more wait in the kernel's backlog
	memberStreams = 4       // of one member
)

// transport carries memberlist over a Network: one datagram socket and one
// listener on the control address. Errors of the sockets are passed on as they
// are: memberlist looks for *net.OpError by type assertion.
type transport struct {
	gossipPost
	network Network
	self    netip.AddrPort
	inside  netip.Prefix // all control addresses; what comes from elsewhere is dropped
	key     cipher.Block // of memberlist's seal
	pc      net.PacketConn
	ln      net.Listener
	packets chan *memberlist.Packet
	streams chan net.Conn
	slots   chan struct{}
	holds   *holds // streams of one member
	done    chan struct{}
	wg      sync.WaitGroup
	once    sync.Once

	mu      sync.Mutex // guards the fields below, and those of every dialled
	dialled map[*dialled]struct{}
	ended   bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// gossipPost is what a transport does with what comes in.
type gossipPost struct {
	sort  func(from netip.Addr, b []byte) (pass bool) // takes datagrams that are not memberlist's, and judges those that are; keeps nothing
	blame func(from netip.Addr, err error)            // for a stream that was refused
}

// newTransport opens the sockets and starts to read them; Shutdown ends that. key is
// memberlist's.
func newTransport(ctx context.Context, n Network, self netip.AddrPort, inside netip.Prefix, key []byte, post gossipPost) (*transport, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("open gossip's seal: %w", err)
	}
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
		network: n, self: self, inside: inside, gossipPost: post, key: block, pc: pc, ln: ln,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		slots:   make(chan struct{}, gossipStreams),
		done:    make(chan struct{}),
		holds:   newHolds(memberStreams),
		dialled: make(map[*dialled]struct{}),
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
		u, ok := from.(*net.UDPAddr)
		if n == 0 || n > maxDatagram || !ok || !t.inside.Contains(u.AddrPort().Addr().Unmap()) {
			continue
		}
		if !t.sort(u.AddrPort().Addr().Unmap(), buf[:n]) {
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
		from := addrPortOf(c.RemoteAddr()).Addr()
		if !t.inside.Contains(from) || !t.holds.take(from) {
			_ = c.Close()
			<-t.slots
			continue
		}
		s := t.stream(c, from, func() { t.holds.give(from); <-t.slots })
		select {
		case t.streams <- s:
		case <-t.done:
			_ = s.Close()
			return
		}
	}
}

// stream is what is said with a member; free is called when it is closed.
func (t *transport) stream(c net.Conn, with netip.Addr, free func()) *stream {
	return &stream{Conn: c, key: t.key, left: maxStream, blame: func(err error) { t.blame(with, err) }, free: free}
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
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, insideTry))
	defer cancel()
	d := &dialled{t: t, name: a.Name, cancel: cancel}
	t.mu.Lock()
	ended := t.ended
	if !ended {
		t.dialled[d] = struct{}{}
	}
	t.mu.Unlock()
	if ended {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: net.ErrClosed}
	}
	c, err := t.network.Dial(ctx, to)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		delete(t.dialled, d)
		return nil, err
	}
	d.Conn = t.stream(c, to.Addr(), func() {})
	if d.ended {
		_ = c.Close() // the first use tells memberlist
	}
	return d, nil
}

// dialled is a stream to another member, or the dial of one. Who accepts it may never
// say anything, and memberlist would wait.
type dialled struct {
	net.Conn // nil until the dial has succeeded
	t        *transport
	name     string // memberlist's, of whom it dials
	cancel   context.CancelFunc
	ended    bool
}

func (d *dialled) Close() error {
	d.t.mu.Lock()
	delete(d.t.dialled, d)
	d.t.mu.Unlock()
	return d.Conn.Close()
}

// hangUp ends what was dialled by that name.
func (t *transport) hangUp(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for d := range t.dialled {
		if d.name == name {
			d.endLocked()
		}
	}
}

func (d *dialled) endLocked() {
	d.ended = true
	d.cancel()
	if d.Conn != nil {
		_ = d.Conn.Close()
	}
}

// send sends a datagram of ours.
func (t *transport) send(b []byte, to netip.AddrPort) error {
	_, err := t.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown closes the sockets and what was dialled, and returns when nothing reads the
// sockets any more.
func (t *transport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		_ = t.ln.Close()
		_ = t.pc.Close()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = true
		for d := range t.dialled {
			d.endLocked()
		}
	})
	t.wg.Wait()
	return nil
}
