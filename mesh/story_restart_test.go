package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/simnet"
)

// A cloned image, with or without the state of the original, is refused by
// whomever it dials, and the original does not suffer.
func TestCloneRefused(t *testing.T) {
	for _, via := range []string{"the original", "another host", "a remembered host"} {
		t.Run(via, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b := w.box("host1"), w.box("host2")
				a.found()
				b.join(a)
				w.within(2*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
				a.append("web")
				time.Sleep(time.Second) // what others said is on the disk by now

				clone := w.boxAs("clone", b.id, w.secret)
				clone.host.RemoveAddr(clone.control()) // its tunnels lead nowhere yet
				b.host.AddAddr(b.control())
				clone.disk = b.disk.copy()
				clone.device = true
				target := a
				if via == "the original" {
					target = b
				}
				texts := []string{}
				if via == "a remembered host" {
					clone.join()
					w.within(2*time.Second, "refused", func() bool { return len(clone.mesh.State().Notices) > 0 })
				} else {
					clone.join(target)
					took := w.within(2*time.Second, "refused", func() bool { return clone.mesh.Targets()[0].Reason == Clone })
					t.Logf("refused after %v", took)
					texts = append(texts, clone.mesh.Targets()[0].Err)
				}
				texts = append(texts, strings.Join(clone.mesh.State().Notices, "\n"), strings.Join(target.mesh.State().Notices, "\n"))
				for _, text := range texts {
					if !strings.Contains(text, b.id.ID().String()) || !strings.Contains(text, "weft reset --force") {
						t.Errorf("unclear: %q", text)
					}
				}
				if clone.mesh.State().Copied == "" {
					t.Error("the clone does not know that it is one")
				}
				// A host that finds the clone refuses it, and is not told that it
				// were a clone itself.
				if err := a.mesh.Connect([]string{clone.target()}, false); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second)
				for _, healthy := range []*box{a, b} {
					if text := healthy.mesh.State().Copied; text != "" {
						t.Errorf("a healthy host is called a copy: %s", text)
					}
				}
				if h, _ := a.mesh.State().Host(b.id.ID()); h.Liveness != Alive || h.Record.BootNonce != b.mesh.nonce || len(b.names(a)) != 1 {
					t.Errorf("the original suffers: %v\n%s", h, w.picture())
				}
			})
		})
	}
}

// kill -9 and an immediate launch is a restart, not a clone, and nobody waits.
func TestKilledAndLaunchedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(5*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		b.append("web")
		b.base = func() []Draft { return []Draft{{KindName, []byte("web")}} }
		for range 3 {
			b.kill()
			b.launch() // no targets: it remembers
			took := w.within(time.Second, "back", func() bool { return oneMesh(a, b, c) })
			t.Logf("back after %v", took)
			if n := a.names(b); len(n) != 1 {
				t.Errorf("names of host2: %q", n)
			}
			if n := append(a.mesh.State().Notices, b.mesh.State().Notices...); len(n) > 0 {
				t.Errorf("notices %q", n)
			}
		}
		// The former starts die in gossip; the host does not flicker.
		for range 200 {
			time.Sleep(100 * time.Millisecond)
			if a.sees(b) != Alive || c.sees(b) != Alive {
				t.Fatalf("flickers\n%s", w.picture())
			}
		}
	})
}

func TestAllRestartAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(5*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		for _, x := range w.boxes {
			x.crash()
		}
		for _, x := range w.boxes {
			x.host.Up()
			x.launch()
		}
		took := w.within(5*time.Second, "three hosts again", func() bool { return oneMesh(a, b, c) })
		t.Logf("after %v", took)
		if a.mesh.State().Founding.Founder != a.id.ID() || c.mesh.State().Founding.Founder != a.id.ID() {
			t.Error("the founding is forgotten")
		}
	})
}

// Each has heard of the others that they stop.
func TestAllStopAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		gone := w.box("host4")
		gone.join(bs[0])
		w.within(5*time.Second, "four hosts", func() bool { return oneMesh(append(bs, gone)...) })
		w.depart(gone, false, bs...)
		var wg sync.WaitGroup
		for _, b := range bs {
			wg.Go(b.stop)
		}
		wg.Wait()
		for _, b := range bs {
			b.launch()
		}
		w.within(5*time.Second, "three hosts again", func() bool { return oneMesh(bs...) })
		// Who has departed does not come back, and is not looked for.
		for _, b := range bs {
			b.mesh.mu.Lock()
			if h := b.mesh.hosts[gone.id.ID()]; h != nil && !h.dialled.IsZero() {
				t.Errorf("%s dials who has departed", b.name)
			}
			b.mesh.mu.Unlock()
		}
	})
}

// Who has moved while another was stopped is not where that one looks for it.
func TestMovesWhileAnotherIsStopped(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		dials := countDials(a.host)
		a.found(func(o *Options) { o.Network = dials })
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		b.stop()
		time.Sleep(10 * time.Second)
		a.host.RemoveAddr(a.addr)
		a.addr = netip.MustParseAddr("192.168.48.99")
		a.host.AddAddr(a.addr)
		a.mesh.Refresh()
		before := dials.of(b.addr)
		time.Sleep(time.Hour)
		if n := dials.of(b.addr) - before; n < 55 || n > 61 {
			t.Errorf("who is stopped is dialled %d times in an hour", n)
		}
		b.launch()
		w.within(backoffMax+2*dialTick, "two hosts again", func() bool { return oneMesh(a, b) })
	})
}

func TestCrashAndStop(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(5*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })

		b.crash()
		took := w.within(16*time.Second, "failed", func() bool { return a.sees(b) == Failed && c.sees(b) == Failed })
		t.Logf("crash known after %v", took)
		if took < grace {
			t.Errorf("failed after %v, within the grace", took)
		}
		a.append("while away")
		b.host.Up()
		b.launch()
		took = w.within(2*time.Second, "alive again", func() bool { return oneMesh(a, b, c) })
		t.Logf("back after %v", took)
		if len(b.names(a)) != 1 {
			t.Error("missed what was written while it was away")
		}

		c.stop()
		took = w.within(500*time.Millisecond, "left", func() bool { return a.sees(c) == Left && b.sees(c) == Left })
		t.Logf("stop known after %v", took)
		time.Sleep(time.Minute)
		if a.sees(c) != Left || b.sees(c) != Left {
			t.Errorf("left does not stay\n%s", w.picture())
		}
		c.launch()
		took = w.within(2*time.Second, "alive again", func() bool { return oneMesh(a, b, c) })
		t.Logf("back after %v", took)
	})
}

// Traffic through the tunnel keeps a host alive whose router is gone.
func TestTunnelKeepsAlive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		b.kill() // the kernel still refuses connections through the tunnel
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if a.sees(b) != Alive {
				t.Fatalf("host2 is %v", a.sees(b))
			}
		}
		b.host.Crash()
		w.within(16*time.Second, "failed", func() bool { return a.sees(b) == Failed })
	})
}

func TestPartitionHeals(t *testing.T) {
	for _, long := range []time.Duration{20 * time.Second, time.Minute} {
		t.Run(long.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b, c, d := w.box("host1"), w.box("host2"), w.box("host3"), w.box("host4")
				a.found()
				b.join(a)
				c.join(b)
				d.join(b)
				w.within(10*time.Second, "four hosts", func() bool { return oneMesh(a, b, c, d) })
				partition(t, w, long, []*box{a, b}, []*box{c, d})
			})
		})
	}
	t.Run("for 15 minutes", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			a, b := w.box("host1"), w.box("host2")
			a.found()
			b.join(a)
			w.within(10*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
			b.mesh.Forget([]string{a.target()})
			partition(t, w, 15*time.Minute, []*box{a}, []*box{b})
		})
	})
}

func partition(t *testing.T, w *world, long time.Duration, left, right []*box) {
	t.Helper()
	a, z := left[0], right[0]
	w.cut(left, right)
	time.Sleep(long)
	if a.sees(z) != Failed || z.sees(a) != Failed {
		t.Errorf("the partition is not seen\n%s", w.picture())
	}
	a.append("left")
	z.append("right")
	w.heal(left, right)
	took := w.within(healWithin, "healed", func() bool { return oneMesh(append(left, right...)...) })
	t.Logf("healed after %v", took)
	for _, b := range w.boxes {
		if len(b.names(a)) != 1 || len(b.names(z)) != 1 {
			t.Errorf("names are missing\n%s", w.picture())
		}
	}
}

// Two hosts of one mesh that neither knows the other's address as target, and
// one whose address changes while it is away.
func TestAddressChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(5*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		moved := netip.MustParseAddr("192.168.48.99")
		b.host.RemoveAddr(b.addr)
		b.host.AddAddr(moved)
		b.addr = moved
		b.mesh.Refresh()
		w.within(time.Second, "the new endpoint everywhere", func() bool {
			for _, x := range []*box{a, c} {
				h, _ := x.mesh.State().Host(b.id.ID())
				if len(h.Record.Endpoints) != 1 || h.Record.Endpoints[0].Addr() != moved || h.Record.Serial != 2 {
					return false
				}
			}
			return oneMesh(a, b, c)
		})
		b.crash()
		b.host.Up()
		b.host.RemoveAddr(moved)
		b.addr = netip.MustParseAddr("192.168.48.98")
		b.host.AddAddr(b.addr)
		b.launch()
		took := w.within(2*probeTimeout, "back from elsewhere", func() bool { return oneMesh(a, b, c) })
		t.Logf("back after %v", took)
	})
}

// A host that has lost its disk, but not its identity, takes up its own past.
func TestOwnPast(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		if _, err := b.mesh.Append(Draft{KindGrant, []byte("a grant")}, Draft{KindName, []byte("a name")}, Draft{Kind(77), []byte("of a later release")}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.kill()
			b.launch()
			w.within(2*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		}
		b.crash()
		b.host.Up()
		b.disk = newDisk()
		b.base = func() []Draft { return []Draft{{KindName, []byte("a new name")}} }
		b.join(a)
		w.within(10*time.Second, "two hosts again", func() bool { return oneMesh(a, b) })
		w.within(5*time.Second, "its past", func() bool {
			var kinds []Kind
			for _, e := range a.mesh.State().Logs[b.id.ID()] {
				kinds = append(kinds, e.Kind)
			}
			return slices.Equal(kinds, []Kind{KindBegin, KindHost, KindGrant, Kind(77), KindName}) &&
				slices.Equal(a.names(b), []string{"a new name"}) && oneMesh(a, b)
		})
		if h, _ := a.mesh.State().Host(b.id.ID()); h.Record.Epoch != b.mesh.own.epoch {
			t.Error("its record was not taken")
		}
	})
}

// A host that has lost its disk and was started more often since than before has a
// higher epoch than the others know of it. It learns of its past all the same.
func TestOwnPastBelow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		if _, err := b.mesh.Append(Draft{KindGrant, []byte("a grant")}, Draft{KindName, []byte("a name")}); err != nil {
			t.Fatal(err)
		}
		w.within(time.Second, "both have it", func() bool { return oneMesh(a, b) })
		b.crash()
		b.host.Up()
		w.cut([]*box{a}, []*box{b})
		b.disk = newDisk()
		b.base = func() []Draft { return nil }
		for range 4 {
			b.join(a)
			time.Sleep(time.Second)
			b.kill()
		}
		b.join(a)
		w.heal([]*box{a}, []*box{b})
		had := func(x *box) bool {
			return slices.ContainsFunc(x.mesh.State().Logs[b.id.ID()], func(e Entry) bool { return e.Kind == KindGrant })
		}
		w.within(15*time.Second, "its past", func() bool { return had(a) && had(b) && oneMesh(a, b) })
		if n := append(a.names(b), b.names(b)...); len(n) > 0 {
			t.Errorf("names %q come back", n)
		}
	})
}

// A machine that is put back with its memory has no start, and writes on where it was:
// what it had written since is with the others only.
func TestMemoryPutBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		a, b := bs[0], bs[1]
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(bs...) })
		has := func(x *box, what string) bool {
			return slices.ContainsFunc(x.mesh.State().Logs[b.id.ID()], func(e Entry) bool { return string(e.Payload) == what })
		}
		for _, forked := range []bool{false, true} {
			was := fmt.Sprint("granted before, forked: ", forked)
			b.mesh.mu.Lock()
			cur := b.mesh.logs.authors[b.id.ID()].current
			lost, err := SignEntry(b.id, w.secret.MeshID(), Entry{Epoch: cur.number, Seq: uint64(len(cur.entries) + 1), Kind: KindGrant, Payload: []byte(was)})
			b.mesh.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			mended := fmt.Sprint("granted since, forked: ", forked)
			if forked { // it writes before it hears
				w.cut(bs[:1], bs[1:])
			}
			a.mesh.receive(b.control(), AppendEntries([]byte{gossipMagic, gossipRelay}, lost))
			if forked {
				if _, err := b.mesh.Append(Draft{KindGrant, []byte(mended)}); err != nil {
					t.Fatal(err)
				}
				w.heal(bs[:1], bs[1:])
			} else {
				w.within(10*time.Second, "its past", func() bool { return has(b, was) })
				es, err := b.mesh.Append(Draft{KindGrant, []byte(mended)})
				if err != nil || es[0].Epoch == lost.Epoch {
					t.Fatalf("it writes on in its old epoch: %v", err)
				}
			}
			w.within(20*time.Second, "all of it everywhere", func() bool {
				for _, x := range bs {
					if !has(x, was) || !has(x, mended) {
						return false
					}
				}
				return oneMesh(bs...)
			})
			if ns := strings.Join(b.mesh.State().Notices, "\n"); !strings.Contains(ns, "put back") {
				t.Errorf("its operator reads %q", ns)
			}
			ns := strings.Join(a.mesh.State().Notices, "\n")
			if named := strings.Contains(ns, "a restart of weft there is enough"); named != forked || !forked && len(a.mesh.Rejections()) > 0 {
				t.Errorf("forked %v: the others read %q, rejections %v", forked, ns, a.mesh.Rejections())
			}
		}
	})
}

// Between hearing of it and its new epoch a host writes nothing under numbers that are taken.
func TestAppendWaitsForThePast(t *testing.T) {
	m := quietMesh(t, NewSecret())
	es, err := m.Append(Draft{KindName, []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	var lost []Entry
	for i := range uint64(2) {
		e, err := SignEntry(m.o.Identity, m.mesh, Entry{Epoch: es[0].Epoch, Seq: es[0].Seq + 1 + i, Kind: KindGrant, Payload: fmt.Appendf(nil, "grant %d", i)})
		if err != nil {
			t.Fatal(err)
		}
		lost = append(lost, e)
	}
	for _, e := range []Entry{lost[1], lost[0], lost[0]} { // the first one beyond a gap
		if _, err := m.take([]Entry{e}, newIdentity(t).ID(), false); err != nil {
			t.Fatal(err)
		}
	}
	more, err := m.Append(Draft{KindName, []byte("two")})
	if err != nil || more[0].Epoch <= es[0].Epoch {
		t.Fatalf("%v, %v", more, err)
	}
	var said []string
	for _, e := range m.State().Logs[m.id] {
		if e.Kind > KindHost {
			said = append(said, string(e.Payload))
		}
	}
	slices.Sort(said)
	if want := []string{"grant 0", "grant 1", "one", "two"}; !slices.Equal(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
}

// With a lossy network everything still gets everywhere, and nobody is taken for dead.
func TestLoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.SetDefault(simnet.Link{Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.2})
		var bs []*box
		for i := range 5 {
			bs = append(bs, w.box(fmt.Sprintf("host%d", i+1)))
			if i == 0 {
				bs[0].found()
			} else {
				bs[i].join(bs[i-1])
			}
		}
		w.within(20*time.Second, "five hosts", func() bool { return oneMesh(bs...) })
		var worst time.Duration
		for i := range 10 {
			x := bs[i%len(bs)]
			x.append(fmt.Sprint("name", i))
			worst = max(worst, w.within(15*time.Second, "equal logs", func() bool { return oneMesh(bs...) }))
		}
		t.Logf("everywhere after %v at worst", worst)
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			if !oneMesh(bs...) {
				t.Fatalf("a false failure\n%s", w.picture())
			}
		}
	})
}

// Without discovery a host dials its targets only.
func TestNoDiscovery(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(5*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		b.crash()
		a.crash()
		b.host.Up()
		b.launch(func(o *Options) { o.Discovery = false })
		time.Sleep(30 * time.Second) // host3 dials it, or tells it its root
		if b.mesh.Counters()["redial_failed"] != 0 || b.sees(c) != Alive {
			t.Errorf("dials on its own\n%s", w.picture())
		}
	})
}
