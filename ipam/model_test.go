package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

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
			w.members[len(w.members)-1].observer = w.next > 1 && rapid.IntRange(0, 2).Draw(t, "observer") == 0
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
					if one, ok := o.led.Ring().Single(d, s); ok && answered {
						s = one
					}
					w.give(giver, o, s, answered)
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
			// It leaves the council, gives what it has to a host in reach, which takes it or does not, and departs.
			"reset": func(t *rapid.T) {
				o, to := pick("host"), pick("to")
				heir := func(k Takeover) bool { return k.To == o.id && o.led.Pending(k) }
				if !o.up || !o.proven || o == to || !w.connected(o, to) || !to.proven || len(w.members) > 9 || slices.ContainsFunc(o.led.Takeovers(), heir) {
					return
				}
				for _, a := range o.al.All() {
					o.al.Free(w.now, a.Container, a.Addr.Addr())
				}
				o.disk.saved = o.al.All()
				o.leaving = true
				talk(t)
				if slices.ContainsFunc(o.led.Takeovers(), heir) {
					o.leaving = false
					return
				}
				for _, g := range o.led.HandOver(to.id) {
					w.write(o, Fact{By: o.id, Kind: FactGrant, Grant: g})
				}
				if rapid.Bool().Draw(t, "answered") {
					w.sync(o, to)
					w.tick(to, false, false)
				}
				log := o.disk.logs[o.id]
				log.departed = true
				o.disk.logs[o.id] = log
				w.sync(o, to)
				for _, m := range w.members {
					if m != o && w.connected(o, m) && rapid.IntRange(0, 4).Draw(t, "hears of it") > 0 {
						w.sync(o, m)
					}
				}
				o.up, o.replaced, o.leaving, o.old = false, true, false, nil
			},
			"say": func(t *rapid.T) { w.tick(pick("host"), rapid.Bool().Draw(t, "start"), rapid.Bool().Draw(t, "wanted")) },
			// One log, some way, to one host: late, or not to the end.
			"deliver": func(t *rapid.T) {
				from, to := pick("from"), pick("to")
				if log := from.disk.logs[from.id]; w.connected(from, to) && from.proven && from != to && len(log.facts) > 0 {
					all := len(log.facts)
					log.facts = log.facts[:rapid.IntRange(max(1, log.snapshot), len(log.facts)).Draw(t, "entries")]
					log.departed = log.departed && len(log.facts) == all
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
				w.give(d, e, w.whole, rapid.Bool().Draw(t, "answered"))
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
			// One host alone takes another that lives for dead; or does not notice for long that one is.
			"loses sight": func(t *rapid.T) {
				m, x := pick("host"), pick("of")
				if m != x && !slices.ContainsFunc(w.members, func(o *member) bool { return o.deaf[x.id] }) {
					m.deaf = map[Owner]bool{x.id: true}
					m.take = Value{Op: OpTake, Hosts: []Owner{x.id, m.id}}
				}
			},
			"is launched otherwise": func(t *rapid.T) { m := pick("host"); m.observer = !m.observer },
			"sees again":            func(t *rapid.T) { m := pick("host"); m.deaf = nil },
			"notices nothing": func(t *rapid.T) {
				m, x := pick("host"), pick("of")
				m.unaware = map[Owner]bool{x.id: true}
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
				if m.up || m.replaced || len(w.members) > 9 {
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
				if !m.up || !m.proven || d.up || m == d {
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

// first is a host whose word counts.
func (w *world) first() *member {
	for _, m := range w.members {
		if m.up && m.proven {
			return m
		}
	}
	return w.members[0]
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
		m.deaf, m.unaware = nil, nil
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
		if first := w.first(); m.proven && !slices.Equal(m.led.Ring().Parts(), first.led.Ring().Parts()) {
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
	first := w.first()
	if !first.led.Ring().Seeded() || alive <= len(first.led.Electors())/2 {
		return // too many disks were lost for a majority: that takes --force
	}
	settle(1)
	for _, m := range w.members { // what somebody would have decided is, soon
		if m.up && m.proven && m.led.Wishes(w.env(m)) {
			at := m.led.Instance()
			settle(0)
			settle(1)
			if m.led.Instance() == at && m.led.Wishes(w.env(m)) {
				t.Fatalf("%s wishes %+v in %d, and nothing is decided; electors %v", letter(m.id), m.led.wish(w.env(m)), at, m.led.Electors())
			}
		}
	}
	for _, a := range addrs(w.whole) {
		if !free[a] {
			t.Fatalf("nobody can give out %v; owner %s, takeovers %v, electors %v", a, letter(first.led.Ring().Owner(a)), first.led.Takeovers(), first.led.Electors())
		}
	}
	w.gather(t, rapid.SampledFrom(w.members).Draw(t, "who takes all"))
}

// gather has one host take all that nobody uses, as containers that wait there do.
func (w *world) gather(t *rapid.T, o *member) {
	if !o.up || !o.proven {
		return
	}
	given := func(d Owner) bool {
		s := w.whole
		if one, ok := o.led.Ring().Single(d, s); ok {
			s = one
		}
		return w.give(w.member(d), o, s, true)
	}
	for more := true; more; more = slices.ContainsFunc(o.led.Ring().Donors(o.id, w.whole), given) {
		for {
			w.next++
			if _, _, err := o.al.Allocate(fmt.Sprint("c", w.next), w.whole); err != nil {
				break
			}
		}
		w.check()
	}
	for _, m := range w.members {
		if !m.up || !m.proven {
			continue
		}
		for _, p := range m.led.Usable() {
			for _, a := range addrs(p) {
				if !reserved(a, w.whole) && !m.al.Used(netip.PrefixFrom(a, a.BitLen())) {
					t.Fatalf("%v is free on %s, and %s does not get it", a, letter(m.id), letter(o.id))
				}
			}
		}
	}
}
