package mesh

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

const (
	inboxLen     = 1024
	gossipPacket = 1100 // bytes that memberlist may put in a datagram
)

// node is a name that gossip holds alive: one start of a host.
type node struct {
	id    peer.ID
	nonce uint64
	to    memberlist.Node // copy; memberlist changes its own under its lock
}

// startGossip brings memberlist up on the control address.
func (m *Mesh) startGossip(ctx context.Context) error {
	self := netip.AddrPortFrom(m.controlAddr(m.id), uint16(m.o.GossipPort))
	key := m.o.Secret.GossipKey(0)
	t, err := newTransport(ctx, m.o.Network, self, peer.ControlPrefix(m.mesh.Control()), key, gossipPost{sort: m.sortMail, blame: m.blameStream})
	if err != nil {
		return err
	}
	c := memberlist.DefaultLANConfig()
	m.mu.Lock()
	c.Name, m.told = m.own.rec.Name(), m.own.raw
	m.mu.Unlock()
	c.Transport = t
	c.BindPort, c.AdvertisePort = m.o.GossipPort, m.o.GossipPort
	c.SecretKey = key
	c.EnableCompression = false // costs more than it saves; streams of others that are compressed are refused, see stream
	c.UDPBufferSize = gossipPacket
	c.RequireNodeNames = true
	c.PushPullInterval = 0 // whole states grow with the mesh: see seek
	// A suspicion that nobody shares waits so many times longer than one that others
	// share. In a mesh of three there is nobody to share it, and with memberlist's 6 a
	// crash would show after a quarter of a minute only. See doubt.go for the other side.
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 4
	c.Logger = log.New(debugWriter{m.log}, "", 0)
	d := &delegate{m}
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	ml, err := memberlist.Create(c)
	if err != nil {
		_ = t.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}
	m.transport.Store(t)
	m.gossip.Store(ml)
	return nil
}

func (m *Mesh) stopGossip() {
	m.farewell.Lock()
	defer m.farewell.Unlock()
	ml := m.gossip.Swap(nil)
	if ml == nil {
		return
	}
	if err := ml.Shutdown(); err != nil {
		m.log.Debug("stop gossip", "err", err)
	}
	m.transport.Store(nil)
	m.mu.Lock()
	clear(m.nodes)
	m.mu.Unlock()
}

// joinGossip makes this host and another members of one gossip, through the tunnel. It
// ends with ctx: memberlist knows of none, but the transport does what it dials.
func (m *Mesh) joinGossip(ctx context.Context, id peer.ID) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ml, t := m.gossip.Load(), m.transport.Load()
		if ml == nil || t == nil {
			return errNotRunning
		}
		// memberlist wants a node name, takes what is before the first slash, and dials by it.
		name := fmt.Sprintf("join-%d", m.tries.Add(1))
		stop := context.AfterFunc(ctx, func() { t.hangUp(name) })
		_, err := ml.Join([]string{name + "/" + netip.AddrPortFrom(m.controlAddr(id), uint16(m.o.GossipPort)).String()})
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("join gossip through the tunnel: %w", err)
		case <-time.After(wait):
		}
	}
}

// audience are the live peers to send to, one node each.
type audience struct {
	nodes []memberlist.Node // those that this host has met first
	met   int
}

func (m *Mesh) audience() audience {
	m.mu.Lock()
	defer m.mu.Unlock()
	best := make(map[peer.ID]node)
	for _, n := range m.nodes {
		// Of two starts of one host the one of its freshest record is the live one.
		h := m.hosts[n.id]
		if old, ok := best[n.id]; !ok || (h != nil && old.nonce != h.rec.BootNonce) {
			best[n.id] = n
		}
	}
	a := audience{nodes: make([]memberlist.Node, 0, len(best))}
	for id, n := range best {
		a.nodes = append(a.nodes, n.to)
		if last := len(a.nodes) - 1; m.logs.strangers.proven[id] {
			a.nodes[a.met], a.nodes[last] = a.nodes[last], a.nodes[a.met]
			a.met++
		}
	}
	return a
}

// some are n of them at random, half of them such as were met, if there are so many:
// gossip can be told of any number of hosts that are not there.
func (a audience) some(n int) []memberlist.Node {
	met := min((n+1)/2, a.met)
	if n == 1 {
		met = min(rand.IntN(2), a.met)
	}
	n = min(n, len(a.nodes))
	nodes := slices.Clone(a.nodes)
	for i := range n {
		end := len(nodes)
		if i < met {
			end = a.met
		}
		j := i + rand.IntN(end-i)
		nodes[i], nodes[j] = nodes[j], nodes[i]
	}
	return nodes[:n]
}

// debugWriter is memberlist's own log.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug("memberlist", "msg", strings.TrimSpace(string(b)))
	return len(b), nil
}

// delegate is what memberlist calls, mostly with its node lock held. So nothing
// here calls back into memberlist or waits: merge under mu, and poke.
type delegate struct{ m *Mesh }

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate = (*delegate)(nil)
	_ memberlist.PingDelegate  = (*delegate)(nil)
)

// NodeMeta is this host's record, below memberlist's limit of 512 bytes.
func (d *delegate) NodeMeta(int) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.m.own.raw
}

// NotifyMsg hears nothing: datagrams of ours go beside memberlist's.
func (d *delegate) NotifyMsg([]byte) { d.m.count.add("gossip_foreign") }

// GetBroadcasts has nothing for memberlist to carry.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is empty: push/pull has a hard limit above which nobody can join.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState has nothing to merge.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive admits a node to gossip: its record must verify and be of that
// name and control address. So a third host has a newcomer's keys before it
// probes it.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	m := d.m
	rec, err := m.verifyRecord(n.Meta)
	if err != nil {
		m.count.add("node_rejected_record")
		return err
	}
	if rec.ProtoMin > protoMax || rec.ProtoMax < protoMin {
		m.count.add("node_rejected_version")
		return fmt.Errorf("node %s speaks protocol %d to %d, this host %d to %d", n.Name, rec.ProtoMin, rec.ProtoMax, protoMin, protoMax)
	}
	id := rec.ID()
	addr, _ := netip.AddrFromSlice(n.Addr)
	if rec.Name() != n.Name || addr != m.controlAddr(id) || int(n.Port) != m.o.GossipPort {
		m.count.add("node_rejected_name")
		return fmt.Errorf("record of %v is not of node %s at %v", id, n.Name, net.IP(n.Addr))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if id == m.id {
		if rec.BootNonce != m.nonce {
			return fmt.Errorf("node %s is a former start of this host", n.Name)
		}
		return nil
	}
	if h := m.hosts[id]; h != nil && fresher(h.rec, rec) {
		switch {
		case h.left:
			return fmt.Errorf("host %v has left", id)
		case h.rec.BootNonce != rec.BootNonce && h.vetted != rec.BootNonce:
			return fmt.Errorf("node %s is a former start of its host", n.Name)
		}
	}
	if _, there := m.nodes[n.Name]; !there && len(m.nodes) >= maxAuthors && m.logs.strangers.unmet(id) {
		m.count.add("node_rejected_crowd") // memberlist would hold it until it has probed it
		return fmt.Errorf("host %v is one too many in gossip", id)
	}
	if m.noteRecordLocked(rec, n.Meta, byGossip) {
		m.stale = true
	}
	if m.hosts[id] == nil {
		return fmt.Errorf("host %v is one too many", id)
	}
	return nil
}

// NotifyJoin notes that gossip holds a node alive.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.note(n) }

// NotifyUpdate notes a node's new meta, which NotifyAlive has seen already.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.note(n) }

func (d *delegate) note(n *memberlist.Node) {
	id, nonce, ok := parseName(n.Name)
	if !ok || id == d.m.id {
		return
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.nodes[n.Name] = node{id: id, nonce: nonce, to: memberlist.Node{Name: n.Name, Addr: n.Addr, Port: n.Port, PMax: n.PMax}}
	if h := d.m.hosts[id]; h != nil {
		h.met = true
	}
	poke(d.m.look)
}

// NotifyLeave notes that gossip holds a node dead. Who says so may lie, so this
// hides names at most; see sign.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	delete(d.m.nodes, n.Name)
	poke(d.m.look)
}

// AckPayload is empty.
func (d *delegate) AckPayload() []byte { return nil }

// NotifyPingComplete measures the round trip, smoothed as TCP does (RFC 6298).
func (d *delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, _ []byte) {
	id, _, ok := parseName(n.Name)
	if !ok || rtt <= 0 {
		return
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if h := d.m.hosts[id]; h != nil {
		h.pings++
		switch h.pings {
		case 1:
			return // the tunnel's handshake may be in it
		case 2:
			h.rtt = rtt
		default:
			h.rtt += (rtt - h.rtt) / 8
		}
		if change := (h.rtt - h.shown).Abs(); change > h.shown/8 {
			h.shown = h.rtt
			d.m.stale = true
			poke(d.m.look)
		}
	}
}

// parseName reads what Record.Name made.
func parseName(name string) (peer.ID, uint64, bool) {
	text, nonce, ok := strings.Cut(name, "/")
	if !ok || len(nonce) != 16 {
		return peer.ID{}, 0, false
	}
	id, err := peer.ParseID(text)
	var n uint64
	if _, e := fmt.Sscanf(nonce, "%016x", &n); err != nil || e != nil {
		return peer.ID{}, 0, false
	}
	return id, n, name == nodeName(id, n)
}
