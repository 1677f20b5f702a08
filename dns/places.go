package dns

import (
	"context"
	"net/netip"
	"sync"
)

// places bounds how much each client has in hand.
type places struct {
	perSource int

	mu sync.Mutex // guards the field below
	of map[netip.Addr]*place
}

type place struct {
	slots chan struct{}
	users int // that have one or wait for one
}

// take waits for a place. False: ctx has ended first, and there is none to give back.
func (p *places) take(ctx context.Context, src netip.Addr) bool {
	p.mu.Lock()
	at := p.of[src]
	if at == nil {
		at = &place{slots: make(chan struct{}, p.perSource)}
		p.of[src] = at
	}
	at.users++
	p.mu.Unlock()
	select {
	case at.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		p.leave(src)
		return false
	}
}

// give gives a place back.
func (p *places) give(src netip.Addr) {
	p.mu.Lock()
	<-p.of[src].slots
	p.mu.Unlock()
	p.leave(src)
}

func (p *places) leave(src netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[src].users--; p.of[src].users == 0 {
		delete(p.of, src)
	}
}
