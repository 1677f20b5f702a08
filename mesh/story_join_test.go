package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
)

func TestThreeHostsJoin(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		w.within(2*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		c.join(b) // not with the founder
		took := w.within(4*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		t.Logf("third host everywhere after %v", took)
		if f := c.mesh.State().Founding; f.Founder != a.id.ID() {
			t.Errorf("host3 learnt founding %v", f)
		}
		if ts := c.mesh.Targets(); len(ts) != 1 || ts[0].State != stateEstablished || ts[0].Peer != b.id.ID() || ts[0].Err != "" {
			t.Errorf("targets of host3: %+v", ts)
		}
		a.append("web")
		took = w.within(barWrite50, "the name everywhere", func() bool {
			return len(b.names(a)) == 1 && len(c.names(a)) == 1
		})
		t.Logf("name everywhere after %v", took)
		out, err := c.mesh.Call(t.Context(), a.id.ID(), "say", []byte("hello"))
		if err != nil || !strings.HasPrefix(string(out), "hello to host1 from "+c.id.ID().String()) {
			t.Errorf("call: %q, %v", out, err)
		}
		if _, err := c.mesh.Call(t.Context(), a.id.ID(), "fail", nil); err == nil || err.Error() != "no such thing" {
			t.Errorf("failing call: %v", err)
		}
	})
}

// A target that comes up later, a host with no founding known, and several
// targets end as one mesh.
func TestTargetsThatComeLater(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c, d := w.box("host1"), w.box("host2"), w.box("host3"), w.box("host4")
		b.join(a)
		c.join(a, b)
		d.join(a, c)
		w.within(5*time.Second, "the unfounded three", func() bool { return oneMesh(b, c, d) })
		if !b.mesh.State().Founding.IsZero() {
			t.Error("a launch with peers founded a mesh")
		}
		if got := b.mesh.State().Waiting; len(got) != 1 || got[0] != a.target() {
			t.Errorf("host2 waits for %q", got)
		}
		ts := b.mesh.Targets()
		if ts[0].State != stateRetrying && ts[0].State != stateConnecting || ts[0].Reason != Unreachable || !strings.Contains(ts[0].Err, "nothing listens there") {
			t.Errorf("target that is not up: %+v", ts[0])
		}
		time.Sleep(3 * time.Minute) // the back-off is at its cap by now
		a.found()
		took := w.within(backoffMax+5*time.Second, "one mesh", func() bool { return oneMesh(a, b, c, d) })
		t.Logf("after %v", took)
		w.within(time.Second, "the founding known", func() bool {
			for _, x := range w.boxes {
				if x.mesh.State().Founding.Founder != a.id.ID() || len(x.mesh.State().Waiting) != 0 {
					return false
				}
			}
			return true
		})
	})
}

func TestUnreachableTarget(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		w.cut([]*box{a}, []*box{b})
		b.join(a)
		w.within(10*time.Second, "a clear error", func() bool {
			ts := b.mesh.Targets()
			return ts[0].Reason == Unreachable && strings.Contains(ts[0].Err, "no answer")
		})
		w.heal([]*box{a}, []*box{b})
		w.within(20*time.Second, "one mesh", func() bool { return oneMesh(a, b) })
		if err := b.mesh.Connect([]string{"no.such.host:1"}, true); err != nil {
			t.Fatal(err)
		}
		w.within(time.Second, "the error of a name", func() bool {
			ts := b.mesh.Targets()
			return len(ts) == 1 && strings.Contains(ts[0].Err, "no such host")
		})
		if err := b.mesh.Forget([]string{"no.such.host:1"}); err != nil || len(b.mesh.Targets()) != 0 {
			t.Errorf("forget: %v, targets %v", err, b.mesh.Targets())
		}
		if err := b.mesh.Forget([]string{"no.such.host:1"}); err == nil {
			t.Error("forget of what is no target succeeds")
		}
		if !oneMesh(a, b) {
			t.Error("established connections did not stay")
		}
	})
}

// dialCounter counts the dials to each endpoint.
type dialCounter struct {
	Network

	mu sync.Mutex // guards n
	n  map[netip.AddrPort]int
}

func countDials(n Network) *dialCounter {
	return &dialCounter{Network: n, n: make(map[netip.AddrPort]int)}
}

func (d *dialCounter) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	d.n[to]++
	d.mu.Unlock()
	return d.Network.Dial(ctx, to)
}

// of counts those to all ports of an address.
func (d *dialCounter) of(a netip.Addr) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for to, k := range d.n {
		if to.Addr() == a {
			n += k
		}
	}
	return n
}

func (d *dialCounter) at(to netip.AddrPort) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n[to]
}

// A host is dialled as often as any, however many addresses it has, and whether they
// are silent or accept and say nothing.
func TestManySilentEndpoints(t *testing.T) {
	for name, accepts := range map[string]bool{"silent": false, "accept": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a := w.box("host1")
				dials := countDials(a.host)
				a.found(func(o *Options) { o.Network = dials })
				var bs []*box
				for i := range maxEndpoints {
					b := w.box(fmt.Sprint("dead", i))
					if bs = append(bs, b); accepts {
						b.listen()
					} else {
						b.host.Crash()
					}
				}
				last := bs[maxEndpoints-1]
				a.knows(last, bs[:maxEndpoints-1]...)
				time.Sleep(61 * time.Second)
				for _, b := range bs {
					if n := dials.of(b.addr); n < 12 {
						t.Errorf("%s was dialled %d times in a minute", b.name, n)
					}
				}
			})
		})
	}
}

// Up to 256 known hosts that do not answer leave each other alone: each one's join port is tried every 5 s,
// for the first minutes also of hosts that were never met.
func TestDeadHostsDoNotDelayEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.box("host1")
		dials := countDials(a.host)
		a.found(func(o *Options) { o.Network = dials })
		var dead []netip.Addr
		for i := range 100 {
			x := w.box(fmt.Sprintf("dead%d", i))
			x.host.Crash() // its address swallows what is sent to it
			a.knows(x)
			dead = append(dead, x.addr)
		}
		time.Sleep(61 * time.Second)
		for i, addr := range dead {
			if n := dials.of(addr); n < 11 {
				t.Fatalf("dead%d was dialled %d times in a minute", i, n)
			}
		}
	})
}

// What accepts connections and says nothing, as a paused router does, does not
// keep a host from one that answers.
func TestSilentHostsDoNotDelayOthers(t *testing.T) {
	for _, n := range []int{20, 100, dialers + 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b := w.box("host1"), w.box("host2")
				b.join()
				a.found()
				for i := range n {
					x := w.box(fmt.Sprintf("silent%d", i))
					x.listen()
					a.knows(x)
				}
				time.Sleep(20 * time.Second)
				if err := a.mesh.Connect([]string{b.target()}, false); err != nil {
					t.Fatal(err)
				}
				took := w.within(2*time.Second, "the host that answers", func() bool { return a.sees(b) == Alive })
				t.Logf("met after %v", took)
			})
		})
	}
}

// A host is met although somebody else answers at the addresses that it names first:
// this host itself, another member, or what is no router.
func TestOthersAnswerAtItsAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, member, silent := w.box("host1"), w.box("host2"), w.box("silent")
		silent.listen()
		a.found()
		member.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, member) })
		joins := a.mesh.Counters()["joins"] + a.mesh.Counters()["joins_served"]
		all := []*box{a, member}
		for _, first := range []*box{a, member, silent} {
			x := w.box("behind-" + first.name)
			x.join() // it knows nobody
			a.knows(x, first)
			all = append(all, x)
		}
		took := w.within(redialEvery+2*time.Second, "all of them", func() bool { return oneMesh(all...) })
		t.Logf("met after %v", took)
		if c := a.mesh.Counters(); c["joins"]+c["joins_served"]-joins > 2*uint64(len(all)) {
			t.Errorf("it has joined the wrong ones: %v", c)
		}
	})
}

// namedNetwork resolves one name.
type namedNetwork struct {
	Network
	name string
	at   []netip.Addr
}

func (n *namedNetwork) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if host == n.name {
		return n.at, nil
	}
	return n.Network.Resolve(ctx, host)
}

// A target's name may lead to what is no weft, to this host itself, and then to a host.
func TestTargetOfSeveralAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, other := w.box("host1"), w.box("host2"), w.box("other")
		ln := other.listen()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 1)) // closed sooner, it would only look like a connection that broke
				_, _ = c.Write([]byte("220 mail.example ESMTP ready, and more than a handshake is long\r\n"))
				_ = c.Close()
			}
		}()
		dns := &namedNetwork{Network: a.host, name: "weft.example", at: []netip.Addr{other.addr, a.addr}}
		a.found(func(o *Options) { o.Network, o.Targets = dns, []string{"weft.example"} })
		b.join()
		w.within(5*time.Second, "a clear reason", func() bool { return a.mesh.Targets()[0].Reason == NotWeft })
		dns.at = append(dns.at, b.addr)
		if err := a.mesh.Connect([]string{"weft.example"}, true); err != nil {
			t.Fatal(err)
		}
		w.within(5*time.Second, "one mesh", func() bool { return oneMesh(a, b) })
		if x := a.mesh.Targets()[0]; x.State != stateEstablished || x.Peer != b.id.ID() {
			t.Errorf("the target: %+v", x)
		}
	})
}

// A host whose join port answers and whose tunnel does not work is dialled as often as
// any, and takes nobody's turn meanwhile.
func TestJoinPortWithoutTunnel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.join() // it knows nobody
		w.net.SetGate(func(src, dst netip.Addr) bool { return !src.Is6() || src == dst })
		a.knows(b)
		served := func() uint64 { return b.mesh.Counters()["joins_served"] }
		w.within(10*time.Second, "a join without a tunnel", func() bool { return served() > 0 })
		time.Sleep(time.Second)
		if now, waiting := a.mesh.talks.count(); now+waiting > 0 {
			t.Error("a join that waits for its tunnel has a turn")
		}
		before := served()
		if time.Sleep(time.Minute); served()-before < 10 {
			t.Errorf("%d joins in a minute", served()-before)
		}
		w.net.SetGate(w.gate)
		w.within(redialEvery+2*time.Second, "one mesh", func() bool { return oneMesh(a, b) })
	})
}

// A member whose gossip port accepts and says nothing, as that of a stopped process does,
// holds up neither a try nor the stop of the router.
func TestSilentGossipPort(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, silent := w.box("host1"), w.box("silent")
		a.found()
		w.mu.Lock()
		silent.device = true
		w.mu.Unlock()
		a.tunnelTo(silent.id.ID())
		silent.tunnelTo(a.id.ID())
		ln, err := silent.host.Listen(t.Context(), netip.AddrPortFrom(silent.control(), DefaultGossipPort))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		w.within(5*time.Second, "gossip", func() bool { return a.mesh.gossip.Load() != nil })
		ctx, cancel := context.WithTimeout(t.Context(), insideTry)
		defer cancel()
		start := time.Now()
		if err := a.mesh.joinGossip(ctx, silent.id.ID()); err == nil || time.Since(start) > insideTry+100*time.Millisecond {
			t.Errorf("a try of %v ends after %v: %v", insideTry, time.Since(start), err)
		}
		over := make(chan error, 1)
		go func() { over <- a.mesh.joinGossip(t.Context(), silent.id.ID()) }()
		time.Sleep(time.Second)
		start = time.Now()
		a.quit()
		if err := <-over; err == nil || time.Since(start) > time.Second {
			t.Errorf("a try ends %v after the stop: %v", time.Since(start), err)
		}
	})
}

func TestSelfAsTarget(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.box("host1")
		a.found(func(o *Options) { o.Targets = []string{a.target()} })
		w.within(2*time.Second, "itself", func() bool { return a.mesh.Targets()[0].State == stateSelf })
		if s := a.mesh.State(); len(s.Notices) != 0 || len(s.Hosts) != 1 || a.mesh.Targets()[0].Err != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestWrongSecretOnBothSides(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.boxAs("host2", newIdentity(t), NewSecret())
		a.found()
		b.join(a)
		w.within(2*time.Second, "refused on both sides", func() bool {
			return b.mesh.Targets()[0].Reason == WrongSecret && a.mesh.Counters()["join_refused_wrong_secret"] > 0
		})
		if got := b.mesh.Targets()[0].Err; got != "handshake: wrong secret" {
			t.Errorf("the newcomer shows %q", got)
		}
		for _, x := range w.boxes {
			n := x.mesh.State().Notices
			if len(n) != 1 || !strings.Contains(n[0], "wrong secret") {
				t.Errorf("%s: notices %q", x.name, n)
			}
			if len(x.mesh.State().Hosts) != 1 {
				t.Errorf("%s took the other for a host", x.name)
			}
		}
	})
}

func TestOtherRangeRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.launch(func(o *Options) { o.Targets, o.WantRange = []string{a.target()}, pfx("10.40.0.0/16") })
		w.within(2*time.Second, "refused on both sides", func() bool {
			return b.mesh.Targets()[0].Reason == OtherRange && a.mesh.Counters()["join_refused_other_range"] > 0
		})
		for _, x := range w.boxes {
			n := x.mesh.State().Notices
			if len(n) != 1 || !strings.Contains(n[0], "10.40.0.0/16") || !strings.Contains(n[0], "10.32.0.0/12") {
				t.Errorf("%s: notices %q", x.name, n)
			}
		}
	})
}

func TestMeshesFoundedApart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		c, d := w.box("host3"), w.box("host4")
		a.found()
		b.join(a)
		c.found(func(o *Options) { o.Targets = []string{b.target()} })
		d.join(c)
		w.within(5*time.Second, "refused on both sides", func() bool {
			return c.mesh.Targets()[0].Reason == OtherMesh && b.mesh.Counters()["join_refused_other_mesh"] > 0
		})
		w.within(5*time.Second, "two meshes", func() bool { return oneMesh(a, b) && oneMesh(c, d) })
		for _, x := range []*box{b, c} {
			n := strings.Join(x.mesh.State().Notices, "\n")
			for _, want := range []string{a.id.ID().String() + "(host1)", c.id.ID().String() + "(host3)", "weft reset"} {
				if !strings.Contains(n, want) {
					t.Errorf("%s: %q lacks %q", x.name, n, want)
				}
			}
		}
		if !strings.Contains(c.mesh.Targets()[0].Err, "weft reset") {
			t.Errorf("target: %q", c.mesh.Targets()[0].Err)
		}
	})
}

// A host whose address changes in the middle of an exchange has another one at once: neither
// side waits until the first, which nobody will ever answer, has been silent for long enough.
func TestMovesInAnExchange(t *testing.T) {
	for _, who := range []string{"the host that has begun it", "the host that serves it", "the host that serves it and opens an epoch"} {
		for _, lower := range []bool{true, false} { // of the IDs, that of the host that has begun it
			t.Run(fmt.Sprintf("%s, lower %v", who, lower), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					bs := w.meet(2)
					a, b := bs[0], bs[1]
					if (b.id.ID().Compare(a.id.ID()) < 0) != lower {
						a, b = b, a
					}
					w.net.SetDefault(simnet.Link{Delay: 20 * time.Millisecond})
					b.kill()
					b.join(a)
					w.within(5*time.Second, "an exchange", func() bool { return b.mesh.talks.with(a.id.ID()) && a.mesh.talks.with(b.id.ID()) })
					m := a
					if who == "the host that has begun it" {
						m = b
					}
					old := m.addr
					m.host.RemoveAddr(old)
					w.mu.Lock()
					m.addr = netip.MustParseAddr("192.168.48.99")
					w.mu.Unlock()
					m.host.AddAddr(m.addr)
					if strings.Contains(who, "epoch") { // its record has the new address, whoever looks
						poke(m.mesh.reroll)
						synctest.Wait()
					}
					m.mesh.Refresh()
					m.append("moved")
					if _, err := m.mesh.appendLocking([]Draft{{KindName, []byte("told to nobody")}}, nil, true); err != nil {
						t.Fatal(err)
					}
					other := a
					if m == a {
						other = b
					}
					w.within(linkPatience/2, "the same logs", func() bool { return len(other.names(m)) == 2 && oneMesh(a, b) })
				})
			})
		}
	}
}

// Who opens session upon session as ever another start of a host has others dialled at that
// host's addresses, which its record made up, once in a while only.
func TestChallengesAreHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a, r := bs[0], newRogue(t, w, bs[0])
		id, at := newIdentity(t), netip.MustParseAddrPort("192.168.48.77:443")
		a.hearsOf(id, 1, at)
		tries := uint64(0)
		for range 100 {
			m, err := New(Options{
				Identity: id, Secret: w.secret, Store: newDisk(), Tunnel: r.box, Network: r.host,
				Endpoints: func() []netip.AddrPort { return []netip.AddrPort{at} }, Log: w.log,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
			go func() {
				if l, err := m.open(t.Context(), purposeJoin, a.id.ID(), netip.AddrPortFrom(a.addr, DefaultPort)); err == nil {
					l.close()
				}
			}()
			tries++
			time.Sleep(200 * time.Millisecond)
		}
		if held := a.mesh.Counters()["clone_check_held_back"]; held < tries/3 {
			t.Errorf("%d of %d challenges are held back", held, tries)
		}
	})
}
