package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"weft/peer"
)

// Options is what a Mesh is made of. Identity, Secret, Store, Tunnel and
// Endpoints are needed; for the rest the zero value means what its line says.
type Options struct {
	Identity *peer.Identity
	Secret   Secret
	Nickname string // for display; what a nickname cannot hold becomes "-"

	Founding  Founding     // zero: as remembered in Store, else a newcomer that waits to learn it
	WantRange netip.Prefix // zero: take the mesh's; else a mesh with another range is refused

	BindHost   netip.Addr // of the join listener; zero or unspecified: every address, IPv4 and IPv6
	Port       int        // TCP port of the join listener, and the default of targets; zero: 6783
	GossipPort int        // on the control address; one number in the whole mesh; zero: 7946

	// Endpoints gives this host's own WireGuard endpoints on the underlay, best
	// first. It is called when Run starts and after each Refresh, from a
	// goroutine of Run, with no lock held.
	Endpoints func() []netip.AddrPort

	// Device tells this host's tunnel device from an earlier one: it changes when
	// the device was made anew, and the others then know that the sessions they
	// have with it are dead. It is called like Endpoints, and when the log is
	// opened. nil, or zero: not told.
	Device func() uint64

	Targets   []string // host[:port]; resolved anew at each try
	Discovery bool     // false: dial the given targets only, not every host that is remembered

	Store  Store
	Tunnel Tunnel
	Handle Handler // answers Call of other hosts; nil: every call is refused

	// Check says what is wrong with the payload of an entry that another host has
	// signed. The entry is kept and handed on all the same, since the hosts must hold
	// equal logs and a later release may know better; its author is counted and
	// named. Begin and host records are checked by the mesh itself. It is called once
	// per new entry, with no lock held, and must not block. nil: all is well.
	Check func(author peer.ID, k Kind, payload []byte) error

	// Rests says that something rests on the log of a host that has departed: it is
	// kept beyond its time. It must not call the Mesh, nor block. nil: nothing does.
	Rests func(peer.ID) bool

	// Obsolete gives a function that says of grants in this host's own log whether
	// nothing rests on them any more: the next epoch is opened without those. It is
	// called with no lock held but that of writing, and may call State. nil, or no
	// function: all stay.
	Obsolete func() func(payload []byte) bool

	// OnChange is called after State has changed, with no lock held. It must not
	// block: it is meant to poke a loop. nil: nobody is told.
	OnChange func()

	ConnLimit int          // sessions served at a time, on the underlay and through the tunnel each; zero: 128
	Network   Network      // nil: the host's sockets
	Log       *slog.Logger // nil: slog.Default()
}

// The defaults of Options.
const (
	DefaultPort       = 6783
	DefaultGossipPort = 7946

	defaultConnLimit = 128
)

// Store keeps keys and values on disk. The mesh uses the buckets "log" and
// "mesh". The maps and slices handed over belong to the Store during the call only.
type Store interface {
	// Load returns a copy of a whole bucket.
	Load(bucket string) (map[string][]byte, error)
	// Apply changes a bucket. When it returns nil, all of it is on disk; with an
	// error none of it is. A Store that can not tell fails from then on, and what is
	// on disk counts when it is opened again.
	Apply(bucket string, put map[string][]byte, del []string) error
}

// Tunnel is the router's side of a join.
type Tunnel interface {
	// Connect makes sure that a tunnel to h exists when it returns; it may be
	// called again for the same host. observed is where the host's WireGuard port
	// was seen, zero if that is not known. begin says which side should begin the
	// first handshake: if both do at once, both may fail. It may block until ctx ends.
	Connect(ctx context.Context, h Record, observed netip.AddrPort, begin bool) error
	// LastReceive tells how long ago the tunnel last had something from a host; ok
	// is false if it never had. It must be quick.
	LastReceive(id peer.ID) (age time.Duration, ok bool)
}

// Handler answers a Call. from has proven its identity. ctx ends when the caller
// hangs up or Run ends. body is the handler's; an error travels as its text.
type Handler func(ctx context.Context, from peer.ID, method string, body []byte) ([]byte, error)

// Network makes sockets. Errors must be what package net gives: memberlist asks
// whether an error is itself a *net.OpError, so wrapping one hides a dead host
// from it.
type Network interface {
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error)
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// check fills in the defaults and reports all that is wrong.
func (o *Options) check() error {
	var errs []error
	missing := func(is bool, what string) {
		if is {
			errs = append(errs, errors.New(what+" is missing"))
		}
	}
	missing(o.Identity == nil, "identity")
	missing(o.Secret.IsZero(), "secret")
	missing(o.Store == nil, "store")
	missing(o.Tunnel == nil, "tunnel")
	missing(o.Endpoints == nil, "function that gives the endpoints")
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.GossipPort == 0 {
		o.GossipPort = DefaultGossipPort
	}
	for _, p := range []int{o.Port, o.GossipPort} {
		if p < 1 || p > 65535 {
			errs = append(errs, fmt.Errorf("port %d is not one", p))
		}
	}
	if o.ConnLimit <= 0 {
		o.ConnLimit = defaultConnLimit
	}
	if o.Network == nil {
		o.Network = hostNetwork{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Device == nil {
		o.Device = func() uint64 { return 0 }
	}
	if o.Rests == nil {
		o.Rests = func(peer.ID) bool { return false }
	}
	if o.Obsolete == nil {
		o.Obsolete = func() func([]byte) bool { return nil }
	}
	if o.OnChange == nil {
		o.OnChange = func() {}
	}
	o.Nickname = cleanNickname(o.Nickname)
	return errors.Join(errs...)
}
