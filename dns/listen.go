package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// perAddress is the number of UDP sockets of one address. The kernel gives all packets of one
// client to one of them (see steer), so that several processors answer, and one that floods
// fills its own socket and not those of most others.
const perAddress = 8

// socket is one bound address: UDP sockets and a TCP socket on the same port.
type socket struct {
	want, bound netip.AddrPort // they differ if port 0 was wanted
	udp         []*net.UDPConn
	tcp         *tcpListener
	// stop closes both and waits until nothing of them runs; repeatable. It
	// must not be called by a handler.
	stop func()
}

// SetListen makes the server listen on these addresses, UDP and TCP each, and
// on no others. It takes the whole wanted list and may be repeated: what is bound
// already is not touched, what is gone is closed, and an address that can't be
// bound keeps none of the others from it. The errors of all are joined, a
// [ListenError] each. Sockets bound before Run wait for it. Port 0 takes a free port,
// which Listening tells. It may block for as long as a reply is being written to
// an address that goes, 2 s at most. An address that was bound and is lost, or that a Keeper holds and did not give, is
// tried again by Run.
func (s *Server) SetListen(addrs []netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == ended {
		return fmt.Errorf("set DNS addresses: %w", net.ErrClosed)
	}
	s.wanted = s.wanted[:0]
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if !slices.Contains(s.wanted, a) {
			s.wanted = append(s.wanted, a)
		}
	}
	err := s.setWantedLocked()
	if len(s.soon) > 0 {
		s.lookAgain()
	}
	return err
}

// setWantedLocked makes what is bound be what is wanted.
func (s *Server) setWantedLocked() error {
	defer s.publishLocked()
	defer s.keepLocked()

	order, wanted := s.wanted, make(map[netip.AddrPort]bool, len(s.wanted))
	for _, a := range order {
		wanted[a] = true
	}
	failed := make(map[netip.AddrPort]error)
	if s.keeper != nil && !s.inherited {
		s.inherited = s.inheritLocked(order)
	}
	for _, a := range order {
		if s.sockets[a] == nil {
			failed[a] = s.bindLocked(a)
		}
	}
	for want, b := range s.sockets {
		if !wanted[want] {
			b.stop()
			delete(s.sockets, want)
			s.dropLocked(b)
		}
	}
	var errs []error
	lost := s.soon
	s.soon = make(map[netip.AddrPort]bool)
	for _, a := range order {
		err := failed[a]
		// It may have been one of our own, now gone, that was in the way.
		if errors.Is(err, syscall.EADDRINUSE) {
			err = s.bindLocked(a)
		}
		if err != nil && (lost[a] || s.keeper != nil && !s.inherited) {
			s.soon[a] = true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookAgain has Run try for what is in s.soon.
func (s *Server) lookAgain() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// What is lost is tried again after rebindFirst at most, then ever more rarely.
const rebindFirst, rebindLast = time.Second, time.Minute

// rebind binds again what was lost, until ctx ends.
func (s *Server) rebind(ctx context.Context) {
	var last time.Time
	var again <-chan time.Time
	wait := rebindFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.poke:
			wait, again = rebindFirst, time.After(rebindFirst-time.Since(last))
			continue
		case <-again:
		}
		last, again = time.Now(), nil
		s.mu.Lock()
		if len(s.soon) > 0 {
			// Who called SetListen has had these errors, or has them at the next call.
			if s.setWantedLocked(); len(s.soon) > 0 {
				again = time.After(wait)
				wait = min(2*wait, rebindLast)
			}
		}
		s.mu.Unlock()
	}
}

// Listening gives the addresses that are bound, sorted, with their real ports.
// It takes no lock.
func (s *Server) Listening() []netip.AddrPort { return slices.Clone(*s.listening.Load()) }

func (s *Server) publishLocked() {
	var bound []netip.AddrPort
	for _, b := range s.sockets {
		bound = append(bound, b.bound)
	}
	slices.SortFunc(bound, netip.AddrPort.Compare)
	s.listening.Store(&bound)
}

func (s *Server) bindLocked(a netip.AddrPort) error {
	b, err := s.bind(a)
	if err != nil {
		return err
	}
	s.sockets[a] = b
	if s.start != nil {
		s.start(b)
	}
	return nil
}

// bind opens both sockets of an address, or none.
func (s *Server) bind(want netip.AddrPort) (*socket, error) {
	// With all addresses, replies would leave from another than was asked.
	if !want.Addr().IsValid() || want.Addr().IsUnspecified() {
		return nil, &ListenError{Addr: want, Network: "udp", Err: errors.New("not one address")}
	}
	family := "6"
	if want.Addr().Is4() {
		family = "4"
	}
	// With port 0 the kernel picks a free UDP port whose TCP twin may be taken.
	for try := 0; ; try++ {
		udp, err := listenUDP("udp"+family, want, readers())
		if err != nil {
			return nil, newListenError(want, "udp", err)
		}
		bound := udp[0].LocalAddr().(*net.UDPAddr).AddrPort()
		bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
		tcp, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(bound))
		if err != nil {
			closeAll(udp)
			if want.Port() == 0 && errors.Is(err, syscall.EADDRINUSE) && try < 20 {
				continue
			}
			return nil, newListenError(want, "tcp", err)
		}
		b := &socket{want: want, bound: bound, udp: udp, tcp: newTCPListener(tcp, s.tcp, s.admits)}
		b.stop = func() { b.close() } // replaced when it is served
		return b, nil
	}
}

// readers is how many UDP sockets an address gets: one where they can't share it.
func readers() int {
	if !batches {
		return 1
	}
	return perAddress
}

// listenUDP opens n sockets on one address. The first is bound alone, so that a port which
// another program shares in the same way is not mistaken for a free one.
func listenUDP(network string, a netip.AddrPort, n int) (conns []*net.UDPConn, err error) {
	first, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(a))
	if err != nil {
		return nil, err
	}
	conns = append(conns, first)
	tune(first)
	if n == 1 {
		return conns, nil
	}
	raw, err := first.SyscallConn()
	if err == nil {
		err = share(raw)
	}
	if err != nil {
		closeAll(conns)
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return share(c) }}
	for len(conns) < n {
		c, err := config.ListenPacket(context.Background(), network, first.LocalAddr().String())
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c.(*net.UDPConn))
		tune(c.(*net.UDPConn))
	}
	steer(raw, network == "udp6", n) // else the kernel goes by the client's port, too
	return conns, nil
}

func closeAll(conns []*net.UDPConn) {
	for _, c := range conns {
		c.Close()
	}
}

// dropLocked has the duplicates of a socket closed, which would keep its address taken.
func (s *Server) dropLocked(b *socket) {
	if s.keeper == nil {
		return
	}
	for i := range b.udp {
		s.keeper.Drop(udpName(b.want, i))
	}
	s.keeper.Drop(tcpName(b.want))
}

func (b *socket) close() {
	closeAll(b.udp)
	b.tcp.Close()
}

// part is one of the servers of a socket.
type part struct {
	run  func() error // until stop
	stop func()       // before, while or after it runs; does not wait for its end
}

// serve starts the servers of a socket. Their questions are cut short when
// ctx ends or the socket is stopped.
func (s *Server) serve(ctx context.Context, b *socket) {
	ctx, cancel := context.WithCancel(ctx)
	parts := []part{{run: func() error { return s.streams(ctx, b.tcp) }, stop: func() { b.tcp.Close() }}}
	for _, conn := range b.udp {
		parts = append(parts, s.answering(ctx, conn))
	}

	var running sync.WaitGroup
	b.stop = sync.OnceFunc(func() {
		cancel()
		for _, p := range parts {
			p.stop()
		}
		running.Wait()
		b.close()
	})
	for _, p := range parts {
		running.Add(1)
		s.wg.Go(func() {
			err := p.run()
			running.Done()
			if ctx.Err() == nil {
				s.lost(b, err)
			}
		})
	}
}

// answering serves one UDP socket: in batches where that is possible.
func (s *Server) answering(ctx context.Context, conn *net.UDPConn) part {
	run := newPackets(s, conn).run
	if batches {
		if r, err := newBatched(s, conn); err == nil {
			run = r.run
		}
	}
	return part{run: func() error { return run(ctx) }, stop: func() { conn.Close() }}
}

// lost forgets a socket that ended without having been told to, and has it bound anew.
func (s *Server) lost(b *socket, err error) {
	s.log.Warn("dns socket lost", "addr", b.bound, "err", err)
	s.mu.Lock()
	if s.sockets[b.want] == b {
		delete(s.sockets, b.want)
		s.dropLocked(b)
		s.publishLocked()
		s.soon[b.want] = true
	}
	s.mu.Unlock()
	b.stop() // the rest of it is in the way of a new one
	s.lookAgain()
}
