package mesh

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/peer"
)

// How long hosts may need, after the network is whole again, to find each other and
// agree. Hosts that know each other's addresses have healWithin; where the operator has
// to connect them, or one waits (see sim.waits; a target that was never met is tried once
// a minute), meetWithin. That a host is gone is known within goneWithin: longer than in the
// bench, where one crashes at a time. Who is left alone by several probes more slowly,
// since its own link may be what is bad.
const (
	healWithin = 10 * time.Second
	meetWithin = 75 * time.Second
	goneWithin = 45 * time.Second
)

// check is what holds at any time: nobody holds an entry that its author has not
// written, and of no entry are there two.
func (s *sim) check() {
	s.t.Helper()
	for _, h := range s.hosts {
		if !h.up {
			continue
		}
		for _, e := range h.held() {
			k := logKey(e)
			old, known := s.seen[k]
			switch {
			case !known:
				s.seen[k] = string(e.raw)
			case old != string(e.raw):
				s.fail("two entries %d/%x of %v: %s has %q, somebody else %q", e.Seq, e.Epoch, e.Author, h.name, e.Payload, old)
			default:
				continue
			}
			author, name := s.named(e)
			if author == nil {
				s.fail("%s holds an entry of nobody: %+v", h.name, e)
			}
			if err := e.Verify(author.Public(), s.secret.MeshID()); err != nil {
				s.fail("%s holds a forged entry: %v", h.name, err)
			}
			if (e.Kind == KindName || e.Kind == KindGrant) && (!s.wrote[string(e.Payload)] || !strings.HasPrefix(strings.Trim(string(e.Payload), "+-"), name+"/")) {
				s.fail("%s holds %q in the log of %s, which has not written it", h.name, e.Payload, name)
			}
		}
	}
}

// held are all entries in a host's memory, of epochs that do not count too.
func (b *box) held() (es []Entry) {
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	for _, a := range b.mesh.logs.authors {
		if a.current != nil {
			es = append(es, a.current.entries...)
		}
		for _, ep := range append(slices.Clone(a.next), a.older) {
			if ep != nil {
				es = append(es, ep.entries...)
			}
		}
	}
	return es
}

// named returns who has signed, or should have, an entry: a host, or one that was made up.
func (s *sim) named(e Entry) (id *peer.Identity, name string) {
	for _, h := range s.hosts {
		if h.id.ID() == e.Author {
			return h.id, h.name
		}
	}
	for _, id := range s.made {
		if id.ID() == e.Author {
			return id, madeUp
		}
	}
	return nil, ""
}

// grantsHeld are the grants that are somewhere: in the memory of a host that runs, or
// on the disk of one that could run again.
func (s *sim) grantsHeld(down bool) map[string]bool {
	held := make(map[string]bool)
	for _, h := range s.hosts {
		var es []Entry
		switch {
		case h.up:
			es = h.held()
		case down && !h.gone:
			es = h.disk.entries()
		}
		for _, e := range es {
			if e.Kind == KindGrant {
				held[string(e.Payload)] = true
			}
		}
	}
	return held
}

// mayLose does what empties memories or disks. Only then may a grant be lost.
func (s *sim) mayLose(what func()) {
	s.t.Helper()
	s.checkGrants()
	what()
	held := s.grantsHeld(true)
	for p, g := range s.grants {
		g.lost = g.lost || !held[p]
	}
}

func (s *sim) checkGrants() {
	s.t.Helper()
	held := s.grantsHeld(true)
	for p, g := range s.grants {
		if !g.lost && !g.by.gone && !held[p] {
			s.fail("the grant %s is nowhere any more", p)
		}
	}
}

// heal mends the network, waits until the hosts that are up agree, and returns how
// long that took.
func (s *sim) heal() time.Duration {
	s.t.Helper()
	s.whole()
	s.checkGrants()
	if s.some(isUp) == nil {
		a := s.some(isDown)
		if a == nil {
			return 0 // all were reset
		}
		a.host.Up()
		a.disk.refuse(nil)
		a.join()
		a.up = true
		s.tell("%s: comes back, as the only one", a.name)
	}
	time.Sleep(max(10*time.Millisecond, time.Until(s.paused))) // a host that stands still is not mended
	limit := healWithin
	if s.introduce() || s.waits() {
		limit = meetWithin
	}
	start := time.Now()
	took := time.Duration(0)
	for apart, gone := s.differ(), s.ghost(); apart+gone != ""; apart, gone = s.differ(), s.ghost() {
		now := time.Since(start)
		if apart != "" && now > limit || gone != "" && now > goneWithin {
			s.fail("%v after the network is whole: %s %s", now, apart, gone)
		}
		time.Sleep(100 * time.Millisecond)
		if apart != "" {
			took = time.Since(start)
		}
	}
	s.tell("agreed after %v", took)
	s.check()
	s.checkGrants()
	time.Sleep(15 * time.Second) // memberlist's suspicions would be over
	if why := s.differ() + s.ghost(); why != "" {
		s.fail("had agreed, and then: %s", why)
	}
	return took
}

// differ says what is wrong with what the hosts that are up see; empty: nothing.
func (s *sim) differ() string {
	var up []*actor
	for _, h := range s.hosts {
		if h.up {
			up = append(up, h)
		}
	}
	held := s.grantsHeld(false)
	for _, a := range up {
		st := a.mesh.State()
		for _, b := range up {
			if a.sees(b.box) != Alive {
				return fmt.Sprintf("%s does not see %s", a.name, b.name)
			}
			b.mu.Lock()
			want := slices.Sorted(maps.Keys(b.names))
			b.mu.Unlock()
			if got := fold(st.Logs[b.id.ID()]); !slices.Equal(got, want) {
				return fmt.Sprintf("%s holds the names %q of %s, which has %q", a.name, got, b.name, want)
			}
		}
		for p, g := range s.grants {
			if g.lost || !g.by.up || !held[p] {
				continue
			}
			if !slices.ContainsFunc(st.Logs[g.by.id.ID()], func(e Entry) bool { return e.Kind == KindGrant && string(e.Payload) == p }) {
				return fmt.Sprintf("%s lacks the grant %s", a.name, p)
			}
		}
		if a.root() != up[0].root() {
			return fmt.Sprintf("the digests of %s and %s differ", a.name, up[0].name)
		}
	}
	return ""
}

// ghost says who is seen alive and is not; empty: nobody. A killed router's device still
// answers, and counts as alive.
func (s *sim) ghost() string {
	for _, a := range s.hosts {
		for _, b := range s.hosts {
			if a.up && !b.up && !b.device && a.sees(b.box) == Alive {
				return fmt.Sprintf("%s sees %s alive", a.name, b.name)
			}
		}
	}
	return ""
}

// waits tells that a host that is up waits for a target that it has never met, or, with a
// disk from before it met the others, for them to notice that it was away; or that hosts
// meet only since one dials another that it has heard stop, which it does every minute.
func (s *sim) waits() bool {
	if s.groups((*actor).leadsSoonTo).number() > 1 {
		return true
	}
	return slices.ContainsFunc(s.hosts, func(a *actor) bool {
		if !a.up {
			return false
		}
		leads := func(b *actor) bool { return b.up && b != a && a.leadsTo(b) }
		return slices.ContainsFunc(a.mesh.Targets(), func(t Target) bool { return t.Peer.IsZero() && t.State != stateSelf }) ||
			!slices.ContainsFunc(s.hosts, leads)
	})
}

// fold is what a log says is registered: the last word on each name counts.
func fold(es []Entry) []string {
	names := make(map[string]bool)
	for _, e := range es {
		if e.Kind == KindName {
			names[string(e.Payload[1:])] = e.Payload[0] == '+'
		}
	}
	maps.DeleteFunc(names, func(_ string, up bool) bool { return !up })
	return slices.Sorted(maps.Keys(names))
}

// groups are the hosts that are up, each with one that stands for all that lead to it.
type groups map[*actor]*actor

func (s *sim) groups(leads func(a, b *actor) bool) groups {
	g := groups{}
	for _, h := range s.hosts {
		if h.up {
			g[h] = h
		}
	}
	for a := range g {
		for b := range g {
			if a != b && leads(a, b) {
				g.join(a, b)
			}
		}
	}
	return g
}

func (g groups) join(a, b *actor) {
	from, to := g[b], g[a]
	for x, by := range g {
		if by == from {
			g[x] = to
		}
	}
}

func (g groups) number() int {
	return len(slices.Compact(slices.SortedFunc(maps.Values(g), func(a, b *actor) int { return strings.Compare(a.name, b.name) })))
}

// introduce is the operator's part, and needed only where nothing leads from one
// host to another: all that either knows of the other is an address that it had
// before it moved, or a disk was lost. `weft connect` then, once. It tells whether it
// was.
func (s *sim) introduce() (needed bool) {
	g := s.groups((*actor).leadsTo)
	var first *actor
	for _, a := range s.hosts {
		switch {
		case !a.up:
		case first == nil:
			first = a
		case g[a] != g[first]:
			s.connects++
			needed = true
			s.tell("the operator connects %s to %s", a.name, first.name)
			if err := a.mesh.Connect([]string{first.target()}, false); err != nil {
				s.fail("connect: %v", err)
			}
			g.join(first, a)
		}
	}
	return needed
}

// leadsTo tells that a will dial b at an address that b has.
func (a *actor) leadsTo(b *actor) bool { return a.leadsSoonTo(b) || a.knows(b, true) }

// leadsSoonTo tells that it does so within seconds.
func (a *actor) leadsSoonTo(b *actor) bool {
	at := netip.AddrPortFrom(b.addr, DefaultPort)
	return slices.ContainsFunc(a.mesh.Targets(), func(t Target) bool { return t.Addr == at.String() }) || a.knows(b, false)
}

// knows tells that a has an address of b, which has not departed, and stopped if that
// may be.
func (a *actor) knows(b *actor, stopped bool) bool {
	a.mesh.mu.Lock()
	defer a.mesh.mu.Unlock()
	h := a.mesh.hosts[b.id.ID()]
	return h != nil && slices.Contains(h.rec.Endpoints, netip.AddrPortFrom(b.addr, DefaultPort)) &&
		(!h.left || (stopped || h.past) && !a.mesh.departedLocked(b.id.ID()))
}

// refuse makes every write fail with err; nil: no more.
func (d *disk) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// entries are those of the log bucket.
func (d *disk) entries() (es []Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, raw := range d.buckets[bucketLog] {
		if e, err := ParseEntry(bytes.Clone(raw)); err == nil {
			es = append(es, e)
		}
	}
	return es
}
