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
	Loss   float64       // share of datagrams lost, 0 to 1; a stream's segment is sent again after retransmit
	Delay  time.Duration // one way
	Jitter time.Duration // added to Delay, uniform; reorders datagrams
	Cut    bool          // nothing passes
}

// retransmit is how long a stream waits before it sends a lost segment again.
const retransmit = 200 * time.Millisecond

// Net is a network without hosts until Host is called.
type Net struct {
	mu    sync.Mutex // guards the fields below and those of every Host
	rng   *rand.Rand
	hosts map[netip.Addr]*Host
	def   Link
	links map[[2]*Host]Link
	gate  func(src, dst netip.Addr) bool
	ports uint16
	sent  uint64 // datagrams handed in
	bytes uint64
}

// New makes a network whose losses and delays follow seed.
func New(seed uint64) *Net {
	return &Net{
		rng:   rand.New(rand.NewPCG(seed, 0x77656674)),
		hosts: make(map[netip.Addr]*Host),
		links: make(map[[2]*Host]Link),
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
	n.links[[2]*Host{from, to}] = l
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
	l := n.linkLocked(from, to)
	l.Cut = true
	n.links[[2]*Host{from, to}] = l
}

// Heal undoes Cut and CutOneWay between a and b.
func (n *Net) Heal(a, b *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range [][2]*Host{{a, b}, {b, a}} {
		l := n.linkLocked(p[0], p[1])
		l.Cut = false
		n.links[p] = l
	}
}

// SetGate makes f decide which pairs of addresses reach each other at all: a
// test's tunnels. nil, as at the start, lets all pass. f must not block nor call
// back into the Net.
func (n *Net) SetGate(f func(src, dst netip.Addr) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = f
}

// Datagrams tells how many were sent so far, lost ones included, and their bytes.
func (n *Net) Datagrams() (count, bytes uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.bytes
}

func (n *Net) linkLocked(from, to *Host) Link {
	if l, ok := n.links[[2]*Host{from, to}]; ok {
		return l
	}
	return n.def
}

// pass decides about one packet from src to dst: whether it arrives, where, and
// after how long.
func (n *Net) pass(from *Host, src, dst netip.Addr, mayLose bool) (to *Host, delay time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to = n.hosts[dst]
	if to == nil || to.down || from.down || n.hosts[src] != from || (n.gate != nil && !n.gate(src, dst)) {
		return to, 0, false
	}
	if from == to {
		return to, 0, true
	}
	l := n.linkLocked(from, to)
	if l.Cut {
		return to, 0, false
	}
	delay = l.Delay
	if l.Jitter > 0 {
		delay += time.Duration(n.rng.Int64N(int64(l.Jitter)))
	}
	if l.Loss > 0 && n.rng.Float64() < l.Loss {
		if mayLose {
			return to, 0, false
		}
		delay += retransmit
	}
	return to, delay, true
}

// Host has addresses and sockets. Its methods Listen, ListenPacket, Dial and
// Resolve are the sockets of one machine.
type Host struct {
	net  *Net
	name string

	// Guarded by net.mu.
	down    bool
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
	h.heard[from] = time.Now()
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
