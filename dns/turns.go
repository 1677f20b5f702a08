package dns

import (
	"net/netip"
	"sync"
)

// turns has each client's connections answered one at a time, so that a client is one among those that wait for a processor, however
// many connections it has. Questions over UDP wait for the same processors, and one goroutine reads those of many clients.
type turns struct {
	mu sync.Mutex // guards the field below
	of map[netip.Addr]*turn
}

// turn is held to answer one question.
type turn struct {
	sync.Mutex
	conns int // guarded by turns.mu
}

// join is called for each connection, and leave when it ends.
func (t *turns) join(src netip.Addr) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.of[src]
	if at == nil {
		at = new(turn)
		t.of[src] = at
	}
	at.conns++
	return at
}

func (t *turns) leave(src netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of[src].conns--; t.of[src].conns == 0 {
		delete(t.of, src)
	}
}
