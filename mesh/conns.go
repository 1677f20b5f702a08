package mesh

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// conns are this host's connections, and dials. One from or to an address that it loses is
// silent from then on, in both directions; without being told, it would wait for as long
// as for a slow host, and begin nothing else with the other one meanwhile.
type conns struct {
	mu sync.Mutex // guards is
	is map[*conn]bool
}

type conn struct {
	net.Conn        // nil: on its way
	cut      func() // ends a dial
	gone     bool   // … that may have succeeded
	of       *conns
}

func newConns() *conns { return &conns{is: make(map[*conn]bool)} }

func (o *conns) dial(ctx context.Context, by Network, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conn{cut: cancel, of: o}
	o.mu.Lock()
	o.is[c] = true
	o.mu.Unlock()
	made, err := by.Dial(ctx, to)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil && c.gone {
		_ = made.Close()
		err = context.Canceled
	}
	if err != nil {
		delete(o.is, c)
		return nil, err
	}
	c.Conn = made
	return c, nil
}

// accepted is a connection that another host has begun.
func (o *conns) accepted(made net.Conn) net.Conn {
	c := &conn{Conn: made, of: o}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.is[c] = true
	return c
}

// Close may be called again.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.is, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// moved ends what comes from an address that this host has lost, or is for it, and what may
// come from it. One that it has got ends nothing.
func (o *conns) moved(before, now []netip.AddrPort) {
	lost := make(map[netip.Addr]bool)
	for _, e := range before {
		lost[e.Addr()] = true
	}
	for _, e := range now {
		delete(lost, e.Addr())
	}
	if len(lost) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.is {
		switch {
		case c.Conn == nil:
			c.gone = true
			c.cut()
		case lost[addrPortOf(c.LocalAddr()).Addr()]:
			_ = c.Conn.Close()
		}
	}
}
