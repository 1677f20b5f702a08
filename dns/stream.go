package dns

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// tcpLimits bound, with maxPipelined, what clients can hold over TCP.
type tcpLimits struct {
	first, idle time.Duration // for the first query; between queries
	write       time.Duration // for one reply
	total       int           // connections on one address
	perSource   int           // of those, from one client
}

var defaultTCPLimits = tcpLimits{
	first: 2 * time.Second, idle: 10 * time.Second, write: 2 * time.Second,
	total: 512, perSource: 64,
}

// tcpListener closes connections of strangers, and those above its limits, as soon as they come.
type tcpListener struct {
	net.Listener
	limits tcpLimits
	admits func(netip.Addr) bool
	ended  chan struct{}
	end    func() error

	mu    sync.Mutex // guards the fields below
	total int
	conns map[netip.Addr]int
}

func newTCPListener(l net.Listener, limits tcpLimits, admits func(netip.Addr) bool) *tcpListener {
	t := &tcpListener{Listener: l, limits: limits, admits: admits, ended: make(chan struct{}), conns: make(map[netip.Addr]int)}
	t.end = sync.OnceValue(func() error {
		close(t.ended)
		return l.Close()
	})
	return t
}

func (t *tcpListener) Close() error { return t.end() }

func (t *tcpListener) Accept() (net.Conn, error) {
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			if gone(err) {
				return nil, err
			}
			// There is no room, and others close some of theirs; or it was one connection's own error (accept(2)).
			pause := time.NewTimer(50 * time.Millisecond)
			select {
			case <-pause.C:
			case <-t.ended:
			}
			pause.Stop()
			continue
		}
		src := source(c.RemoteAddr())
		// Strangers take no place of those who may ask.
		if !t.admits(src) || !t.take(src) {
			c.Close()
			continue
		}
		return &tcpConn{Conn: c, release: sync.OnceFunc(func() { t.give(src) })}, nil
	}
}

// gone says whether an error of accept(2) means that there is no listening socket any more.
func gone(err error) bool {
	for _, e := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (t *tcpListener) take(src netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total >= t.limits.total || t.conns[src] >= t.limits.perSource {
		return false
	}
	t.total++
	t.conns[src]++
	return true
}

func (t *tcpListener) give(src netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.conns[src]--; t.conns[src] == 0 {
		delete(t.conns, src)
	}
}

type tcpConn struct {
	net.Conn
	release func()
}

func (c *tcpConn) Close() error {
	c.release()
	return c.Conn.Close()
}
