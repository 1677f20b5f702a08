package mesh

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/peer"
)

func TestDialBook(t *testing.T) {
	ports := func(addr string, from, n int) (out []netip.AddrPort) {
		for i := range n {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(from+i)))
		}
		return out
	}
	b, start := newDialBook(), time.Now()
	free := func(what string, es []netip.AddrPort, most int, want ...netip.AddrPort) {
		t.Helper()
		if got := b.free(es, most); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near, far := ports("192.0.2.1", 1, 3), ports("192.0.2.2", 1, 1)
	all := append(slices.Clone(near), far...)
	free("nothing was dialled", all, 3, all...)
	free("so many of an address", all, 2, near[0], near[1], far[0])
	b.note(near[:2], start)
	free("not again", all, 3, near[2], far[0])
	free("others count", all, 2, far[0])
	b.note(near[1:2], start.Add(time.Second))
	b.forget(start.Add(redialEvery))
	free("after a while", all, 3, near[0], near[2], far[0])
	free("what is left counts", all, 2, near[0], far[0])
	b.forget(start.Add(time.Second + redialEvery))
	if len(b.at)+len(b.ports) > 0 {
		t.Errorf("it keeps %v and %v", b.at, b.ports)
	}
}

func TestUntilRedial(t *testing.T) {
	for _, c := range []struct {
		dialled time.Duration
		met     bool
		want    time.Duration
	}{
		{0, false, redialEvery},
		{5 * time.Minute, false, redialEvery},
		{30 * time.Minute, false, 30 * time.Second},
		{time.Hour, false, backoffMax},
		{1000 * time.Hour, false, backoffMax},
		{1000 * time.Hour, true, redialEvery},
	} {
		if got := untilRedial(c.dialled, c.met); got != c.want {
			t.Errorf("dialled for %v, met %v: %v, want %v", c.dialled, c.met, got, c.want)
		}
	}
}

// A member that makes up hosts at a third party's address has nobody dial that without
// end, and takes nothing from a host that was met, also where it names its address.
func TestThirdPartyIsNotDialled(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, gone, third, alone := w.box("host1"), w.box("host2"), w.box("third"), w.box("alone")
		dials := countDials(a.host)
		a.found(func(o *Options) { o.Network = dials })
		gone.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, gone) })
		gone.crash()
		third.host.Crash()
		alone.host.Crash()
		for i := range 100 {
			for _, at := range []netip.Addr{third.addr, gone.addr} {
				var es []netip.AddrPort
				for j := range maxEndpoints {
					es = append(es, netip.AddrPortFrom(at, uint16(10000+maxEndpoints*i+j)))
				}
				a.hearsOf(newIdentity(t), 1, es...)
			}
		}
		a.knows(alone)
		w.within(16*time.Second, "failed", func() bool { return a.sees(gone) == Failed })
		minute := func(count func() int) int {
			before := count()
			time.Sleep(time.Minute)
			return count() - before
		}
		to := func(x *box) func() int { return func() int { return dials.of(x.addr) } }
		joinPort := func() int { return dials.at(netip.AddrPortFrom(gone.addr, DefaultPort)) }
		const windows = int(time.Minute/redialEvery) + 1
		if n := minute(to(third)); n == 0 || n > windows*dialsStranger {
			t.Errorf("an address that 100 made-up hosts name was dialled %d times in a minute", n)
		}
		if n := minute(joinPort); n < windows-2 {
			t.Errorf("the join port of a host that was met, whose address 100 others name, was dialled %d times in a minute", n)
		}
		if a.mesh.Counters()["redial_held_back"] == 0 {
			t.Error("what is held back is not counted")
		}
		time.Sleep(time.Hour)
		if n := minute(joinPort); n < windows-2 {
			t.Errorf("the join port of a host that was met was dialled %d times in a minute, after an hour", n)
		}
		if n := minute(to(alone)); n == 0 || n > 2 {
			t.Errorf("a host that was never met was dialled %d times in a minute, after an hour", n)
		}

		// Their own port is what the member wants to be crowded out. It comes back.
		gone.host.Up()
		gone.disk = newDisk() // it does not know where to dial
		gone.launch()
		took := w.within(healWithin, "two hosts again", func() bool { return a.sees(gone) == Alive && gone.sees(a) == Alive })
		t.Logf("met again after %v", took)
	})
}

// Hosts that were met are dialled every 5 s also where many are behind one address.
func TestHostsBehindOneAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, nat := w.box("host1"), w.box("nat")
		dials := countDials(a.host)
		a.found(func(o *Options) { o.Network = dials })
		nat.host.Crash()
		var all []*box
		for i := range 20 {
			x := w.box(fmt.Sprintf("inside%d", i))
			x.join(a)
			all = append(all, x)
		}
		w.within(10*time.Second, "one mesh", func() bool { return oneMesh(append(all, a)...) })
		var ports []netip.AddrPort
		for i, x := range all {
			ports = append(ports, netip.AddrPortFrom(nat.addr, uint16(7000+i)))
			x.crash()
		}
		took := w.within(5*time.Minute, "all failed", func() bool {
			return !slices.ContainsFunc(all, func(x *box) bool { return a.sees(x) != Failed })
		})
		t.Logf("twenty crashes are known after %v", took)
		for i, x := range all {
			a.hearsOf(x.id, math.MaxUint64, ports[i])
		}
		before := make(map[netip.AddrPort]int)
		for _, p := range ports {
			before[p] = dials.at(p)
		}
		time.Sleep(time.Minute)
		for _, p := range ports {
			if n := dials.at(p) - before[p]; n < 11 {
				t.Errorf("%v was dialled %d times in a minute", p, n)
			}
		}
	})
}

// Hosts of different sites name the same private address. Who answers there is met,
// though it was dialled for another, and has no other way to be found.
func TestWhoAnswersIsMet(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found(func(o *Options) { o.Endpoints = func() []netip.AddrPort { return nil } }) // nobody can dial it
		b.join()
		for range 20 {
			a.hearsOf(newIdentity(t), 1, netip.AddrPortFrom(b.addr, DefaultPort))
		}
		took := w.within(redialEvery-2*time.Second, "two hosts", func() bool { return a.sees(b) == Alive && b.sees(a) == Alive })
		t.Logf("met after %v", took)
	})
}

// Hosts that have stopped are dialled after the others: however many they are, they take no place from who is lost.
func TestStoppedHostsAreDialledLast(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.o.Discovery = true
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := map[string]peer.ID{}
	for name, h := range map[string]host{"lost": {}, "stopped": {left: true}, "stopped before the start": {left: true, past: true}} {
		id := newIdentity(t).ID()
		h.rec.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6783")}
		m.hosts[id], ids[name] = &h, id
		m.logs.meet(id)
	}
	met, others := m.dueLocked(time.Now())
	if !slices.Equal(met, []peer.ID{ids["lost"]}) || len(others) != 2 || slices.Contains(others, ids["lost"]) {
		t.Errorf("first are %v, then %v; they are %v", met, others, ids)
	}
	m.mu.Unlock()
	picked := map[peer.ID]int{}
	for range 400 {
		id, _ := m.pickLost()
		picked[id]++
	}
	m.mu.Lock()
	// Half of the picks are of those that are no strangers and have not stopped, the others of all but who stopped just now.
	if n := picked[ids["lost"]]; picked[ids["stopped"]] > 0 || picked[ids["stopped before the start"]] == 0 || n < 240 {
		t.Errorf("picked %v of %v", picked, ids)
	}
}
