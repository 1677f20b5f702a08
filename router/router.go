package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/dns"
	"weft/docker"
	"weft/host"
	"weft/internal/fdkeep"
	"weft/internal/statedb"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const (
	bridgeName    = "weft"
	wireGuardName = "weftwg"
	resyncEvery   = 30 * time.Second
)

// Router is one host's router. Make it with New, run it once with Run.
type Router struct {
	o      Options
	log    *slog.Logger
	id     *peer.Identity
	fresh  bool // this launch found no state here: what is there is its own
	made   bool // so was the tunnel device
	member membership
	kept   atomic.Bool // the launch was a success: what it wrote stays
	lock   *os.File
	// orderly says that the next router need not take this one's end for a crash.
	orderly bool
	db      *markedDB
	// damaged is what to tell of a state file that could not be read.
	damaged   string
	beginning beginning

	mesh   *mesh.Mesh
	dev    tunnelDevice // set by Run; guarded by applyMu
	host   *host.Host
	dns    *dns.Server // nil with NoDNS
	docker *docker.Client

	poke        chan struct{}          // look again
	namePoke    chan struct{}          // the same, for names
	logPoke     chan struct{}          // the logs, or who is there, have changed
	nameProblem atomic.Pointer[string] // why names are not announced; empty: they are
	zone        *zone
	guests      *guests
	rewire      atomic.Bool // the next pass also checks every container's interface
	ready       chan struct{}
	done        chan struct{}
	ended       sync.Once
	ops         keyed // one operation at a time for a container
	looker      looker
	asks        asker
	tunnels     tunnels
	view        atomic.Pointer[view] // what the last pass saw and wanted
	wanted      atomic.Pointer[announced]
	grants      grantCache
	books       atomic.Pointer[books]
	passes      broadcast // told after every pass
	rejects     atomic.Int64
	overlap     atomic.Pointer[string] // a warning about the range, for status
	began       time.Time
	// generation is the tunnel device's, drawn when one is made: see mesh.Options.
	generation atomic.Uint64

	mu         sync.Mutex // guards the fields below
	attached   map[string]*attachment
	static     map[nameKey]bool
	linger     map[nameKey]leaving // removed names that are still answered
	alloc      *ipam.Allocator     // nil until the mesh's range is known
	engine     bool                // the container engine answers
	dirty      map[string]bool     // containers of the engine that must be looked at again
	failing    map[string]bool     // those of dirty whose failure was logged
	resetting  bool                // addresses are being given back: nothing new is attached
	bridgeDNS  netip.Addr          // Docker's bridge address; invalid: none
	holding    []*holding          // calls under way that are to hold an address for an ID
	allocating int                 // calls that wait for address space
	priming    int                 // and those that wait until there is some
	// wantedSince is since when any of them has; zero: none does.
	wantedSince time.Time
	// wantedElsewhere is when a host last asked for space of a ring that has not begun.
	wantedElsewhere time.Time
	unadopted       error            // why attachments may not say what running containers have; nil: they do
	unproven        bool             // this host's state may not be the latest: nothing is given out anew
	doubted         time.Time        // since when
	unprovenBy      string           // why
	leaving         bool             // the council is to decide without this host
	taking          map[peer.ID]wish // dead hosts whose space is to be taken over
	trying          peer.ID          // the one of them for which this host has begun a ballot last
	balloting       uint32           // the instance for which this host has begun ballots
	ballots         int              // how many
	answers         int              // what others had voted then
	shortened       time.Time        // when this host's log about the ring was last made shorter
	nextBallot      time.Time
	hastened        time.Time // when another host's wish last was in a hurry
	lastAlive       map[peer.ID]time.Time
	wasAlive        map[peer.ID]bool
	promised        map[peer.ID]promise // whose space this host is to take: it is not reset meanwhile

	announceMu sync.Mutex // one announcement at a time; guards the field below
	silent     bool       // the stop was announced: nothing else is

	applyMu  sync.Mutex // one pass at a time; guards the fields below
	stopped  bool       // the tunnel was taken down: nothing is applied any more
	paths    *peer.Paths
	met      map[peer.Key]meeting // the peers without a session
	devices  map[peer.Key]uint64  // the peers' device generations, as last applied
	disputes map[keyDispute]bool  // of the last plan, to name each once
	problem  string               // the last pass's error, to log it once
	relied   *ipam.Ledger         // whose hosts the mesh was told of
}

// view is the state that one pass of the loop worked on. It is never changed.
type view struct {
	State  *mesh.State
	Folded folded
	Ring   *ipam.Ring
	Ledger *ipam.Ledger      // nil while the range is not known
	Stray  []ipam.Allocation // of containers here whose addresses are another host's now
	Plan   plan
	MTU    int
}

// announced is what this host's own log should say.
type announced struct {
	Names  map[nameKey]bool
	Claims map[netip.Prefix]bool
}

// New validates the options, takes the lock of the run directory and opens the
// state. It makes nothing on the host and nothing on the network. Close
// releases what it took, if Run is not called.
func New(o Options) (_ *Router, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &Error{Msg: "weft needs root to make network devices", Tip: "sudo weft launch …", Code: 403}
	}
	r := &Router{o: o, log: o.Log, poke: make(chan struct{}, 1), namePoke: make(chan struct{}, 1), logPoke: make(chan struct{}, 1), ready: make(chan struct{}), done: make(chan struct{}),
		paths: peer.NewPaths(), met: map[peer.Key]meeting{}, devices: map[peer.Key]uint64{}, linger: map[nameKey]leaving{}, dirty: map[string]bool{}, failing: map[string]bool{},
		taking: map[peer.ID]wish{}, lastAlive: map[peer.ID]time.Time{}, wasAlive: map[peer.ID]bool{}}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, r.Close(), r.clearFailure())
	}()
	for _, dir := range []string{o.StateDir, o.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	crashed, err := r.takeLock()
	if err != nil {
		return nil, err
	}
	empty := emptyState(o.StateDir)
	if r.id, r.fresh, err = peer.LoadIdentity(o.StateDir); err != nil {
		return nil, err
	}
	r.fresh = r.fresh && empty
	db, damaged, err := openState(filepath.Join(o.StateDir, "state.db"))
	if err != nil {
		return nil, err
	}
	r.damaged = damaged
	if r.db, r.unprovenBy, err = openMarked(db, o.RunDir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if r.member, err = resolveMembership(o, r.db, crashed); err != nil {
		var e *Error
		if r.damaged != "" && errors.As(err, &e) {
			err = &Error{Msg: r.damaged, Err: err, Code: e.Code, Tip: e.Tip}
		}
		return nil, err
	}
	if r.beginning, err = parseBeginning(r.member.Init); err != nil {
		return nil, err
	}
	if err := r.checkBeginning(); err != nil {
		return nil, err
	}
	if r.host, err = host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName, Log: r.log}); err != nil {
		return nil, err
	}
	if err := r.checkRange(); err != nil {
		return nil, err
	}
	if r.member.Founded {
		r.member.Founding.Founder = r.id.ID()
	}
	if r.bridgeDNS, err = loadBridge(r.db.Load); err != nil {
		return nil, err
	}
	if r.attached, err = loadAttachments(r.db.Load); err != nil {
		return nil, err
	}
	if r.static, err = loadStatic(r.db.Load); err != nil {
		return nil, err
	}
	if r.docker, err = docker.New(docker.Options{Host: o.DockerAPI, Log: r.log}); err != nil {
		return nil, err
	}
	r.asks.order, r.asks.may, r.asks.call = r.donors, r.mayAsk, r.askOne
	r.guests = newGuests(r.host.Guests, r.log)
	r.zone = newZone(o.Domain+".", o.DNSOrder != OrderShuffle)
	if !o.NoDNS {
		if r.dns, err = dns.New(dns.Options{Domain: o.Domain, TTL: o.DNSTTL, Upstream: o.Upstream, FallbackTimeout: o.FallbackTimeout,
			Forward: o.DNSForward, RefusePrivate: o.DNSRebindProtect,
			Allow: r.guests.allow, Keeper: fdkeep.Client{Path: SocketHolder(o.RunDir)}, Log: r.log}); err != nil {
			return nil, err
		}
		r.dns.SetTable(r.zone.table.Load())
		r.zone.publish = r.dns.SetTable
	}
	bind := netip.IPv6Unspecified()
	if o.Host != "" {
		bind = netip.MustParseAddr(o.Host)
	}
	want := netip.Prefix{}
	if o.RangeSet {
		want = o.Range
	}
	r.mesh, err = mesh.New(mesh.Options{
		Identity: r.id, Secret: r.member.Secret, Nickname: o.Nickname,
		Founding: r.member.Founding, WantRange: want,
		BindHost: bind, Port: o.Port, GossipPort: DefaultGossipPort,
		Endpoints: r.endpoints, Device: r.generation.Load, Targets: r.member.Targets, Discovery: !o.NoDiscovery,
		Store: r.db, Tunnel: &r.tunnels, Handle: r.handle, OnChange: r.logsChanged,
		Check: r.checkEntry, Rests: r.rests, Obsolete: r.obsolete, ConnLimit: o.ConnLimit, Log: r.log,
	})
	if err != nil {
		return nil, err
	}
	r.tunnels.connect = r.connect
	r.judgeState()
	r.log.Info("router made", "peer", r.id.ID().String(), "name", o.Nickname, "new_identity", r.fresh)
	return r, nil
}

// Poke makes the loop look again. It never blocks.
func (r *Router) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Ready is closed when the router serves.
func (r *Router) Ready() <-chan struct{} { return r.ready }

// Done is closed when a stop or reset was carried out and the process should end.
func (r *Router) Done() <-chan struct{} { return r.done }

func (r *Router) end() { r.ended.Do(func() { close(r.done) }) }

// Close releases the lock and the state file. Run calls it. Repeatable.
func (r *Router) Close() error {
	var errs []error
	if r.db != nil {
		errs = append(errs, r.db.Close()) // it stays: the API may still serve, and gets errors
	}
	if r.lock != nil {
		// Left behind, the file says that the last router did not end by itself.
		if r.orderly {
			if err := os.Remove(r.lock.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		errs = append(errs, r.lock.Close())
		r.lock = nil
	}
	return errors.Join(errs...)
}

// checkRange refuses to found a mesh with the default range where the host
// already routes that elsewhere: its traffic would vanish. A range that the
// operator named, or that the mesh has, is only warned of.
func (r *Router) checkRange() error {
	whole := r.member.Founding.Range
	if !whole.IsValid() {
		return nil
	}
	if !r.member.Founded || r.o.RangeSet {
		return r.warnOverlap(whole)
	}
	p, dev, overlaps, err := r.host.Overlaps(whole)
	if err != nil || !overlaps {
		return err
	}
	return &Error{Msg: fmt.Sprintf("the default range %v overlaps the route to %v on %s", whole, p, dev), Code: 409,
		Tip: "choose another: weft launch --ipalloc-range 10.96.0.0/12"}
}

func (r *Router) warnOverlap(whole netip.Prefix) error {
	p, dev, overlaps, err := r.host.Overlaps(whole)
	if err != nil || !overlaps {
		return err
	}
	text := fmt.Sprintf("the mesh's range %v overlaps this host's route to %v on %s: what is there may be out of reach", whole, p, dev)
	r.overlap.Store(&text)
	r.log.Warn("the range overlaps a route of this host", "prefix", p.String(), "device", dev, "range", whole.String())
	return nil
}

// Run makes the host match the state until ctx ends or a part fails. Ending it
// leaves tunnels, addresses and routes as they are, as a crash would: a later
// router adopts them. `weft stop` is the operation that takes the tunnels down.
func (r *Router) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.Close(), r.clearFailure()) }()
	if err := r.start(ctx); err != nil {
		return err
	}
	defer func() { r.dev.Close() }()
	g, ctx := errgroup.WithContext(ctx)
	defer r.looker.Wait() // after g, which has it look
	g.Go(func() error {
		select {
		case <-r.mesh.Ready():
			close(r.ready)
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error { return r.mesh.Run(ctx) })
	if r.dns != nil {
		g.Go(func() error { return r.dns.Run(ctx) })
		g.Go(func() error { return r.guests.follow(ctx) })
	}
	g.Go(func() error { return r.host.Watch(ctx, func() { r.rewire.Store(true); r.guests.poke(); r.Poke() }) })
	g.Go(func() error { return r.docker.Watch(ctx, r.onEvent(ctx)) })
	g.Go(func() error { return r.loop(ctx) })
	g.Go(func() error { return r.followNames(ctx) })
	g.Go(func() error { return r.watchTunnels(ctx) })
	g.Go(func() error { return r.watchNamespaces(ctx) })
	if !r.o.NoIPAM && !r.beginning.observer {
		g.Go(func() error { return r.gatherSpace(ctx) })
	}
	g.Go(func() error { return r.adoptFounding(ctx) })
	g.Go(func() error { return r.proveState(ctx) })
	g.Go(func() error { return r.watchDisk(ctx) })
	r.Poke()
	err = g.Wait()
	r.orderly = !errors.Is(err, statedb.ErrUncertain)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// clearFailure removes what a host's first launch wrote if it was no success, so
// that the next one is again the first.
func (r *Router) clearFailure() error {
	if !r.fresh || r.kept.Load() {
		return nil
	}
	o := r.o
	o.RunDir = "" // its log says why
	var err error
	if r.made {
		err = r.host.Remove()
	}
	return errors.Join(err, removeFiles(o))
}

// emptyState says that no router has left anything in a state directory.
func emptyState(dir string) bool {
	for _, f := range []string{"identity", tokenFile, "state.db"} {
		if _, err := os.Lstat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// start opens or adopts the device and does the first pass, before anything
// listens.
func (r *Router) start(ctx context.Context) error {
	if err := r.member.commit(r.o, r.db); err != nil {
		return err
	}
	if err := r.openDevice(ctx); err != nil {
		return err
	}
	if r.dns == nil {
		r.dropSockets()
	}
	had, err := r.dev.Status()
	if err != nil {
		return err
	}
	// A device that lives is proof that this host is not a copy of another; one
	// that was made now must not take over another's sessions.
	r.tunnels.admitted.Store(len(had) > 0)
	r.tunnels.observe(time.Now(), had) // whose each key is, before the first plan
	r.made = len(had) == 0
	if err := r.keepGeneration(len(had) > 0); err != nil {
		return err
	}
	r.began = time.Now()
	// What is shown on the word of a living session is looked at again: see hidden.
	time.AfterFunc(benefit, r.Poke)
	r.findLiving(ctx)
	r.restoreAllocations(r.member.Founding)
	r.wanted.Store(r.announce())
	r.syncNames()
	r.mesh.SetBase(r.base)
	r.rewire.Store(true)
	if err := r.guests.look(); err != nil { // before the first question
		r.log.Warn("look for the networks of this host", "err", err)
	}
	// Errors of the first pass are of single containers or routes: they are
	// logged and tried again by the loop.
	_ = r.pass(ctx)
	return nil
}
