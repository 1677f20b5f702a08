package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

// Mesh is one host's membership and its copy of every host's log.
type Mesh struct {
	o       Options
	id      peer.ID
	mesh    MeshID
	nonce   uint64 // boot nonce
	log     *slog.Logger
	count   counters
	state   atomic.Pointer[State]                 // nil: something has changed since it was made
	gossip  atomic.Pointer[memberlist.Memberlist] // nil unless Run has it up
	inbox   chan letter                           // what came by gossip
	outbox  outbox
	differs chan difference // roots that were not this host's
	limits  *sourceLimits   // of strangers
	guests  chan struct{}   // sessions served on the underlay, strangers included
	locals  chan struct{}   // sessions served through the tunnel

	guestHolds, localHolds *holds // of one source among them

	transport  atomic.Pointer[transport] // gossip's
	tries      atomic.Uint64             // joins of gossip so far
	senders    *sourceLimits             // of members, for datagrams of ours
	gossipers  *sourceLimits             // of members, for memberlist's: what one breaks with its own does not make it look dead
	queued     *holds                    // of members, in the inbox
	talks      *talks
	conns      *conns
	challenges *sourceLimits // of former starts, by who has this host ask
	rejected   rejections

	look     chan struct{} // look at liveness again
	redial   chan struct{} // look for somebody to dial
	flush    chan struct{} // something waits for the disk
	spread   chan struct{} // the founding was learnt: tell the neighbours
	reroll   chan struct{} // open a new epoch
	ready    chan struct{} // closed by Run
	copied   string        // see State; guarded by mu
	announce chan struct{} // look at the endpoints, tell gossip of a new own record

	farewell sync.Mutex // held while gossip says goodbye or stops: memberlist panics when it is told to leave after that
	writing  sync.Mutex // held while this host's own log is written; taken before mu
	flushing sync.Mutex // held while others' entries are written; taken before mu

	mu        sync.Mutex // guards the fields below
	founding  Founding
	own       ownLog
	logs      *replica
	past      past
	telling   int              // exchanges under way that have told of the past
	knowMore  map[peer.ID]bool // hold an epoch of this host's in part that it does not hold itself
	hosts     map[peer.ID]*host
	nodes     map[string]node // alive in gossip, by name
	targets   map[string]*target
	notices   notices
	dirty     map[string]dirtyBucket // waits for the disk
	departed  map[peer.ID]time.Time  // when this router learnt of a departure
	buried    time.Time              // when it was last looked which of them have had their time
	aged      time.Time              // when strangers last grew older
	base      func() []Draft
	asking    int     // openings of an epoch that have asked for the base …
	meanwhile []Entry // … and what was appended since the first of them asked
	told      []byte  // own record as gossip was told it
	stale     bool    // a delegate of memberlist has changed what State shows
	leaving   bool
	heard     bool             // see State
	heardAt   time.Time        // when heard became true
	doubted   time.Time        // see Doubt
	sought    time.Time        // when another host was last asked who is there
	knocked   map[peer.ID]bool // send datagrams and are not in gossip here; few
	mended    time.Time        // when this host last opened an epoch because of its past
	mends     int              // how often it has
}

// New checks the options and loads what is on disk. Nothing is on the network
// and no goroutine runs before Run. State has what the disk knew, this host's
// own former log included.
func New(o Options) (*Mesh, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("make mesh: %w", err)
	}
	m := &Mesh{
		o:       o,
		id:      o.Identity.ID(),
		mesh:    o.Secret.MeshID(),
		log:     o.Log,
		inbox:   make(chan letter, inboxLen),
		outbox:  outbox{poked: make(chan struct{}, 1)},
		differs: make(chan difference, 16),
		limits:  newSourceLimits(sourceBurst, sourceRate),
		senders: newSourceLimits(senderBurst, senderRate),

		gossipers: newSourceLimits(senderBurst, senderRate),
		queued:    newHolds(inboxLen / 8),

		talks:      newTalks(o.Identity.ID()),
		conns:      newConns(),
		challenges: newSourceLimits(challengeBurst, challengeRate),
		guests:     make(chan struct{}, o.ConnLimit),
		locals:     make(chan struct{}, o.ConnLimit),

		guestHolds: newHolds(max(1, o.ConnLimit/2)),
		localHolds: newHolds(max(1, o.ConnLimit/4)),

		look:     make(chan struct{}, 1),
		redial:   make(chan struct{}, 1),
		flush:    make(chan struct{}, 1),
		spread:   make(chan struct{}, 1),
		reroll:   make(chan struct{}, 1),
		announce: make(chan struct{}, 1),
		ready:    make(chan struct{}),
		founding: o.Founding,
		logs:     newReplica(),
		past:     newPast(),
		knowMore: make(map[peer.ID]bool),
		hosts:    make(map[peer.ID]*host),
		nodes:    make(map[string]node),
		targets:  make(map[string]*target),
		notices:  make(notices),
		dirty:    make(map[string]dirtyBucket),
		departed: make(map[peer.ID]time.Time),
		knocked:  make(map[peer.ID]bool),
	}
	var n [8]byte
	rand.Read(n[:]) // never fails: crypto/rand ends the program instead
	m.nonce = binary.BigEndian.Uint64(n[:])
	m.logs.meet(m.id)
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("make mesh: %w", err)
	}
	if err := m.setTargets(o.Targets, true); err != nil {
		return nil, fmt.Errorf("make mesh: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.own.rec.Identity == nil { // shown until the first epoch is opened
		m.own.rec = Record{Identity: o.Identity.Public(), WireGuard: o.Identity.WireGuardPublic(), Join: o.Identity.JoinPublic()}
	}
	m.own.rec.BootNonce, m.own.rec.Nickname = m.nonce, o.Nickname
	m.publishLocked()
	return m, nil
}

// State is the newest snapshot. It is made when it is asked for.
func (m *Mesh) State() *State {
	if s := m.state.Load(); s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.state.Load(); s != nil {
		return s
	}
	s := m.snapshotLocked()
	m.state.Store(s)
	return s
}

// SetBase says what this host's state is, for the snapshot that opens an epoch:
// all of it except host records, and in any case grants that the host has ever
// made, which are kept even if f forgets them. f is called from a goroutine of
// Run, with no lock held, and at any time; what is Appended while it runs is
// not lost. To be called before Run.
func (m *Mesh) SetBase(f func() []Draft) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base = f
}

// SetFounding founds the mesh, durably. It is an error if this host is in
// another one.
func (m *Mesh) SetFounding(f Founding) error {
	b, err := f.MarshalBinary()
	if err != nil {
		return fmt.Errorf("set founding: %w", err)
	}
	m.mu.Lock()
	if !m.founding.IsZero() && !m.founding.Equal(f) {
		old := m.founding
		m.mu.Unlock()
		return fmt.Errorf("set founding %v: this host belongs to %v", f, old)
	}
	m.mu.Unlock()
	if err := m.o.Store.Apply(bucketMesh, map[string][]byte{keyFounding: b}, nil); err != nil {
		return fmt.Errorf("set founding: %w", err)
	}
	m.mu.Lock()
	m.founding = f
	m.publishLocked()
	m.mu.Unlock()
	m.o.OnChange()
	return nil
}

// Refresh says that the endpoints may have changed, or that something happened
// that makes it worth dialling now: an interface came up, a cable was put in.
// It does not block.
func (m *Mesh) Refresh() {
	poke(m.announce)
	poke(m.redial)
}

// Ready is closed when Run serves: its ports are open.
func (m *Mesh) Ready() <-chan struct{} { return m.ready }

// Run takes part in the mesh until ctx ends, and returns when all that it
// started has ended. It says nobody goodbye: see Leave. Its error is a start
// that failed, such as a port in use.
func (m *Mesh) Run(ctx context.Context) error {
	if err := m.openEpoch(); err != nil {
		return fmt.Errorf("run mesh: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	listeners, err := m.listen(ctx)
	if err != nil {
		return fmt.Errorf("run mesh: %w", err)
	}
	for _, ln := range listeners {
		wg.Go(func() { m.serve(ctx, ln) })
	}
	if err := m.startGossip(ctx); err != nil {
		return fmt.Errorf("run mesh: %w", err)
	}
	defer m.stopGossip()
	close(m.ready)

	for _, task := range []func(context.Context){
		m.readInbox, m.spreadAll, m.watch, m.dialAll, m.syncLoop, m.persist, m.keepRecord,
	} {
		wg.Go(func() { task(ctx) })
	}
	<-ctx.Done()
	return nil
}

// poke makes whoever waits on ch look again.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// errNotRunning is returned by what needs gossip when Run is not there.
var errNotRunning = errors.New("the mesh is not running")
