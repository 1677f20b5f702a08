package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a server. All are copied.
type Options struct {
	// Domain is the zone of the names; empty: [DefaultDomain]. It is used until the
	// first table comes, which brings its own.
	Domain string
	// TTL of every answer, in seconds. Zero: nobody is to keep an answer.
	TTL uint32
	// Upstream servers, port 53 if the port is zero. Nil: those of ResolvConf; empty but not nil:
	// none.
	Upstream []netip.AddrPort
	// ResolvConf is read for upstream servers, and again when it changes. Empty:
	// /etc/resolv.conf.
	ResolvConf string
	// Forward has servers for single domains and all names below them, port 53 if the port is zero.
	Forward map[string][]netip.AddrPort
	// RefusePrivate refuses answers of the other upstream servers that have addresses which are not global (RFC 6890), or of the
	// table's ranges: such an answer of a public name turns a browser against the network that it runs in.
	RefusePrivate bool
	// FallbackTimeout is how long a client waits at most for what upstream
	// servers say, before it gets SERVFAIL. Zero: 5 s.
	FallbackTimeout time.Duration
	// Allow says whether an address may ask; others are refused. It is called for every query,
	// from many goroutines, and must not block. Nil: all may.
	Allow func(src netip.Addr) bool
	// Keeper holds the sockets when the server ends or is killed; the first call of SetListen takes over
	// what it holds. Nil: they end with the server.
	Keeper Keeper
	// Log; nil: nothing is logged.
	Log *slog.Logger
}

// Server answers DNS questions from its current table and asks upstream servers for
// the rest.
type Server struct {
	ttl      uint32
	allow    func(netip.Addr) bool
	log      *slog.Logger
	keeper   Keeper
	resolver *resolver
	upstream *upstream
	tcp      tcpLimits
	// pipelined are the questions in hand that came over TCP.
	pipelined *places
	// turns are of the clients that have connections.
	turns turns

	table     atomic.Pointer[Table]
	listening atomic.Pointer[[]netip.AddrPort] // what is bound; read with mu free, see stop

	queries, malformed, refused, forwarded, failed, shed atomic.Uint64

	poke chan struct{} // look at soon again

	mu      sync.Mutex // guards the fields below
	state   state
	sockets map[netip.AddrPort]*socket // by wanted address
	wanted  []netip.AddrPort           // by the last SetListen, each once
	soon    map[netip.AddrPort]bool    // of those, what is worth trying again by ourselves
	// inherited says that what a predecessor left was looked at.
	inherited bool
	start     func(*socket)  // serves a socket; set while Run runs
	wg        sync.WaitGroup // what start started
}

type state int

const (
	idle state = iota
	running
	ended
)

// New checks the options and makes a server that has an empty table and listens
// nowhere.
func New(o Options) (*Server, error) {
	var errs []error
	domain := DefaultDomain
	if o.Domain != "" {
		var err error
		if domain, err = ValidDomain(o.Domain); err != nil {
			errs = append(errs, err)
		}
	}
	if o.TTL > math.MaxInt32 { // RFC 2181, 8
		errs = append(errs, fmt.Errorf("TTL %d: more than %d s", o.TTL, math.MaxInt32))
	}
	if o.FallbackTimeout < 0 {
		errs = append(errs, fmt.Errorf("fallback timeout %v: negative", o.FallbackTimeout))
	}
	if o.FallbackTimeout == 0 {
		o.FallbackTimeout = 5 * time.Second
	}
	fixed, err := checkServers(o.Upstream)
	errs = append(errs, err)
	split := map[string][]netip.AddrPort{}
	for name, servers := range o.Forward {
		d, err := ValidDomain(name)
		if err == nil && (d == domain || strings.HasSuffix(d, "."+domain)) {
			err = fmt.Errorf("domain %q: is answered here", name)
		}
		if err == nil && len(servers) == 0 {
			err = fmt.Errorf("domain %q: no server is named", name)
		}
		checked, serverErr := checkServers(servers)
		errs = append(errs, err, serverErr)
		split[d] = append(split[d], checked...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		ttl: o.TTL, allow: o.Allow, keeper: o.Keeper, log: o.Log,
		sockets: make(map[netip.AddrPort]*socket), soon: make(map[netip.AddrPort]bool), poke: make(chan struct{}, 1),
		tcp: defaultTCPLimits, pipelined: &places{perSource: maxPipelined, of: make(map[netip.Addr]*place)}, turns: turns{of: make(map[netip.Addr]*turn)},
	}
	s.upstream = newUpstream(fixed, o.ResolvConf, s.Listening, o.Log)
	forwarders := []*zoneForwarder{{domain: ".", forwarder: newForwarder(o.FallbackTimeout, s.upstream.servers)}}
	for d, servers := range split {
		u := newUpstream(servers, "", s.Listening, o.Log)
		forwarders = append(forwarders, &zoneForwarder{domain: d, forwarder: newForwarder(o.FallbackTimeout, u.servers)})
	}
	var refused func(netip.Addr) bool
	if o.RefusePrivate {
		// What is public elsewhere may be the mesh's own here.
		refused = func(a netip.Addr) bool { return !isGlobal(a) || covers(s.table.Load().ranges, a) }
	}
	s.resolver = newResolver(forwarders, refused, o.Log)
	s.upstream.changed, s.resolver.refresh = s.resolver.forget, s.upstream.refresh
	s.table.Store(NewTable(domain, nil, nil))
	s.listening.Store(new([]netip.AddrPort))
	return s, nil
}

// checkServers completes addresses of servers. Nil stays nil.
func checkServers(as []netip.AddrPort) (out []netip.AddrPort, err error) {
	if as != nil {
		out = []netip.AddrPort{}
	}
	var errs []error
	for _, a := range as {
		if !a.Addr().IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			errs = append(errs, fmt.Errorf("upstream %v: not the address of a server", a))
			continue
		}
		port := a.Port()
		if port == 0 {
			port = 53
		}
		out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), port))
	}
	return out, errors.Join(errs...)
}

// SetTable makes t what is answered from the next question on. It never blocks.
func (s *Server) SetTable(t *Table) { s.table.Store(t) }

// Table gives the current table.
func (s *Server) Table() *Table { return s.table.Load() }

// Upstream gives the addresses of the servers that are asked for what is not of
// the mesh, in their order, without the port if it is 53.
func (s *Server) Upstream() []string {
	var out []string
	for _, a := range s.upstream.servers() {
		if a.Port() == 53 {
			out = append(out, a.Addr().String())
		} else {
			out = append(out, a.String())
		}
	}
	return out
}

// Counters are totals since New.
type Counters struct {
	Queries   uint64 // parsed queries
	Malformed uint64 // messages that were no query or an impossible one
	Refused   uint64 // queries of strangers
	Forwarded uint64 // queries for upstream servers
	Failed    uint64 // queries that ended in SERVFAIL
	Shed      uint64 // packets that were dropped because too many came
}

// Counters gives the totals so far.
func (s *Server) Counters() Counters {
	return Counters{
		Queries: s.queries.Load(), Malformed: s.malformed.Load(), Refused: s.refused.Load(),
		Forwarded: s.forwarded.Load(), Failed: s.failed.Load(), Shed: s.shed.Load(),
	}
}

// Run serves what SetListen binds, before and from now on, until ctx ends; then
// it closes all sockets, cuts short the questions in hand and returns nil. It
// can run once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.state != idle {
		s.mu.Unlock()
		return errors.New("run DNS server: it has run already")
	}
	s.state = running
	s.start = func(b *socket) { s.serve(ctx, b) }
	for _, b := range s.sockets {
		s.start(b)
	}
	s.mu.Unlock()

	s.rebind(ctx)

	s.mu.Lock()
	s.state = ended
	for want, b := range s.sockets {
		b.stop()
		delete(s.sockets, want)
	}
	s.publishLocked()
	s.mu.Unlock()
	s.resolver.close()
	s.wg.Wait()
	return nil
}
