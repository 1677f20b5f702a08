package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// pulls draws all of a host's log, at once, and then says nothing more, again and again.
func (b *box) pulls(ctx context.Context, to *box, p purpose, at netip.Addr) {
	m, err := New(Options{
		Identity: b.id, Secret: b.w.secret, Store: newDisk(), Tunnel: b, Network: b.host,
		Endpoints: func() []netip.AddrPort { return nil }, Log: b.w.log,
	})
	if err != nil {
		b.w.t.Error(err)
		return
	}
	if err := m.openEpoch(); err != nil {
		b.w.t.Error(err)
		return
	}
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		l, err := m.open(ctx, p, to.id.ID(), netip.AddrPortFrom(at, DefaultPort))
		if err != nil {
			continue
		}
		_ = l.write(msgRoot, make([]byte, 32))
		t, _, err := l.read(1+maxRefusal, msgRoot, msgReady)
		if err == nil && t == msgRoot {
			_ = l.write(msgDigest, appendDigest(nil, nil))
			for t := msgDigest; err == nil && t != msgDone; {
				t, _, err = l.read(1+maxChunk, msgDigest, msgEntries, msgDone)
			}
			_ = l.s.SetDeadline(time.Time{})
			_, _ = l.s.ReadMsg(1 << 10) // until it is cut
		}
		l.close()
	}
}

// Two addresses with four identities each draw the log and then are silent: a newcomer waits.
func TestRoguesDrawAndAreSilent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.joinsOnly = true // a router makes no tunnel before a join has admitted it
		a := w.longLog(1 << 30)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i := range 2 {
			h := w.box(fmt.Sprint("rogue", i))
			for range servedEach {
				x := *h
				x.id = newIdentity(t)
				go x.pulls(ctx, a, purposeJoin, a.addr)
			}
		}
		time.Sleep(5 * time.Second)
		c := w.box("newcomer")
		c.launch(func(o *Options) { // it is behind a NAT: nobody can dial it
			o.Targets = []string{a.target()}
			o.Endpoints = func() []netip.AddrPort { return nil }
		})
		took := w.within(10*time.Second, "in", func() bool { return a.sees(c) == Alive && c.sees(a) == Alive && len(c.names(a)) == longNames })
		t.Logf("the newcomer is in after %v", took)
		silent := uint64(0)
		for _, o := range a.mesh.Rejections() {
			if o.Reason == reasonSilent && o.Peer != c.id.ID() {
				silent += o.Count
			}
		}
		if silent == 0 {
			t.Errorf("nobody is named: %v", a.mesh.Rejections())
		}
	})
}

// idles answers sessions at a port of its host as an identity, up to where logs are exchanged, and says nothing more.
func (b *box) idles(ctx context.Context, port uint16, to ...*box) {
	id := newIdentity(b.w.t)
	at := netip.AddrPortFrom(b.addr, port)
	m, err := New(Options{
		Identity: id, Secret: b.w.secret, Store: newDisk(), Tunnel: b, Network: b.host,
		Endpoints: func() []netip.AddrPort { return []netip.AddrPort{at} }, Log: b.w.log,
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	if err := m.openEpoch(); err != nil {
		b.w.t.Fatal(err)
	}
	ln, err := b.host.Listen(ctx, at)
	if err != nil {
		b.w.t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := Server(ctx, c, id, b.w.secret)
				if err != nil {
					return
				}
				l := &link{s: s, stop: func() bool { return true }}
				if m.answer(ctx, l) != nil {
					return
				}
				_ = s.SetDeadline(time.Time{})
				for {
					if _, err := s.ReadMsg(maxChunk); err != nil {
						return
					}
				}
			}()
		}
	}()
	for _, x := range to {
		x.hearsOf(id, 1, at)
	}
}

// Made-up hosts that take this host's own joins and say nothing do not delay the one that is lost.
func TestRoguesAnswerAndAreSilent(t *testing.T) {
	for _, c := range []struct{ made, hosts int }{{40, 1}, {80, 8}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.log = slog.New(slog.DiscardHandler)
				bs := w.meet(2)
				a, b := bs[0], bs[1]
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for i := range c.hosts {
					h := w.box(fmt.Sprint("rogue", i))
					for j := range c.made / c.hosts {
						h.idles(ctx, uint16(7000+j), a, b)
					}
				}
				w.cut(bs[:1], bs[1:])
				time.Sleep(60 * time.Second)
				var sum, worst time.Duration
				for range 5 {
					w.heal(bs[:1], bs[1:])
					took := w.within(2*time.Minute, "healed", func() bool { return a.sees(b) == Alive && b.sees(a) == Alive })
					sum, worst = sum+took, max(worst, took)
					w.cut(bs[:1], bs[1:])
					time.Sleep(61 * time.Second)
				}
				t.Logf("healed after %v, worst %v", sum/5, worst)
				if worst > healWithin {
					t.Errorf("worst %v", worst)
				}
			})
		})
	}
}

// Nor do made-up hosts that come ever anew, from a few addresses, even if the join of the one that is lost broke off before.
func TestFreshRoguesAnswerAndAreSilent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hosts, port := make([]*box, 16), uint16(7000)
		for i := range hosts {
			hosts[i] = w.box(fmt.Sprint("rogue", i))
		}
		moreFor := func(d time.Duration, until func() bool) (took time.Duration) {
			for ; took < d && !until(); took += time.Second {
				for range 10 {
					port++
					hosts[int(port)%len(hosts)].idles(ctx, port, a, b)
				}
				time.Sleep(time.Second)
			}
			return took
		}
		w.cut(bs[:1], bs[1:])
		moreFor(25*time.Second, func() bool { return false })
		for _, x := range bs {
			x.mesh.talks.mu.Lock()
			if n := x.mesh.talks.joins.n; n != joiners {
				t.Errorf("made-up hosts have %d of %d places", n, joiners)
			}
			for _, y := range bs {
				if x != y {
					x.mesh.talks.broke[y.id.ID()] = broken{n: 3, last: time.Now()}
				}
			}
			x.mesh.talks.mu.Unlock()
		}
		w.heal(bs[:1], bs[1:])
		if took := moreFor(2*healWithin, func() bool { return a.sees(b) == Alive && b.sees(a) == Alive }); took > healWithin {
			t.Errorf("not healed after %v", took)
		}
	})
}

// A host that has lost its disk is back soon, however often others have its former start asked for.
func TestChallengesAreNotUsedUp(t *testing.T) {
	for _, with := range []int{8} {
		t.Run(fmt.Sprint(with), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.log = slog.New(slog.DiscardHandler)
				bs := w.meet(2)
				a, b := bs[0], bs[1]
				w.within(10*time.Second, "one mesh", func() bool { return oneMesh(bs...) })
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				at := netip.AddrPortFrom(b.addr, 444)
				if with > 0 {
					for i := range with { // addresses
						r := w.box(fmt.Sprint("rogue", i))
						id := newIdentity(t)
						a.hearsOf(id, 1, at)
						go func() {
							d := newDisk()
							for ctx.Err() == nil {
								m, err := New(Options{Identity: id, Secret: w.secret, Store: d, Tunnel: r, Network: r.host,
									Endpoints: func() []netip.AddrPort { return []netip.AddrPort{at} }, Log: w.log})
								if err != nil {
									return
								}
								if m.openEpoch() != nil {
									return
								}
								go func() {
									if l, err := m.open(ctx, purposeJoin, a.id.ID(), netip.AddrPortFrom(a.addr, DefaultPort)); err == nil {
										l.close()
									}
								}()
								time.Sleep(100 * time.Millisecond)
							}
						}()
					}
					time.Sleep(10 * time.Second)
				}
				var all []time.Duration
				for range 2 {
					b.crash()
					time.Sleep(30 * time.Second)
					b.host.Up()
					w.joinsOnly = true
					b.disk = newDisk() // reinstalled, its identity kept
					w.mu.Lock()
					clear(b.peers)
					w.mu.Unlock()
					b.join(a)
					took := time.Duration(0)
					for ; took < time.Minute && !oneMesh(a, b); took += time.Second {
						time.Sleep(time.Second)
					}
					all = append(all, took)
				}
				t.Logf("back after %v", all)
				if slices.Max(all) > 20*time.Second {
					t.Errorf("back after %v", all)
				}
			})
		})
	}
}
