package mesh

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// outgoing are the connections that this host has begun. One from an address that it
// loses is silent from then on, in both directions; without being told, it would wait for
// as long as for a slow host.
type outgoing struct {
	mu sync.Mutex // guards is
	is map[*outgoingConn]bool
}

type outgoingConn struct {
	net.Conn        // nil: on its way
	cut      func() // ends a dial
	gone     bool   // … that may have succeeded
	of       *outgoing
}

func newOutgoing() *outgoing { return &outgoing{is: make(map[*outgoingConn]bool)} }

func (o *outgoing) dial(ctx context.Context, by Network, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &outgoingConn{cut: cancel, of: o}
	o.mu.Lock()
	o.is[c] = true
	o.mu.Unlock()
	conn, err := by.Dial(ctx, to)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil && c.gone {
		_ = conn.Close()
		err = context.Canceled
	}
	if err != nil {
		delete(o.is, c)
		return nil, err
	}
	c.Conn = conn
	return c, nil
}

// Close may be called again.
func (c *outgoingConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.is, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// moved ends what comes from an address that this host has lost, and what may. One that it
// has got ends nothing.
func (o *outgoing) moved(before, now []netip.AddrPort) {
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
