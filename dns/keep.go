package dns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Keeper holds duplicates of the server's sockets in a process that outlives this one, so that
// questions which come while the server is restarted wait for the next. Its methods may block
// for a moment; every one may fail, since the holder may not be there.
type Keeper interface {
	// Take gives what is held, by name; the caller closes the files.
	Take() (map[string]*os.File, error)
	// Names lists what is held.
	Names() ([]string, error)
	Keep(name string, s syscall.RawConn) error
	Drop(name string) error
}

// Names of held sockets are "tcp ADDR:PORT" and "udp ADDR:PORT N", N from 0.
func tcpName(a netip.AddrPort) string        { return "tcp " + a.String() }
func udpName(a netip.AddrPort, i int) string { return "udp " + a.String() + " " + strconv.Itoa(i) }

// inheritLocked takes over what a predecessor left of the wanted addresses, and has the
// rest dropped: a socket that somebody holds and nobody reads swallows questions. False: the holder does not tell.
func (s *Server) inheritLocked(wanted []netip.AddrPort) bool {
	held, err := s.keeper.Take()
	if err != nil {
		// With no holder there is nothing to take.
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	}
	for _, a := range wanted {
		if s.sockets[a] != nil {
			continue // bound while the holder did not tell
		}
		b, err := s.adopt(a, held)
		if err != nil {
			s.log.Warn("take over a dns socket", "addr", a, "err", err)
			continue
		}
		if b != nil {
			s.sockets[a] = b
			if s.start != nil {
				s.start(b)
			}
		}
	}
	for name, f := range held {
		f.Close()
		if !s.has(name) {
			s.keeper.Drop(name)
		}
	}
	return true
}

// adopt makes a socket of held ones; nil if they are not all there.
func (s *Server) adopt(a netip.AddrPort, held map[string]*os.File) (b *socket, err error) {
	if held[tcpName(a)] == nil || held[udpName(a, 0)] == nil {
		return nil, nil
	}
	b = &socket{want: a, bound: a}
	defer func() {
		if err != nil {
			closeAll(b.udp)
		}
	}()
	for i := 0; held[udpName(a, i)] != nil; i++ {
		c, err := net.FilePacketConn(held[udpName(a, i)])
		if err != nil {
			return nil, err
		}
		udp, ok := c.(*net.UDPConn)
		if !ok {
			c.Close()
			return nil, fmt.Errorf("%s is no UDP socket", udpName(a, i))
		}
		b.udp = append(b.udp, udp)
	}
	l, err := net.FileListener(held[tcpName(a)])
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("%s is no TCP socket", tcpName(a))
	}
	b.tcp = newTCPListener(tcp, s.tcp, s.admits)
	b.stop = func() { b.close() } // replaced when it is served
	return b, nil
}

// has says whether a name is one of a socket that is bound now.
func (s *Server) has(name string) bool {
	for _, b := range s.sockets {
		if name == tcpName(b.want) {
			return true
		}
		if rest, ok := strings.CutPrefix(name, "udp "+b.want.String()+" "); ok {
			i, err := strconv.Atoi(rest)
			return err == nil && i < len(b.udp)
		}
	}
	return false
}

// keepLocked makes what is held be what is bound. The holder may be another than before.
func (s *Server) keepLocked() {
	if s.keeper == nil {
		return
	}
	names, err := s.keeper.Names()
	if err != nil {
		return // it is tried again
	}
	var errs []error
	keep := func(name string, c syscall.Conn) {
		if slices.Contains(names, name) {
			return
		}
		raw, err := c.SyscallConn()
		if err == nil {
			err = s.keeper.Keep(name, raw)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, b := range s.sockets {
		for i, c := range b.udp {
			keep(udpName(b.want, i), c)
		}
		keep(tcpName(b.want), b.tcp.Listener.(*net.TCPListener))
	}
	for _, name := range names {
		if !s.has(name) {
			s.keeper.Drop(name)
		}
	}
	for _, err := range errs {
		s.log.Warn("keep a dns socket for the next router", "err", err)
	}
}
