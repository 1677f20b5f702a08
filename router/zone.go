package router

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"weft/dns"
	"weft/mesh"
	"weft/peer"
)

// zone follows the names in the logs of all hosts and makes the table that the
// DNS server answers from. It reads each entry once: what a change costs does not depend on how
// many names there are, and hardly on how many hosts. All names of one Append change in one step.
type zone struct {
	domain  string // with the final dot
	nearest bool   // else all hosts are as near

	mu    sync.Mutex // guards the fields below
	hosts map[peer.ID]*zoneHost
	ranks map[peer.ID]uint16
	// What the last call of sync saw, to tell what else has changed.
	last   *mesh.State
	ranges []netip.Prefix
	denied map[nameKey]bool // see deny

	// publish is told of every table, in their order; nil: nobody is. Set before use.
	publish func(*dns.Table)
	table   atomic.Pointer[dns.Table]
	bad     atomic.Int64 // entries that could not be read
	changed broadcast    // told when the table has changed
}

// zoneHost is one host's log as far as it was read, and what it says.
type zoneHost struct {
	read  int // entries
	last  mesh.Entry
	names map[nameKey]bool
	down  map[string]bool // containers that are unhealthy
	gone  bool            // reset: its names do not count
	bad   int
}

func newZone(domain string, nearest bool) *zone {
	z := &zone{domain: domain, nearest: nearest, hosts: map[peer.ID]*zoneHost{}, ranks: map[peer.ID]uint16{}}
	z.table.Store(z.empty())
	return z
}

// empty is a table with what every host says of itself: where its name server is.
func (z *zone) empty() *dns.Table {
	return dns.NewTable(z.domain, z.ranges, []dns.Record{{Name: "ns.dns." + z.domain, Addr: bridgeAddr}})
}

// sync reads what is new in the logs, and looks again at the hosts of which the mesh knows anything new. It says whether
// anything has changed that is not a name, since the call before. The state is taken under the lock: of two calls, the later
// one must not bring back what the earlier has seen go.
func (z *zone) sync(state func() *mesh.State, hidden func(mesh.Host) bool) (other bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	st := state()
	if st == z.last {
		return false
	}
	before := z.table.Load()
	e := before.Edit()
	edits := 0
	other = z.last == nil || otherwise(z.last, st)
	place := differing(z.last, st)
	bad := 0
	for author, es := range st.Logs {
		h := z.hosts[author]
		if h == nil {
			h = &zoneHost{names: map[nameKey]bool{}}
			z.hosts[author] = h
			place = append(place, author)
		}
		n, more := z.readLocked(e, author, h, es)
		edits, other, bad = edits+n, other || more, bad+h.bad
	}
	if len(z.hosts) > len(st.Logs) {
		for author, h := range z.hosts {
			if _, ok := st.Logs[author]; !ok {
				z.moveLocked(e, author, h, &zoneHost{})
				delete(z.hosts, author)
				delete(z.ranks, author)
				edits, other = edits+1, true
			}
		}
	}
	z.bad.Store(int64(bad))
	z.last = st
	for _, author := range place {
		if z.hosts[author] != nil {
			z.placeLocked(e, author, st, hidden)
		}
	}
	after := e.Done()
	switch {
	case after.Hosts() > len(z.hosts)+maxForgotten:
		z.renewLocked(st, hidden)
	case edits > 0 || !after.SameHosts(before):
		z.storeLocked(after)
	}
	return other
}

// maxForgotten is how many hosts that are no more a table may know. It can't unlearn one.
const maxForgotten = 4096

// look looks at all hosts again: that one is hidden may be for the time that has passed.
func (z *zone) look(state func() *mesh.State, hidden func(mesh.Host) bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	st := state()
	before := z.table.Load()
	e := before.Edit()
	for author := range z.hosts {
		z.placeLocked(e, author, st, hidden)
	}
	if after := e.Done(); !after.SameHosts(before) {
		z.storeLocked(after)
	}
}

// differing gives the hosts of which two states say different things. The first may be nil.
func differing(a, b *mesh.State) (ids []peer.ID) {
	var was []mesh.Host
	if a != nil {
		was = a.Hosts
	}
	is := b.Hosts
	for len(was)+len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].ID.Compare(is[0].ID) < 0:
			ids, was = append(ids, was[0].ID), was[1:]
		case len(was) == 0 || was[0].ID != is[0].ID:
			ids, is = append(ids, is[0].ID), is[1:]
		default:
			if w, i := &was[0], &is[0]; w.Liveness != i.Liveness || w.RTT != i.RTT || w.Record.WireGuard != i.Record.WireGuard {
				ids = append(ids, i.ID)
			}
			was, is = was[1:], is[1:]
		}
	}
	return ids
}

func (z *zone) storeLocked(t *dns.Table) {
	z.table.Store(t)
	if z.publish != nil {
		z.publish(t)
	}
	z.changed.wake()
}

// otherwise says whether two states differ in what a pass depends on, names aside.
func otherwise(a, b *mesh.State) bool {
	return a.Founding != b.Founding || a.Copied != b.Copied || !slices.EqualFunc(a.Hosts, b.Hosts, func(a, b mesh.Host) bool {
		return a.ID == b.ID && a.Liveness == b.Liveness && a.Record.Epoch == b.Record.Epoch && a.Record.Serial == b.Record.Serial
	})
}

// readLocked reads what is new in one log: the end of it, or all of it if it is of another
// epoch. It says how many records it has changed, and whether there were entries that are not names.
func (z *zone) readLocked(e *dns.Edit, author peer.ID, h *zoneHost, es []mesh.Entry) (edits int, other bool) {
	n := len(es)
	if h.read == 0 || h.read > n || !same(h.last, es[h.read-1]) {
		z.rereadLocked(e, author, h, es)
		return 1, true
	}
	for _, entry := range es[h.read:] {
		switch entry.Kind {
		case mesh.KindName:
			o, k, err := parseName(entry.Payload)
			h.note(err)
			if err == nil {
				edits += z.setLocked(e, author, h, k, o == opSet)
			}
		case mesh.KindDepart:
			z.moveLocked(e, author, h, &zoneHost{names: h.names, down: h.down, gone: true, bad: h.bad})
			edits, other = edits+1, true
		default:
			other = true
		}
	}
	h.read, h.last = n, es[n-1]
	return edits, other
}

func (z *zone) rereadLocked(e *dns.Edit, author peer.ID, h *zoneHost, es []mesh.Entry) {
	to := &zoneHost{read: len(es), names: map[nameKey]bool{}, down: map[string]bool{}}
	for _, entry := range es {
		to.last = entry
		switch entry.Kind {
		case mesh.KindName:
			o, k, err := parseName(entry.Payload)
			to.note(err)
			switch {
			case err != nil:
			case o == opSet:
				to.names[k] = true
			default:
				delete(to.names, k)
			}
		case mesh.KindDepart:
			to.gone = true
		}
	}
	for k := range to.names {
		if k.Type == typeUnhealthy {
			to.down[k.Container] = true
		}
	}
	z.moveLocked(e, author, h, to)
}

// same says that two entries are one. Nobody can write two of one epoch and number: see package mesh.
func same(a, b mesh.Entry) bool {
	return a.Epoch == b.Epoch && a.Seq == b.Seq && bytes.Equal(a.Raw(), b.Raw())
}

func (h *zoneHost) note(err error) {
	if err != nil && err != errNewer {
		h.bad++
	}
}

// shown are the names of a host that are records of the table. A host that was reset has
// none, though its log has.
func (h *zoneHost) shown(f func(k nameKey)) {
	if h.gone {
		return
	}
	for k := range h.names {
		if k.Type != typeUnhealthy {
			f(k)
		}
	}
}

// setLocked adds one name or takes one out.
func (z *zone) setLocked(e *dns.Edit, author peer.ID, h *zoneHost, k nameKey, set bool) (edits int) {
	if h.names[k] == set {
		return 0
	}
	if set {
		h.names[k] = true
	} else {
		delete(h.names, k)
	}
	switch {
	case k.Type == typeUnhealthy:
		if set {
			h.down[k.Container] = true
		} else {
			delete(h.down, k.Container)
		}
		h.shown(func(o nameKey) {
			if o.Container == k.Container {
				e.Add(record(o, author, set))
				edits++
			}
		})
		return edits
	case h.gone:
		return 0
	case set:
		e.Add(record(k, author, h.down[k.Container])) // what can't be in the table is left out
	default:
		e.Remove(record(k, author, false))
	}
	return 1
}

// moveLocked makes a host's names those of to.
func (z *zone) moveLocked(e *dns.Edit, author peer.ID, h, to *zoneHost) {
	h.shown(func(k nameKey) {
		if to.gone || !to.names[k] {
			e.Remove(record(k, author, false))
		}
	})
	to.shown(func(k nameKey) {
		if h.gone || !h.names[k] || h.down[k.Container] != to.down[k.Container] {
			e.Add(record(k, author, to.down[k.Container]))
		}
	})
	*h = *to
}

// setRanges makes the table anew for other reverse zones, and says whether they are.
func (z *zone) setRanges(ranges []netip.Prefix, state func() *mesh.State, hidden func(mesh.Host) bool) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if slices.Equal(z.ranges, ranges) {
		return false
	}
	z.ranges = slices.Clone(ranges)
	z.renewLocked(state(), hidden)
	return true
}

// renewLocked makes the table anew from what was read.
func (z *zone) renewLocked(st *mesh.State, hidden func(mesh.Host) bool) {
	e := z.empty().Edit()
	for author, h := range z.hosts {
		h.shown(func(k nameKey) {
			if !z.denied[k] || author != st.Self {
				e.Add(record(k, author, h.down[k.Container]))
			}
		})
		z.placeLocked(e, author, st, hidden)
	}
	z.storeLocked(e.Done())
}

// differs compares the names that a host's log announces, as far as it was read, with
// those that it should. What is the same costs a look at each name, and no memory.
func (z *zone) differs(id peer.ID, want map[nameKey]bool) (tooMany, missing []nameKey) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var have map[nameKey]bool
	if h := z.hosts[id]; h != nil {
		have = h.names
	}
	for k := range have {
		if !want[k] {
			tooMany = append(tooMany, k)
		}
	}
	for k := range want {
		if !have[k] {
			missing = append(missing, k)
		}
	}
	return tooMany, missing
}

// deny leaves names of this host out of the table although its log has them, and takes
// in again those that were left out before: its disk may not take what withdraws them.
func (z *zone) deny(id peer.ID, names []nameKey) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(names)+len(z.denied) == 0 {
		return
	}
	e := z.table.Load().Edit()
	edits := 0
	old := z.denied
	z.denied = map[nameKey]bool{}
	for _, k := range names {
		z.denied[k] = true
		if !old[k] && k.Type != typeUnhealthy {
			e.Remove(record(k, id, false))
			edits++
		}
	}
	h := z.hosts[id]
	for k := range old {
		if !z.denied[k] && k.Type != typeUnhealthy && h != nil && !h.gone && h.names[k] {
			e.Add(record(k, id, h.down[k.Container]))
			edits++
		}
	}
	if edits > 0 {
		z.storeLocked(e.Done())
	}
}

// place is how far a host's log was read.
func (z *zone) place(id peer.ID) (p place) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if h := z.hosts[id]; h != nil {
		p = place{h.read, h.last.Epoch, h.last.Seq}
	}
	return p
}

type place struct {
	read       int
	epoch, seq uint64
}

// announcedName is a name and who has it.
type announcedName struct {
	nameKey
	Host      peer.ID
	Unhealthy bool
}

// all gives the names of all hosts, sorted by host and name.
func (z *zone) all() []announcedName {
	z.mu.Lock()
	defer z.mu.Unlock()
	var out []announcedName
	for id, h := range z.hosts {
		h.shown(func(k nameKey) { out = append(out, announcedName{k, id, h.down[k.Container]}) })
	}
	slices.SortFunc(out, func(a, b announcedName) int {
		if c := a.Host.Compare(b.Host); c != 0 {
			return c
		}
		return a.nameKey.compare(b.nameKey)
	})
	return out
}

// record is a name as the table has it.
func record(k nameKey, author peer.ID, down bool) dns.Record {
	r := dns.Record{Name: k.Name, Owner: k.Container, Host: author.String(), Down: down}
	switch k.Type {
	case typeAddr:
		r.Addr = k.Addr
	case typeSRV:
		r.Port, r.Target = k.Port, k.Data
	case typeTXT:
		r.Text = k.Data
	case typeCNAME:
		r.Target = k.Data
	}
	return r
}
