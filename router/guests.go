package router

import (
	"context"
	"log/slog"
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
	find  func() ([]netip.Prefix, error) // who lives on this host
	again chan struct{}                  // capacity 1; that may have changed
	log   *slog.Logger
}

func newGuests(find func() ([]netip.Prefix, error), log *slog.Logger) *guests {
	return &guests{find: find, again: make(chan struct{}, 1), log: log}
}

// allow is called for every query, from many goroutines.
func (g *guests) allow(src netip.Addr) bool {
	return within(g.mesh.Load(), src) || within(g.local.Load(), src)
}

func (g *guests) setMesh(ps []netip.Prefix) {
	ps = slices.Clone(ps)
	g.mesh.Store(&ps)
}

// look finds out who lives on this host now.
func (g *guests) look() error {
	found, err := g.find()
	if err == nil {
		g.local.Store(&found)
	}
	return err
}

// poke makes follow look again. It never blocks.
func (g *guests) poke() {
	select {
	case g.again <- struct{}{}:
	default:
	}
}

// follow looks again at each poke until ctx ends. It is no part of a pass: that may take longer than a
// new network's first container to ask.
func (g *guests) follow(ctx context.Context) error {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.again:
		case <-retry:
		}
		retry = nil
		if err := g.look(); err != nil {
			g.log.Warn("look for the networks of this host; trying again", "err", err)
			retry = time.After(time.Second)
		}
	}
}

func within(ps *[]netip.Prefix, a netip.Addr) bool {
	return ps != nil && slices.ContainsFunc(*ps, func(p netip.Prefix) bool { return p.Contains(a) })
}
