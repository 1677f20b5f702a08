package simnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Link is how one direction between two hosts behaves.
type Link struct {
	Loss   float64       // share of packets lost, 0 to 1, a stream's included: see retransmit
	Dup    float64       // share of datagrams that arrive twice, each after a delay of its own
	Delay  time.Duration // one way
	Jitter time.Duration // added to Delay, uniform; reorders datagrams
	Cut    bool          // nothing passes
}

// A stream loses what TCP would lose, and pays what TCP would pay (RFC 6298):
// what is lost is sent again after a timeout that doubles each time. There is no
// fast retransmit, so that a stream suffers rather more than a real one.
const (
	retransmit    = 200 * time.Millisecond // Linux' least timeout
	synRetransmit = time.Second            // … of a dial
	maxRetransmit = 2 * time.Minute
	segmentSize   = 1100 // bytes of a stream in a packet, as in the tunnel
)

// Net is a network without hosts until Host is called.
type Net struct {
	seed uint64

	mu    sync.Mutex // guards the fields below and those of every Host
	hosts map[netip.Addr]*Host
	count uint32 // of hosts
	def   Link
	ways  map[[2]*Host]*way
	gate  func(src, dst netip.Addr) bool
	ports uint16
}

// way is one direction that has a state of its own.
type way struct {
	link *Link // nil: the default
	cut  bool
	rng  *rand.Rand // nil until something is to be drawn
}

// Traffic is what a host has sent to others, lost packets and a stream's
// repetitions included. Bytes are payload, without any header.
type Traffic struct {
	Datagrams, DatagramBytes uint64
	Segments, StreamBytes    uint64 // packets of streams: SYN, data, acknowledgements, FIN
}

// Packets and Bytes are the sums of both sorts.
func (t Traffic) Packets() uint64 { return t.Datagrams + t.Segments }
func (t Traffic) Bytes() uint64   { return t.DatagramBytes + t.StreamBytes }

// Sub is what came since an earlier reading.
func (t Traffic) Sub(earlier Traffic) Traffic {
	return Traffic{
		t.Datagrams - earlier.Datagrams, t.DatagramBytes - earlier.DatagramBytes,
		t.Segments - earlier.Segments, t.StreamBytes - earlier.StreamBytes,
	}
}

// New makes a network whose losses, repetitions and delays follow seed: each
// direction between two hosts has a random source of its own, so that what a
// direction does to its n-th packet does not depend on the others.
func New(seed uint64) *Net {
	return &Net{
		seed:  seed,
		hosts: make(map[netip.Addr]*Host),
		ways:  make(map[[2]*Host]*way),
		def:   Link{Delay: time.Millisecond},
		ports: 32768,
	}
}

// SetDefault is how every direction behaves that SetLink has not been called for.
func (n *Net) SetDefault(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.def = l
}

// SetLink sets one direction.
func (n *Net) SetLink(from, to *Host, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wayLocked(from, to).link = &l
}

// Cut stops everything between a and b, both ways, until Heal.
func (n *Net) Cut(a, b *Host) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay stops everything that from sends to to, until Heal.
func (n *Net) CutOneWay(from, to *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wayLocked(from, to).cut = true
}

// Heal undoes Cut and CutOneWay between a and b.
func (n *Net) Heal(a, b *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wayLocked(a, b).cut = false
	n.wayLocked(b, a).cut = false
}

// SetGate makes f decide which pairs of addresses reach each other at all: a
// test's tunnels. nil, as at the start, lets all pass. f must not block nor call
// back into the Net.
func (n *Net) SetGate(f func(src, dst netip.Addr) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = f
}

func (n *Net) wayLocked(from, to *Host) *way {
	k := [2]*Host{from, to}
	if n.ways[k] == nil {
		n.ways[k] = &way{}
	}
	return n.ways[k]
}

// linkLocked is how a direction behaves now.
func (n *Net) linkLocked(from, to *Host) Link {
	l := n.def
	if w := n.ways[[2]*Host{from, to}]; w != nil {
		if w.link != nil {
			l = *w.link
		}
		l.Cut = l.Cut || w.cut
	}
	return l
}

// drawLocked is a direction's random source.
func (n *Net) drawLocked(from, to *Host) *rand.Rand {
	w := n.wayLocked(from, to)
	if w.rng == nil {
		w.rng = rand.New(rand.NewPCG(n.seed, uint64(from.index)<<32|uint64(to.index)))
	}
	return w.rng
}

// parcel is packets that are sent together.
type parcel struct {
	packets, bytes int
	stream         bool
}

// passage is what becomes of a parcel.
type passage struct {
	to    *Host // nil: nobody has the address
	open  bool  // there is a way, though it may lose
	link  Link
	delay time.Duration // of the last packet that arrives
	lost  int           // packets; all of them if there is no way
}

// pass sends a parcel from src to dst.
func (n *Net) pass(from *Host, src, dst netip.Addr, p parcel) passage {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[dst]
	out := passage{to: to, lost: p.packets}
	if from.down || n.hosts[src] != from || (n.gate != nil && !n.gate(src, dst)) {
		return out
	}
	if from == to {
		out.open, out.lost = true, 0
		return out
	}
	from.sentLocked(p)
	if to == nil || to.down {
		return out
	}
	out.link = n.linkLocked(from, to)
	if out.link.Cut {
		return out
	}
	out.open, out.lost = true, 0
	for range p.packets {
		if out.link.Loss > 0 && n.drawLocked(from, to).Float64() < out.link.Loss {
			out.lost++
			continue
		}
		out.delay = max(out.delay, n.delayLocked(from, to, out.link))
	}
	return out
}

// delayLocked is what one packet takes, the time included that its sender still
// stands still.
func (n *Net) delayLocked(from, to *Host, l Link) time.Duration {
	d := l.Delay + max(0, time.Until(from.paused))
	if l.Jitter > 0 {
		d += time.Duration(n.drawLocked(from, to).Int64N(int64(l.Jitter)))
	}
	return d
}

// again tells whether a datagram that takes the passage comes a second time, and
// after how long.
func (n *Net) again(from *Host, p passage) (time.Duration, bool) {
	if p.link.Dup == 0 {
		return 0, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drawLocked(from, p.to).Float64() >= p.link.Dup {
		return 0, false
	}
	return n.delayLocked(from, p.to, p.link), true
}

// deliver does f after delay, and not while the host stands still.
func (h *Host) deliver(delay time.Duration, f func()) {
	time.AfterFunc(delay, func() {
		if hold := h.still(); hold > 0 {
			time.AfterFunc(hold, f)
			return
		}
		f()
	})
}

// Host has addresses and sockets. Its methods Listen, ListenPacket, Dial and
// Resolve are the sockets of one machine.
type Host struct {
	net   *Net
	name  string
	index uint32

	// Guarded by net.mu.
	down    bool
	paused  time.Time // nothing goes in or out before
	sent    Traffic
	uplink  uplink
	addrs   []netip.Addr
	streams map[netip.AddrPort]*listener
	packets map[netip.AddrPort]*packetConn
	conns   map[*conn]struct{}
	heard   map[netip.Addr]time.Time
}

// Host adds a host that owns addrs.
func (n *Net) Host(name string, addrs ...netip.Addr) *Host {
	h := &Host{
		net: n, name: name,
		streams: make(map[netip.AddrPort]*listener),
		packets: make(map[netip.AddrPort]*packetConn),
		conns:   make(map[*conn]struct{}),
		heard:   make(map[netip.Addr]time.Time),
	}
	n.mu.Lock()
	n.count++
	h.index = n.count
	n.mu.Unlock()
	for _, a := range addrs {
		h.AddAddr(a)
	}
	return h
}

// String is the name given to Net.Host.
func (h *Host) String() string { return h.name }

// AddAddr gives the host one more address; an address that another host had
// moves to this one.
func (h *Host) AddAddr(a netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.hosts[a] = h
	h.addrs = append(h.addrs, a)
}

// RemoveAddr takes an address away.
func (h *Host) RemoveAddr(a netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.hosts[a] == h {
		delete(h.net.hosts, a)
	}
	for i := range h.addrs {
		if h.addrs[i] == a {
			h.addrs = append(h.addrs[:i:i], h.addrs[i+1:]...)
			return
		}
	}
}

// Sent is what the host has sent so far.
func (h *Host) Sent() Traffic {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.sent
}

func (h *Host) sentLocked(p parcel) {
	if p.stream {
		h.sent.Segments += uint64(p.packets)
		h.sent.StreamBytes += uint64(p.bytes)
		return
	}
	h.sent.Datagrams += uint64(p.packets)
	h.sent.DatagramBytes += uint64(p.bytes)
}

// Pause makes the machine stand still for d, as a suspended virtual one: what it
// sends and what comes in waits until then, and then goes all at once. Timers of
// the programs on it are not stopped.
func (h *Host) Pause(d time.Duration) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.paused = time.Now().Add(d)
}

// still is for how long the host still stands still.
func (h *Host) still() time.Duration {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return max(0, time.Until(h.paused))
}

// Crash is a power cut: the host falls silent, its sockets are closed for its
// own side, and the other ends of its streams learn nothing. Up ends it.
func (h *Host) Crash() { h.end(true) }

// Kill ends every socket of the host, as a kernel does for a killed process: the
// other ends of its streams see a reset, and dials are refused.
func (h *Host) Kill() { h.end(false) }

// Up ends a Crash.
func (h *Host) Up() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.down = false
}

func (h *Host) end(silent bool) {
	h.net.mu.Lock()
	h.down = silent
	var ls []*listener
	var ps []*packetConn
	var cs []*conn
	for _, l := range h.streams {
		ls = append(ls, l)
	}
	for _, p := range h.packets {
		ps = append(ps, p)
	}
	for c := range h.conns {
		cs = append(cs, c)
	}
	h.net.mu.Unlock()
	for _, l := range ls {
		_ = l.Close()
	}
	for _, p := range ps {
		_ = p.Close()
	}
	for _, c := range cs {
		c.abort()
	}
}

// LastReceive tells how long ago anything arrived here from the address.
func (h *Host) LastReceive(from netip.Addr) (age time.Duration, ok bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	at, ok := h.heard[from]
	return time.Since(at), ok
}

func (h *Host) hear(from netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if !h.down {
		h.heard[from] = time.Now()
	}
}

// sourceLocked picks the address that h sends from towards dst: one that shares
// dst's first 48 bits (a tunnel's), else the first of the family.
func (h *Host) sourceLocked(dst netip.Addr) (netip.Addr, error) {
	var first netip.Addr
	for _, a := range h.addrs {
		if a == dst {
			return a, nil
		}
		if a.Is4() != dst.Is4() {
			continue
		}
		if p, err := a.Prefix(48); a.Is6() && err == nil && p.Contains(dst) {
			return a, nil
		}
		if !first.IsValid() {
			first = a
		}
	}
	if !first.IsValid() {
		return first, fmt.Errorf("simnet: host %s has no address towards %v", h.name, dst)
	}
	return first, nil
}

// Resolve parses addresses; the network has no names.
func (h *Host) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{a}, nil
}

func (n *Net) portLocked() uint16 {
	n.ports++
	if n.ports < 32768 {
		n.ports = 32768
	}
	return n.ports
}
