package mesh

import (
	"net/netip"
	"sync"
)

// holds bounds how much of something each source has at a time, so that one
// member cannot take what is there for all.
type holds struct {
	most int

	mu sync.Mutex // guards n
	n  map[netip.Addr]int
}

// sourceOf is what counts as one source: an address, or of IPv6 on the underlay the network
// that a machine has for itself (RFC 7421), unique local ones (RFC 4193) included. A control
// address inside the mesh is one as well, and has its host in the last 80 bits.
func sourceOf(a netip.Addr, inside bool) netip.Addr {
	if !a.Is6() || inside {
		return a
	}
	net, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return net.Addr()
}

func newHolds(most int) *holds { return &holds{most: most, n: make(map[netip.Addr]int)} }

// take reports whether a source (see sourceOf) may have one more, and counts it.
func (h *holds) take(from netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n[from] >= h.most {
		return false
	}
	h.n[from]++
	return true
}

// give takes one back.
func (h *holds) give(from netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n[from]--; h.n[from] <= 0 {
		delete(h.n, from)
	}
}
