package mesh

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

// Datagrams of ours share a socket with memberlist's: magic u8 = 0x77 | kind u8 |
// body. memberlist's begin with the version of its encryption, 0 or 1. They are not
// sealed again: the tunnel seals them, their entries are signed, and their source
// address is the sender's, because a tunnel takes from a host its own addresses
// only. So whoever misbehaves has a name. A kind that is not known is of a later
// release, whose entries come by the digests all the same: it is let pass.
const (
	gossipMagic byte = 0x77

	gossipDirect byte = 1 // entries; the sender tells everybody itself
	gossipRelay  byte = 2 // entries; hand them on if they are news
	gossipRoot   byte = 3 // SHA-256 of the sender's digest, 32 bytes
)

const (
	// maxGossip bounds a datagram of ours: with the headers of the tunnel it fits
	// the smallest MTU that IPv6 allows. The biggest entry fits.
	maxGossip = 1100

	// directMax is up to how many live peers new entries go straight to each.
	// Beyond, they go to so many at random, which hand them on to fanout others.
	directMax = 64
	fanout    = 6

	flushMax   = 64                     // entries sent in one go; the rest after flushPause
	flushPause = 100 * time.Millisecond // lets the others verify what came
	laneMax    = 1024                   // entries that wait to be sent; more are left to the digests
)

// Own entries go out again after these times: at 5 % loss and 50 hosts most
// entries would otherwise need a repair somewhere.
var repeats = []time.Duration{25 * time.Millisecond, 150 * time.Millisecond}

// outbox is what waits to be sent: this host's own entries before those that it
// hands on.
type outbox struct {
	poked chan struct{}

	mu    sync.Mutex // guards the fields below
	own   []Entry
	relay []Entry
	again []repeat // sorted by due
	open  bool     // somebody sends
}

type repeat struct {
	es  []Entry
	due time.Time
	nth int // index into repeats
}

// put adds entries to a lane and returns how many found no room.
func (o *outbox) put(lane *[]Entry, es []Entry) (dropped int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.open {
		return 0
	}
	n := min(len(es), max(0, laneMax-len(*lane)))
	*lane = append(*lane, es[:n]...)
	poke(o.poked)
	return len(es) - n
}

// next takes what is to be sent now, and tells when to come again; 0: when poked.
func (o *outbox) next(now time.Time) (own, relay []Entry, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	room := flushMax
	cut := func(lane *[]Entry) []Entry {
		n := min(room, len(*lane))
		room -= n
		out := slices.Clone((*lane)[:n])
		*lane = slices.Delete(*lane, 0, n)
		return out
	}
	own = cut(&o.own)
	if len(own) > 0 {
		o.repeatLocked(own, 0, now)
	}
	for room > 0 && len(o.again) > 0 && !o.again[0].due.After(now) {
		r := o.again[0]
		o.again = slices.Delete(o.again, 0, 1)
		own = append(own, r.es...)
		room -= len(r.es)
		o.repeatLocked(r.es, r.nth+1, now)
	}
	room = max(0, room)
	relay = cut(&o.relay)
	switch {
	case len(o.own)+len(o.relay) > 0:
		wait = flushPause
	case len(o.again) > 0:
		wait = max(time.Millisecond, o.again[0].due.Sub(now))
	}
	return own, relay, wait
}

func (o *outbox) repeatLocked(es []Entry, nth int, now time.Time) {
	if nth >= len(repeats) || len(o.again)*flushMax >= laneMax {
		return
	}
	r := repeat{es: es, due: now.Add(repeats[nth]), nth: nth}
	i, _ := slices.BinarySearchFunc(o.again, r.due, func(x repeat, t time.Time) int { return x.due.Compare(t) })
	o.again = slices.Insert(o.again, i, r)
}

// waiting tells how many entries are in either lane.
func (o *outbox) waiting() (own, relay int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.own), len(o.relay)
}

func (o *outbox) setOpen(open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = open
	if !open {
		o.own, o.relay, o.again = nil, nil, nil
	}
}

// broadcast sends this host's own new entries to all live peers. It is best
// effort: the digests repair what is lost.
func (m *Mesh) broadcast(es []Entry) {
	m.count.addN("gossip_left_to_digests", m.outbox.put(&m.outbox.own, es))
}

// relay hands on entries of others.
func (m *Mesh) relay(es []Entry) {
	m.count.addN("gossip_left_to_digests", m.outbox.put(&m.outbox.relay, es))
}

// spreadAll sends what is in the outbox until ctx ends.
func (m *Mesh) spreadAll(ctx context.Context) {
	m.outbox.setOpen(true)
	defer m.outbox.setOpen(false)
	for {
		own, relay, wait := m.outbox.next(time.Now())
		m.send(own, relay)
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		if wait == flushPause { // paced, whatever is poked
			select {
			case <-ctx.Done():
				return
			case <-again:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-m.outbox.poked:
		case <-again:
		}
	}
}

func (m *Mesh) send(own, relay []Entry) {
	if len(own)+len(relay) == 0 {
		return
	}
	to := m.audience()
	if len(to.nodes) <= directMax {
		msgs := append(pack(own, gossipDirect), pack(relay, gossipDirect)...)
		for _, n := range to.nodes {
			m.sendTo(n, msgs...)
		}
		return
	}
	msgs := pack(own, gossipRelay)
	for _, n := range to.some(directMax) {
		m.sendTo(n, msgs...)
	}
	msgs = pack(relay, gossipRelay)
	for _, n := range to.some(fanout) {
		m.sendTo(n, msgs...)
	}
}

func (m *Mesh) sendTo(n memberlist.Node, msgs ...[]byte) {
	t := m.transport.Load()
	a, ok := netip.AddrFromSlice(n.Addr)
	if t == nil || !ok {
		return
	}
	for _, b := range msgs {
		if err := t.send(b, netip.AddrPortFrom(a, n.Port)); err != nil {
			m.count.add("gossip_send_failed")
		}
	}
}

// pack puts entries into as few datagrams as they fit.
func pack(es []Entry, kind byte) [][]byte {
	var out [][]byte
	for _, e := range es {
		if n := len(out); n > 0 && len(out[n-1])+2+len(e.raw) <= maxGossip {
			out[n-1] = AppendEntries(out[n-1], e)
			continue
		}
		out = append(out, AppendEntries([]byte{gossipMagic, kind}, e))
	}
	return out
}

// letter is a datagram of ours that came in.
type letter struct {
	from peer.ID
	kind byte
	body []byte
}

// sortMail takes a datagram of ours, and says whether one of memberlist's is to be
// passed on to it: a member may send only so many. Its tunnel shows whose it is;
// what is in it, nobody has signed.
func (m *Mesh) sortMail(from netip.Addr, b []byte) (pass bool) {
	if idAt(from) == m.id { // a local user: a tunnel brings nothing from its own host
		m.count.add("gossip_from_here")
		return false
	}
	if b[0] == gossipMagic {
		m.receive(from, b)
		return false
	}
	if !m.gossipers.allow(from, time.Now()) {
		m.reject(idAt(from), reasonFlood, errFlood)
		return false
	}
	return true
}

// blameStream names who sent memberlist a stream that was refused.
func (m *Mesh) blameStream(from netip.Addr, err error) {
	if id := idAt(from); id != m.id {
		m.rejectSent(id, reasonMalformed, err)
	}
}

// receive puts a datagram of ours into the inbox; b is not kept. It is called by
// the transport's reader, so it must not wait. A member may send only so much
// that the others are still heard beside it.
func (m *Mesh) receive(from netip.Addr, b []byte) {
	id := idAt(from)
	switch {
	case len(b) < 2 || len(b) > maxGossip || b[1] == gossipRoot && len(b) < 34:
		m.rejectSent(id, reasonMalformed, errShort)
		return
	case !m.senders.allow(from, time.Now()):
		m.reject(id, reasonFlood, errFlood)
		return
	case b[1] < gossipDirect || b[1] > gossipRoot:
		m.count.add("gossip_unknown_kind")
		return
	}
	if !m.queued.take(from) { // its share of the inbox: the others must find room
		m.count.add("gossip_dropped")
		return
	}
	select {
	case m.inbox <- letter{id, b[1], append([]byte(nil), b[2:]...)}:
	default:
		m.queued.give(from)
		m.count.add("gossip_dropped")
	}
}

// idAt is whose control address a is; see peer.ControlAddr.
func idAt(a netip.Addr) peer.ID {
	b := a.As16()
	return peer.ID(b[6:])
}

// readInbox merges what came by gossip: the digests find what was lost.
func (m *Mesh) readInbox(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-m.inbox:
			m.queued.give(m.controlAddr(l.from))
			m.read(l)
		}
	}
}

func (m *Mesh) read(l letter) {
	if l.kind == gossipRoot {
		m.hearFrom(l.from)
		m.compareRoot(l.from, [32]byte(l.body))
		return
	}
	es, err := SplitEntries(l.body)
	if err != nil {
		m.rejectSent(l.from, reasonMalformed, err)
	}
	if news, _ := m.take(es, l.from, false); l.kind == gossipRelay {
		m.relay(news)
	}
}

// sendRoot tells a peer what this host holds, in one number.
func (m *Mesh) sendRoot(n memberlist.Node) {
	m.sendTo(n, rootDatagram(m.root()))
}

func rootDatagram(root [32]byte) []byte { return append([]byte{gossipMagic, gossipRoot}, root[:]...) }

func (m *Mesh) root() [32]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs.root()
}
