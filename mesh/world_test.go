package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
	"weft/peer"
)

// noRace leaves a test to the pass without the race detector, which has them all.
func noRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("bubbles crash the race detector: run without -race")
	}
}

// bubble runs a story of several hosts in fake time.
func bubble(t *testing.T, story func(t *testing.T, w *world)) {
	t.Helper()
	noRace(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.end()
		story(t, w)
	})
}

// world is hosts on a simulated network, with tunnels that pass gossip only
// when both ends have made them.
type world struct {
	t      *testing.T
	net    *simnet.Net
	secret Secret
	boxes  []*box
	log    *slog.Logger // of the hosts

	joinsOnly bool // tunnels are made by joins only, and not when a router learns of a host

	mu     sync.Mutex            // guards inside, watch, and every box's peers
	inside map[netip.Addr][]*box // by control address
	watch  func(*box)            // of a router that is told of a change; nil: nobody does
}

// box is a host: disk, tunnels and addresses outlive its router.
type box struct {
	w      *world
	name   string
	host   *simnet.Host
	disk   *disk
	id     *peer.Identity
	secret Secret
	addr   netip.Addr
	mesh5  [5]byte             // of the mesh, in control addresses
	inside netip.Addr          // its control address
	device bool                // the tunnel device is there
	peers  map[netip.Addr]bool // control addresses with a tunnel
	log    *slog.Logger

	mesh   *Mesh
	cancel context.CancelFunc
	done   chan error
	base   func() []Draft
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, net: simnet.New(1), secret: NewSecret(), inside: make(map[netip.Addr][]*box),
		log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	w.net.SetGate(w.gate)
	return w
}

// setWatch has f called when a router is told of a change.
func (w *world) setWatch(f func(*box)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watch = f
}

func (w *world) watching() func(*box) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watch
}

// gate lets control addresses through only where both sides have the tunnel.
func (w *world) gate(src, dst netip.Addr) bool {
	if !src.Is6() || src == dst {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tunnelLocked(src, dst) && w.tunnelLocked(dst, src)
}

// tunnelLocked tells that whoever has an address has the tunnel to another; a clone
// has its original's address.
func (w *world) tunnelLocked(from, to netip.Addr) bool {
	return slices.ContainsFunc(w.inside[from], func(b *box) bool { return b.device && b.peers[to] })
}

func (b *box) control() netip.Addr { return b.inside }

func (b *box) controlOf(id peer.ID) netip.Addr { return peer.ControlAddr(b.mesh5, id) }

// box adds a host that has no router yet.
func (w *world) box(name string) *box { return w.boxAs(name, newIdentity(w.t), w.secret) }

func (w *world) boxAs(name string, id *peer.Identity, s Secret) *box {
	b := &box{
		w: w, name: name, id: id, secret: s, disk: newDisk(),
		addr:  netip.AddrFrom4([4]byte{192, 168, byte(48 + (11+len(w.boxes))>>8), byte(11 + len(w.boxes))}),
		mesh5: s.MeshID().Control(),
		peers: make(map[netip.Addr]bool),
		log:   w.log.With("host", name),
	}
	b.inside = b.controlOf(id.ID())
	b.host = w.net.Host(name, b.addr, b.control())
	w.mu.Lock()
	w.boxes = append(w.boxes, b)
	w.inside[b.inside] = append(w.inside[b.inside], b)
	w.mu.Unlock()
	return b
}

func newIdentity(t testing.TB) *peer.Identity {
	t.Helper()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (b *box) target() string { return netip.AddrPortFrom(b.addr, DefaultPort).String() }

// found launches the router of a mesh's first host.
func (b *box) found(edit ...func(*Options)) {
	b.w.t.Helper()
	b.launch(append(edit, func(o *Options) {
		o.Founding = Founding{
			Founder: b.id.ID(), Nonce: 7,
			Range: netip.MustParsePrefix("10.32.0.0/12"), Subnet: netip.MustParsePrefix("10.32.0.0/12"),
		}
	})...)
}

// join launches a router with targets.
func (b *box) join(targets ...*box) {
	b.w.t.Helper()
	b.launch(func(o *Options) {
		for _, x := range targets {
			o.Targets = append(o.Targets, x.target())
		}
	})
}

func (b *box) launch(edit ...func(*Options)) {
	b.w.t.Helper()
	o := Options{
		Identity: b.id, Secret: b.secret, Nickname: b.name,
		Endpoints: func() []netip.AddrPort { return []netip.AddrPort{netip.AddrPortFrom(b.addr, DefaultPort)} },
		Discovery: true,
		Store:     b.disk, Tunnel: b, Network: b.host, Log: b.log,
		Handle: func(_ context.Context, from peer.ID, method string, body []byte) ([]byte, error) {
			if method == "fail" {
				return nil, fmt.Errorf("no such thing")
			}
			return fmt.Appendf(nil, "%s to %s from %v", body, b.name, from), nil
		},
	}
	poked := make(chan struct{}, 1)
	o.OnChange = func() {
		poke(poked)
		if watch := b.w.watching(); watch != nil {
			watch(b)
		}
	}
	for _, f := range edit {
		f(&o)
	}
	m, err := New(o)
	if err != nil {
		b.w.t.Fatal(err)
	}
	m.SetBase(b.base)
	b.w.mu.Lock()
	b.device = true
	b.w.mu.Unlock()
	b.mesh, b.done = m, make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	done := b.done
	go func() { done <- m.Run(ctx) }()
	go func() { // the router's loop: tunnels follow the state
		for {
			select {
			case <-ctx.Done():
				return
			case <-poked:
				if b.w.joinsOnly {
					continue
				}
				for _, h := range m.State().Hosts {
					b.tunnelTo(h.ID)
				}
			}
		}
	}()
}

// knows gives b's router the record of x, as gossip would. It says that x is to be found at its
// address, and before that at others'.
func (b *box) knows(x *box, first ...*box) {
	b.w.t.Helper()
	var at []netip.AddrPort
	for _, y := range append(first, x) {
		at = append(at, netip.AddrPortFrom(y.addr, DefaultPort))
	}
	b.hearsOf(x.id, 1, at...)
}

// hearsOf gives b's router a record of an identity, as gossip would.
func (b *box) hearsOf(id *peer.Identity, epoch uint64, at ...netip.AddrPort) {
	b.w.t.Helper()
	raw, err := SignRecord(id, b.w.secret, Record{Epoch: epoch, ProtoMin: 1, ProtoMax: 1, Endpoints: at})
	if err != nil {
		b.w.t.Fatal(err)
	}
	rec, err := VerifyRecord(raw, b.w.secret)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	b.mesh.noteRecordLocked(rec, raw, byGossip)
}

// listen has a host without a router take connections to the join port.
func (b *box) listen() net.Listener {
	b.w.t.Helper()
	ln, err := b.host.Listen(b.w.t.Context(), netip.AddrPortFrom(b.addr, DefaultPort))
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.w.t.Cleanup(func() { _ = ln.Close() })
	return ln
}

func (b *box) tunnelTo(id peer.ID) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.peers[b.controlOf(id)] = true
}

// Connect and LastReceive make a box the Tunnel of its router.
func (b *box) Connect(_ context.Context, h Record, _ netip.AddrPort, _ bool) error {
	b.tunnelTo(h.ID())
	return nil
}

func (b *box) LastReceive(id peer.ID) (time.Duration, bool) {
	return b.host.LastReceive(b.controlOf(id))
}

// kill is kill -9 of the router: its sockets go, the tunnel device stays.
func (b *box) kill() {
	b.host.Kill()
	b.quit()
}

// crash is a power cut.
func (b *box) crash() {
	b.host.Crash()
	b.quit()
}

// stop is `weft stop`.
func (b *box) stop() {
	b.w.t.Helper()
	if err := b.mesh.Leave(context.Background()); err != nil {
		b.w.t.Errorf("%s leaves: %v", b.name, err)
	}
	b.quit()
	b.w.mu.Lock()
	b.device = false
	clear(b.peers)
	b.w.mu.Unlock()
}

func (b *box) quit() {
	if b.cancel == nil {
		return
	}
	b.cancel()
	if err := <-b.done; err != nil {
		b.w.t.Errorf("%s: run: %v", b.name, err)
	}
	b.cancel = nil
}

func (w *world) end() {
	for _, b := range w.boxes {
		b.quit()
	}
	time.Sleep(30 * time.Second) // memberlist's last probes end by their timers
}

// cut parts the network into two sides.
func (w *world) cut(left, right []*box) { w.each(left, right, w.net.Cut) }
func (w *world) heal(left, right []*box) {
	w.each(left, right, w.net.Heal)
}
func (w *world) each(left, right []*box, f func(a, b *simnet.Host)) {
	for _, a := range left {
		for _, b := range right {
			f(a.host, b.host)
		}
	}
}

// within waits until ok, and returns how long that took.
func (w *world) within(d time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > d {
			w.t.Fatalf("after %v: not yet %s\n%s", d, what, w.picture())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// picture is what every host sees; of many hosts, what some of them see that is not well: a
// page, or the name of what has failed would be out of sight.
func (w *world) picture() string {
	const most = 12 // hosts that are told of in full
	many := len(w.boxes) > most
	var s strings.Builder
	told := 0
	roots := make(map[[32]byte]bool)
	for _, b := range w.boxes {
		if b.mesh == nil {
			continue
		}
		st := b.mesh.State()
		var hosts []string
		alive := 0
		for _, h := range st.Hosts {
			if h.Liveness == Alive {
				alive++
			}
			if h.Liveness != Alive || !many {
				hosts = append(hosts, fmt.Sprintf("%s=%v(%d)", h.Record.Nickname, h.Liveness, len(st.Logs[h.ID])))
			}
		}
		roots[b.root()] = true
		well := len(hosts) == 0 && alive == len(w.boxes) && len(roots) == 1
		if many && (well || told == most) {
			continue
		}
		told++
		hosts = append(hosts[:min(len(hosts), most)], fmt.Sprintf("%d alive", alive))
		fmt.Fprintf(&s, "%s: %s\n  root %.4x targets %v\n  notices %q waiting %q\n  counters %v\n",
			b.name, strings.Join(hosts, " "), b.root(), b.mesh.Targets(), st.Notices, st.Waiting, b.mesh.Counters())
	}
	if many {
		fmt.Fprintf(&s, "%d hosts in all, with %d roots; above are %d of those that see something wrong\n", len(w.boxes), len(roots), told)
	}
	return s.String()
}

// sees tells how b sees x.
func (b *box) sees(x *box) Liveness {
	h, ok := b.mesh.State().Host(x.id.ID())
	if !ok {
		return -1
	}
	return h.Liveness
}

// oneMesh tells that the boxes all see each other alive, and no one else, and hold the
// same logs.
func oneMesh(bs ...*box) bool {
	for _, a := range bs {
		alive := 0
		for _, h := range a.mesh.State().Hosts {
			if h.Liveness == Alive {
				alive++
			}
		}
		if alive != len(bs) || a.root() != bs[0].root() {
			return false
		}
		for _, b := range bs {
			if a.sees(b) != Alive {
				return false
			}
		}
	}
	return true
}

func (b *box) root() [32]byte {
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	return b.mesh.logs.root()
}

// names are the payloads of the KindName entries of x that b holds.
func (b *box) names(x *box) []string {
	var out []string
	for _, e := range b.mesh.State().Logs[x.id.ID()] {
		if e.Kind == KindName {
			out = append(out, string(e.Payload))
		}
	}
	return out
}

func (b *box) append(names ...string) {
	b.w.t.Helper()
	for _, n := range names {
		if _, err := b.mesh.Append(Draft{KindName, []byte(n)}); err != nil {
			b.w.t.Fatal(err)
		}
	}
}

// disk is a Store in memory that can refuse.
type disk struct {
	mu      sync.Mutex
	buckets map[string]map[string][]byte
	fail    error
}

func newDisk() *disk { return &disk{buckets: make(map[string]map[string][]byte)} }

func (d *disk) Load(bucket string) (map[string][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.buckets[bucket]), nil
}

func (d *disk) Apply(bucket string, put map[string][]byte, del []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	if d.buckets[bucket] == nil {
		d.buckets[bucket] = make(map[string][]byte)
	}
	for k, v := range put {
		d.buckets[bucket][k] = slices.Clone(v)
	}
	for _, k := range del {
		delete(d.buckets[bucket], k)
	}
	return nil
}

// copy is what a cloned image has on its disk.
func (d *disk) copy() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := newDisk()
	for b, kv := range d.buckets {
		c.buckets[b] = maps.Clone(kv)
	}
	return c
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
