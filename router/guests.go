package router

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// guests knows who may ask the name server: who has an address of the mesh, and
// who lives on this host. To everybody else the server says no, so that nobody outside
// can use it, or make it answer to a third.
type guests struct {
	mesh  atomic.Pointer[[]netip.Prefix]
	local atomic.Pointer[[]netip.Prefix]
	asked atomic.Int64 // when local was last found out, in nanoseconds since the epoch
	find  func() ([]netip.Prefix, error)
}

// findAgain is how often strangers make the host's networks be looked at again: one may be a container
// of a network that was made just now.
const findAgain = time.Second

// allow is called for every query, from many goroutines.
func (g *guests) allow(src netip.Addr) bool {
	if within(g.mesh.Load(), src) || within(g.local.Load(), src) {
		return true
	}
	last, now := g.asked.Load(), time.Now().UnixNano()
	if now-last < int64(findAgain) || !g.asked.CompareAndSwap(last, now) {
		return false
	}
	found, err := g.find()
	if err != nil {
		return false // it is asked again
	}
	g.local.Store(&found)
	return within(&found, src)
}

func (g *guests) setMesh(ps []netip.Prefix) {
	ps = slices.Clone(ps)
	g.mesh.Store(&ps)
}

func within(ps *[]netip.Prefix, a netip.Addr) bool {
	return ps != nil && slices.ContainsFunc(*ps, func(p netip.Prefix) bool { return p.Contains(a) })
}
