package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// hostLog is a host's log. A new epoch begins with a snapshot that leaves out what a base covers.
type hostLog struct {
	epoch    int
	snapshot int // so many facts come together
	facts    []Fact
}

func (l hostLog) newer(o hostLog) bool {
	return l.epoch > o.epoch || l.epoch == o.epoch && len(l.facts) > len(o.facts)
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
	replaced bool // its disk is lost; it never comes back
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
		return o.disk.logs[m.id].newer(m.disk.logs[m.id]) || slices.ContainsFunc(o.disk.logs[o.id].facts, func(f Fact) bool {
			given := func(g Fact) bool { return g.Kind == FactGrant && g.Grant == f.Grant }
			return f.Kind == FactAccept && f.Grant.From == m.id && !f.Grant.Takeover() && !m.led.Obsolete(f) && !slices.ContainsFunc(m.disk.logs[m.id].facts, given)
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
	m.up, m.take = true, Value{}
	m.al = NewAllocator(m.id, w.whole, netip.Prefix{})
	if errs := m.al.Restore(m.disk.saved); errs != nil {
		w.failed("restore: %v", errs)
	}
	m.al.Suspend(!m.proven)
	w.refold(m)
}

func (w *world) env(m *member) Env {
	e := Env{
		Alive: func(o Owner) bool { return o == m.id || w.connected(m, w.member(o)) && w.member(o).proven },
		// The operator's word, and a minute: who is called dead is.
		Dead:   func(o Owner) bool { x := w.member(o); return !x.up || !x.proven },
		Gone:   func(Owner) bool { return false },
		Take:   m.take,
		BaseAt: 4,
	}
	for _, x := range w.members {
		e.Hosts = append(e.Hosts, x.id)
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

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{whole: pfx("10.0.0.0/27"), now: start}
		w.failed = func(format string, args ...any) { t.Fatalf(format+"\n%s", append(args, w.dump())...) }
		if rapid.Bool().Draw(t, "IPv6") {
			w.whole = pfx("fd00::/123")
		}
		n := rapid.IntRange(3, 7).Draw(t, "hosts")
		for range n {
			w.next++
			w.members = append(w.members, &member{id: host(w.next), proven: true, disk: disk{logs: map[Owner]hostLog{}}})
		}
		for _, m := range w.members {
			w.boot(m)
		}
		founder := w.members[0]
		switch rapid.IntRange(0, 2).Draw(t, "beginning") {
		case 0:
			w.write(founder, Fact{By: founder.id, Kind: FactGrant, Grant: Seed(w.whole, founder.id)})
		case 1:
			w.write(founder, Fact{By: founder.id, Kind: FactInit, First: uint8(rapid.IntRange(1, n).Draw(t, "first"))})
		case 2:
			w.write(founder, Fact{By: founder.id, Kind: FactInit, First: 2, Named: true})
		}
		pick := func(name string) *member { return rapid.SampledFrom(w.members).Draw(t, name) }
		subnet := func() netip.Prefix {
			return rapid.SampledFrom([]netip.Prefix{{}, netip.PrefixFrom(w.whole.Addr(), w.whole.Bits()+1), netip.PrefixFrom(lastAddr(w.whole), w.whole.Bits()+2).Masked()}).Draw(t, "subnet")
		}
		talk := func(t *rapid.T) { // as seconds without a fault bring about, in which some hear little
			for range rapid.IntRange(1, 4).Draw(t, "rounds") {
				for _, a := range w.members {
					w.tick(a, rapid.IntRange(0, 2).Draw(t, "start") > 0, true)
					w.check()
					for _, b := range w.members {
						if a != b && w.connected(a, b) && rapid.IntRange(0, 9).Draw(t, "hears") > 0 {
							w.sync(a, b)
						}
					}
				}
			}
		}
		give := func(giver, o *member, s netip.Prefix, answered bool) {
			if !w.connected(o, giver) || !giver.proven || !o.proven {
				return
			}
			for _, g := range giver.led.Donate(o.id, giver.al.Used, s) {
				w.write(giver, Fact{By: giver.id, Kind: FactGrant, Grant: g})
				if answered && o.led.MayAccept(g) {
					w.write(o, Fact{By: o.id, Kind: FactAccept, Grant: g})
				}
			}
		}
		ask := func(t *rapid.T, o *member, s netip.Prefix, answered bool) {
			if !o.up || !o.proven {
				return
			}
			if !s.IsValid() {
				s = w.whole
			}
			for _, d := range o.led.Ring().Asked(o.id, s, func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "chance") }) {
				giver := w.member(d)
				if w.connected(o, giver) && giver.proven {
					give(giver, o, s, answered)
					return
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				o, s := pick("host"), subnet()
				if !o.up {
					return
				}
				w.next++
				if _, _, err := o.al.Allocate(fmt.Sprint("c", w.next), s); err == nil {
					o.disk.saved = o.al.All()
				}
			},
			"claim": func(t *rapid.T) {
				o, a := pick("host"), rapid.SampledFrom(addrs(w.whole)).Draw(t, "address")
				if !o.up {
					return
				}
				w.next++
				if _, _, err := o.al.Claim(fmt.Sprint("c", w.next), netip.PrefixFrom(a, w.whole.Bits())); err == nil {
					o.disk.saved = o.al.All()
				}
			},
			"free": func(t *rapid.T) {
				o := pick("host")
				if all := o.al.All(); o.up && len(all) > 0 {
					a := rapid.SampledFrom(all).Draw(t, "allocation")
					o.al.Free(w.now, a.Container, a.Addr.Addr())
					o.disk.saved = o.al.All()
				}
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
				for _, o := range w.members {
					o.al.Expire(w.now)
				}
			},
			"ask": func(t *rapid.T) {
				ask(t, pick("host"), subnet(), rapid.Bool().Draw(t, "answered"))
			},
			"hand over": func(t *rapid.T) {
				o, to := pick("host"), pick("to")
				if !o.up || !o.proven || o == to || to.replaced || len(o.al.All()) > 0 || o.al.Used(w.whole) {
					return
				}
				for _, g := range o.led.HandOver(to.id) {
					w.write(o, Fact{By: o.id, Kind: FactGrant, Grant: g})
				}
			},
			"say": func(t *rapid.T) { w.tick(pick("host"), rapid.Bool().Draw(t, "start"), rapid.Bool().Draw(t, "wanted")) },
			// One log, some way, to one host: late, or not to the end.
			"deliver": func(t *rapid.T) {
				from, to := pick("from"), pick("to")
				if log := from.disk.logs[from.id]; w.connected(from, to) && from.proven && from != to && len(log.facts) > 0 {
					log.facts = log.facts[:rapid.IntRange(max(1, log.snapshot), len(log.facts)).Draw(t, "entries")]
					w.learn(to, from.id, log)
					w.refold(to)
				}
			},
			"sync": func(t *rapid.T) {
				if a, b := pick("one"), pick("other"); a != b && w.connected(a, b) {
					w.sync(a, b)
				}
			},
			"everybody says and hears": talk,
			// What a takeover must survive: the host that dies has just given space to one that few, or none, hear of.
			"gives, dies, is taken over": func(t *rapid.T) {
				d, e := pick("dead host"), pick("who asked it")
				if !d.up || !d.proven || d == e {
					return
				}
				if rapid.Bool().Draw(t, "partition") {
					for _, m := range w.members {
						m.side = rapid.IntRange(0, 1).Draw(t, "side")
					}
					e.side = d.side
				}
				give(d, e, w.whole, rapid.Bool().Draw(t, "answered"))
				if rapid.Bool().Draw(t, "heard") && w.connected(d, e) {
					w.sync(d, e)
				}
				if rapid.Bool().Draw(t, "the other dies, too") {
					e.up = false
				}
				d.up = false
				for range rapid.IntRange(1, 2).Draw(t, "operators") {
					if m := pick("operator's host"); m.up && m.proven {
						m.take = Value{Op: OpTake, Hosts: []Owner{rapid.SampledFrom([]Owner{d.id, d.id, e.id}).Draw(t, "of"), m.id}}
						if m.take.Hosts[0] == m.id || !w.env(m).Dead(m.take.Hosts[0]) {
							m.take = Value{}
						}
					}
					talk(t)
				}
				if rapid.Bool().Draw(t, "heal") {
					for _, m := range w.members {
						m.side = 0
					}
				}
				if rapid.Bool().Draw(t, "it boots") {
					d.proven = false
					w.boot(d)
				}
				talk(t)
			},
			"prune": func(t *rapid.T) { w.prune(pick("host")) },
			"partition": func(t *rapid.T) {
				for _, m := range w.members {
					m.side = rapid.IntRange(0, 1).Draw(t, "side")
				}
			},
			"heal": func(*rapid.T) {
				for _, m := range w.members {
					m.side = 0
				}
			},
			"backup": func(t *rapid.T) { m := pick("host"); m.old = append(m.old, m.disk.clone()) },
			"router restarts": func(t *rapid.T) {
				if m := pick("host"); m.up {
					w.boot(m)
				}
			},
			"host dies": func(t *rapid.T) {
				m := pick("host")
				m.up = false
			},
			"host boots": func(t *rapid.T) {
				m := pick("host")
				if m.up || m.replaced {
					return
				}
				if len(m.old) > 0 && rapid.Bool().Draw(t, "from a backup") {
					m.disk = rapid.SampledFrom(m.old).Draw(t, "backup").clone()
				}
				m.proven = false
				w.boot(m)
			},
			"disk is lost": func(t *rapid.T) { // it comes back as somebody else
				m := pick("host")
				if m.up || m.replaced || m == founder || len(w.members) > 9 {
					return
				}
				m.replaced, m.disk = true, disk{logs: map[Owner]hostLog{}}
				w.next++
				x := &member{id: host(w.next), proven: true, disk: disk{logs: map[Owner]hostLog{}}}
				w.members = append(w.members, x)
				w.boot(x)
			},
			"rmpeer": func(t *rapid.T) {
				m, d := pick("operator's host"), pick("dead host")
				if m.up && m.proven && m != d && w.env(m).Dead(d.id) {
					m.take = Value{Op: OpTake, Hosts: []Owner{d.id, m.id}}
				}
			},
			// The dead host never comes back, and the operator's host knows what that has given to whom: that is the operator's word. Of what
			// is decided meanwhile about others it may have heard nothing.
			"rmpeer --force": func(t *rapid.T) {
				m, d := pick("operator's host"), pick("dead host")
				if !m.up || !m.proven || d.up || d == founder || m == d {
					return
				}
				cutOff := rapid.Bool().Draw(t, "cut off") && w.knowsSpaceOf(m, d)
				if !cutOff {
					w.spread(m)
				}
				if !m.led.Ring().Seeded() || !m.led.Mortal(d.id) {
					return
				}
				for _, x := range w.members {
					x.disk.logs[d.id], x.old = m.disk.logs[d.id], nil
				}
				d.replaced, d.disk = true, disk{logs: map[Owner]hostLog{}}
				w.write(m, m.led.Force(d.id))
				for range 2 { // it knows, and takes
					w.tick(m, false, false)
				}
				if !cutOff {
					w.spread(m)
				}
				w.check()
			},
			"": func(*rapid.T) { w.check() },
		})
		w.end(t)
	})
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

// end heals everything: all agree, and every address can be given out again.
func (w *world) end(t *rapid.T) {
	settle := func(starter int) {
		for round := range 12 {
			for i, a := range w.members {
				w.tick(a, (round+i)%3 == starter%3 || a.take.Op != 0, true)
				for _, b := range w.members {
					if a != b && w.connected(a, b) {
						w.sync(a, b)
					}
				}
				w.check()
			}
		}
	}
	for _, m := range w.members {
		m.side, m.take = 0, Value{}
		if !m.up && !m.replaced {
			m.proven = false
			w.boot(m)
		}
	}
	settle(0)
	settle(1)
	defer func() {
		if t.Failed() {
			t.Log(w.dump())
		}
	}()
	// Those whose disk is lost are removed, by two operators at once, who ask hosts that may propose it.
	for range 2 {
		for _, d := range w.members {
			if !d.replaced {
				continue
			}
			operators := 0
			for _, m := range w.members {
				if m.up && m.proven && operators < 2 && slices.Contains(m.led.Electors(), m.id) {
					m.take = Value{Op: OpTake, Hosts: []Owner{d.id, m.id}}
					operators++
				}
			}
			settle(0)
			settle(1)
		}
	}
	for _, m := range w.members {
		w.prune(m)
	}
	settle(0)
	free := map[netip.Addr]bool{}
	for _, m := range w.members {
		if !m.up {
			continue
		}
		if first := w.members[0]; m.proven && !slices.Equal(m.led.Ring().Parts(), first.led.Ring().Parts()) {
			t.Fatalf("%s sees\n%s, the first\n%s", letter(m.id), show(m.led.Ring()), show(first.led.Ring()))
		}
		for _, p := range m.led.Usable() {
			for _, a := range addrs(p) {
				free[a] = true
			}
		}
	}
	alive := 0
	for _, m := range w.members {
		alive += int(boolByte(m.up && m.proven && slices.Contains(m.led.Electors(), m.id)))
	}
	first := w.members[0]
	if !first.led.Ring().Seeded() || alive <= len(first.led.Electors())/2 {
		return // too many disks were lost for a majority: that takes --force
	}
	for _, a := range addrs(w.whole) {
		if !free[a] {
			t.Fatalf("nobody can give out %v; owner %s, takeovers %v, electors %v", a, letter(first.led.Ring().Owner(a)), first.led.Takeovers(), first.led.Electors())
		}
	}
}
