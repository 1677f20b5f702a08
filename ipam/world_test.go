package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// hostLog is a host's log. A new epoch begins with a snapshot that leaves out what a base covers.
type hostLog struct {
	epoch    int
	snapshot int // so many facts come together
	facts    []Fact
	departed bool // it ends with a departure
}

func (l hostLog) newer(o hostLog) bool {
	return l.epoch > o.epoch || l.epoch == o.epoch && (len(l.facts) > len(o.facts) || len(l.facts) == len(o.facts) && l.departed && !o.departed)
}

// disk is what a host has on disk: logs as far as it knows them, its own included, and what its containers have.
type disk struct {
	logs  map[Owner]hostLog
	saved []Allocation
}

func (d disk) clone() disk { return disk{maps.Clone(d.logs), slices.Clone(d.saved)} }

// member is a model of a host.
type member struct {
	id       Owner
	disk     disk
	old      []disk // what a backup may hold
	up       bool
	proven   bool // its state is the latest, as far as anybody in reach knows
	side     int  // of the partition
	replaced bool // its disk is lost, or it has departed; it never comes back
	leaving  bool
	observer bool
	deaf     map[Owner]bool // these, which live, are dead to it
	unaware  map[Owner]bool // if these die, it does not notice
	wasDown  bool           // once, or was not proven
	take     Value
	al       *Allocator
	led      *Ledger
}

// world is some members and a network.
type world struct {
	whole   netip.Prefix
	members []*member
	now     time.Time
	next    int // to name containers and hosts
	failed  func(string, ...any)
}

func (w *world) member(id Owner) *member {
	return w.members[slices.IndexFunc(w.members, func(m *member) bool { return m.id == id })]
}

// give says whether the host that asks takes something; answered is whether it hears of what it is given.
func (w *world) give(giver, o *member, s netip.Prefix, answered bool) (given bool) {
	if !w.connected(o, giver) || !giver.proven || !o.proven {
		return false
	}
	for _, g := range giver.led.Donate(o.id, giver.al.Used, s) {
		w.write(giver, Fact{By: giver.id, Kind: FactGrant, Grant: g})
		if answered && o.led.MayAccept(g) {
			w.write(o, Fact{By: o.id, Kind: FactAccept, Grant: g})
			given = true
		}
	}
	return given
}

func (w *world) connected(a, b *member) bool { return a.up && b.up && a.side == b.side }

func (w *world) refold(m *member) {
	var facts []Fact
	for _, log := range m.disk.logs {
		facts = append(facts, log.facts...)
	}
	m.led = NewLedger(m.id, w.members[0].id, w.whole, facts)
	if len(m.led.Conflicts()) > 0 {
		w.failed("honest hosts have a conflict: %v", m.led.Conflicts())
	}
	m.al.SetSpace(m.led.Ring(), m.led.Usable())
}

// write makes facts durable.
func (w *world) write(m *member, fs ...Fact) {
	log := m.disk.logs[m.id]
	log.facts = slices.Clip(log.facts)
	for _, f := range fs {
		b, err := f.AppendBinary(nil)
		if err != nil {
			w.failed("%v", err)
		}
		g, err := ParseFact(f.By, b)
		if err != nil {
			w.failed("%+v came back as %+v: %v", f, g, err)
		}
		log.facts = append(log.facts, g)
	}
	m.disk.logs[m.id] = log
	w.refold(m)
}

// learn takes another's copy of one log, if that is newer. A host's own past comes back to it so.
func (w *world) learn(m *member, author Owner, log hostLog) {
	if log.newer(m.disk.logs[author]) {
		log.facts = slices.Clip(log.facts)
		m.disk.logs[author] = log
	}
}

// sync makes two hosts hold the same logs.
func (w *world) sync(a, b *member) {
	for _, x := range w.members {
		w.learn(a, x.id, b.disk.logs[x.id])
		w.learn(b, x.id, a.disk.logs[x.id])
	}
	for _, m := range []*member{a, b} {
		w.refold(m)
	}
	if a.proven || b.proven || !slices.ContainsFunc(w.members, func(m *member) bool { return m.proven }) {
		for _, m := range []*member{a, b} {
			if !m.proven && w.knownBest(m) {
				m.proven = true
				w.come(m)
			}
		}
	}
}

// prune has a host open an epoch without what the base covers.
func (w *world) prune(m *member) {
	if !m.up || !m.proven || m.led.Base() == nil {
		return
	}
	old := m.disk.logs[m.id]
	next := hostLog{epoch: old.epoch + 1}
	for _, f := range old.facts {
		if !m.led.Obsolete(f) {
			next.facts = append(next.facts, f)
		}
	}
	var known []Fact
	for _, x := range w.members {
		known = append(known, m.disk.logs[x.id].facts...)
	}
	has := func(f Fact) bool {
		return slices.ContainsFunc(next.facts, func(o Fact) bool { return reflect.DeepEqual(o, f) })
	}
	for _, f := range known {
		if m.led.Needs(f) && !has(f) {
			next.facts = append(next.facts, f)
		}
	}
	next.snapshot = len(next.facts)
	m.disk.logs[m.id] = next
	before := show(m.led.Ring())
	instance := m.led.Base().Instance
	w.refold(m)
	if after := show(m.led.Ring()); after != before {
		w.failed("%s has made its log shorter and sees\n%s, before\n%s", letter(m.id), after, before)
	}
	// Whoever comes anew, and hears of this one alone, knows of the base.
	if n := NewLedger(m.id, w.members[0].id, w.whole, next.facts); n.Base() == nil || n.Base().Instance != instance {
		w.failed("%s's log alone does not tell of the base", letter(m.id))
	}
}

// spread makes m know all, and all know what m knows: also who is switched off then, and no backup is older.
func (w *world) spread(m *member) {
	for _, x := range w.members {
		w.learn(m, x.id, w.best(x.id))
	}
	w.refold(m)
	for _, o := range w.members {
		if o == m || o.replaced {
			continue
		}
		for _, x := range w.members {
			w.learn(o, x.id, m.disk.logs[x.id])
		}
		o.old = nil
		w.refold(o)
	}
	m.old = nil
}

// knowsSpaceOf says that m sees as everybody would what a host has, and that nobody was to take that over.
func (w *world) knowsSpaceOf(m, of *member) bool {
	var facts []Fact
	for _, x := range w.members {
		facts = append(facts, w.best(x.id).facts...)
	}
	all := NewLedger(m.id, w.members[0].id, w.whole, facts)
	mine := func(l *Ledger) []Part {
		return slices.DeleteFunc(l.Ring().Parts(), func(p Part) bool { return p.Owner != of.id })
	}
	known := !w.best(of.id).newer(m.disk.logs[of.id])
	return known && slices.Equal(mine(all), mine(m.led)) && !slices.ContainsFunc(all.takeovers, func(t Takeover) bool { return t.From == of.id || t.To == of.id })
}

// knownBest says that nobody knows more of m's past than m: that there is a host in reach which does is what promise 1 needs.
// Whoever has accepted something of m's knows that much.
func (w *world) knownBest(m *member) bool {
	return !slices.ContainsFunc(w.members, func(o *member) bool {
		heard := m.disk.logs[o.id].facts
		return o.disk.logs[m.id].newer(m.disk.logs[m.id]) || slices.ContainsFunc(o.disk.logs[o.id].facts, func(f Fact) bool {
			known := func(h Fact) bool { return h.Kind == FactAccept && h.Grant == f.Grant }
			return f.Kind == FactAccept && f.Grant.From == m.id && !f.Grant.Takeover() && !m.led.Obsolete(f) && !slices.ContainsFunc(heard, known)
		})
	})
}

// come gives the containers of a host that came back what they had, but for what is another's now.
func (w *world) come(m *member) {
	for _, a := range m.al.Stray() {
		m.al.Free(w.now, a.Container, a.Addr.Addr())
	}
	m.al.Suspend(false)
	m.disk.saved = m.al.All()
}

// boot starts a host from its disk.
func (w *world) boot(m *member) {
	m.up, m.take, m.leaving = true, Value{}, false
	m.al = NewAllocator(m.id, w.whole, netip.Prefix{})
	if errs := m.al.Restore(m.disk.saved); errs != nil {
		w.failed("restore: %v", errs)
	}
	m.al.Suspend(!m.proven)
	w.refold(m)
}

func (w *world) env(m *member) Env {
	e := Env{
		Alive: func(o Owner) bool {
			return o == m.id || w.connected(m, w.member(o)) && w.member(o).proven && !m.deaf[o]
		},
		// The operator's word, and a minute: who is called dead is; or one host is wrong, which then is not the only one to decide.
		Dead: func(o Owner) bool {
			x := w.member(o)
			return (!x.up || !x.proven) && !m.unaware[o] || m.deaf[o] && len(m.led.Electors()) > 1
		},
		Gone:     func(o Owner) bool { return m.disk.logs[o].departed },
		Leaving:  m.leaving,
		Observer: m.observer,
		Take:     m.take,
		BaseAt:   4,
	}
	for _, x := range w.members {
		if !e.Gone(x.id) {
			e.Hosts = append(e.Hosts, x.id)
		}
	}
	return e
}

// tick lets a host say what it has to say.
func (w *world) tick(m *member, start, wanted bool) {
	if !m.up || !m.proven {
		return
	}
	for _, g := range m.led.Waiting() {
		w.write(m, Fact{By: m.id, Kind: FactAccept, Grant: g})
	}
	e := w.env(m)
	e.Start, e.Wanted = start, wanted
	if _, named := m.led.Beginning(); named {
		e.Seeds = []Owner{w.members[0].id, w.members[1].id}
	}
	if fs := m.led.Next(e); len(fs) > 0 {
		w.write(m, fs...)
	}
	if m.take.Op != 0 && (!e.Dead(m.take.Hosts[0]) || !m.led.Mortal(m.take.Hosts[0])) { // it lives, or is taken over
		m.take = Value{}
	}
}

// check is the promise, after every step.
func (w *world) check() {
	for _, m := range w.members {
		m.wasDown = m.wasDown || !m.up || !m.proven
		for _, t := range m.led.Takeovers() {
			if x := w.member(t.From); !t.Forced && x.up && x.proven && !x.wasDown {
				w.failed("%s, which was never down, was taken over by %s", letter(t.From), letter(t.To))
			}
		}
	}
	holders, users := map[netip.Addr]string{}, map[netip.Addr]string{}
	for _, m := range w.members {
		if !m.up || !m.proven {
			continue // its containers wait
		}
		for _, p := range m.led.Usable() {
			for _, a := range addrs(p) {
				if other, twice := users[a]; twice {
					w.failed("%v may be used by %s and by %s", a, other, letter(m.id))
				}
				users[a] = letter(m.id)
			}
		}
		stray := m.al.Stray()
		for _, al := range m.al.All() {
			if slices.Contains(stray, al) {
				if _, lost := m.led.Lost(); !lost {
					w.failed("%v of %s is %s's, and %s was never taken over", al.Addr, letter(m.id), letter(m.led.Ring().Owner(al.Addr.Addr())), letter(m.id))
				}
				continue // cut off
			}
			if other, twice := holders[al.Addr.Addr()]; twice {
				w.failed("%v is both %s's and %s's", al.Addr, other, letter(m.id))
			}
			holders[al.Addr.Addr()] = letter(m.id)
			if m.led.Ring().Owner(al.Addr.Addr()).IsZero() {
				w.failed("%v is held and nobody's", al.Addr)
			}
		}
	}
}

// dump is what every host has written.
func (w *world) dump() string {
	s := ""
	for _, m := range w.members {
		s += fmt.Sprintf("%s up %v proven %v usable %v waiting %v\n", letter(m.id), m.up, m.proven, m.led.Usable(), m.led.Waiting())
		for i, f := range w.best(m.id).facts {
			s += fmt.Sprintf("  %d kind %d", i, f.Kind)
			switch f.Kind {
			case FactGrant, FactAccept:
				s += fmt.Sprintf(" %v v%d %s->%s", f.Grant.Prefix, f.Grant.Version, letter(f.Grant.From), letter(f.Grant.To))
			case FactSeen, FactTook:
				s += fmt.Sprint(" ", f.Count)
			case FactBase:
				s += fmt.Sprintf(" %x %d of %d", f.Chunk.Of[:3], f.Chunk.Index, f.Chunk.Count)
			case FactForce:
				s += fmt.Sprintf(" #%d %s", f.Vote.Instance, letter(f.Vote.Value.Hosts[0]))
			case FactVote:
				s += fmt.Sprintf(" #%d promised %d%s accepted %d%s op %d", f.Vote.Instance, f.Vote.Promised.Round, letter(f.Vote.Promised.By), f.Vote.Accepted.Round, letter(f.Vote.Accepted.By), f.Vote.Value.Op)
				for _, h := range f.Vote.Value.Hosts {
					s += letter(h)
				}
			}
			s += "\n"
		}
	}
	return s
}

// best is the newest copy of a log.
func (w *world) best(id Owner) (log hostLog) {
	for _, m := range w.members {
		if l := m.disk.logs[id]; l.newer(log) {
			log = l
		}
	}
	return log
}
