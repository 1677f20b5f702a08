package mesh

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

// made are the first entries of made-up hosts, whose snapshots are of that size.
func (r *rogue) made(n int, snapshot uint32) []Entry {
	r.t.Helper()
	var es []Entry
	for range n {
		id := newIdentity(r.t)
		begin := NewBegin(id, r.secret, 0, 1, snapshot)
		payload, err := begin.MarshalBinary()
		if err != nil {
			r.t.Fatal(err)
		}
		e, err := SignEntry(id, r.secret.MeshID(), Entry{Epoch: 1, Seq: 1, Kind: KindBegin, Payload: payload})
		if err != nil {
			r.t.Fatal(err)
		}
		es = append(es, e)
	}
	return es
}

// gossips has memberlist tell a host of one that is made up, and returns who that is.
func (b *box) gossips(how ...func(*memberlist.Node)) peer.ID {
	b.w.t.Helper()
	raw, err := SignRecord(newIdentity(b.w.t), b.w.secret, Record{BootNonce: 9, Epoch: 1, Serial: 1, ProtoMin: 1, ProtoMax: 1})
	if err != nil {
		b.w.t.Fatal(err)
	}
	rec, err := ParseRecord(raw)
	if err != nil {
		b.w.t.Fatal(err)
	}
	d := &delegate{b.mesh}
	n := &memberlist.Node{Name: rec.Name(), Addr: b.mesh.controlAddr(rec.ID()).AsSlice(), Port: DefaultGossipPort, Meta: raw}
	if d.NotifyAlive(n) == nil {
		d.NotifyJoin(n)
		for _, f := range how {
			f(n)
		}
	}
	return rec.ID()
}

// strangers tells how many strangers a host knows, of how many hosts.
func (b *box) strangers() (strangers, hosts int) {
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	return b.mesh.logs.strangers.number, len(b.mesh.logs.authors)
}

// onDisk counts what a host has on its disk in a bucket.
func (b *box) onDisk(bucket string) int {
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	return len(b.disk.buckets[bucket])
}

// A crowd of made-up hosts has its share, in memory and on the disk, also after a
// restart; who brought it is named; and a newcomer is taken by all while it is there.
func TestCrowdByLogs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		r := newRogue(t, w, a)
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(a, b, r.box) })
		r.quit()
		for _, x := range bs {
			_ = r.exchange(x, nil, r.made(maxStrangers+500, 1)) // to each of them another one
			if n, _ := x.strangers(); n < maxStrangers/2 || n > maxStrangers {
				t.Errorf("%s knows %d strangers", x.name, n)
			}
			if x.rejected(r)[reasonStranger] == 0 {
				t.Errorf("%s does not name who brought them: %v", x.name, x.mesh.Rejections())
			}
			for _, y := range x.mesh.Rejections() {
				if y.Peer != r.id.ID() {
					t.Errorf("%s names %+v", x.name, y)
				}
			}
		}
		c := w.box("newcomer")
		c.join(a)
		took := w.within(3*time.Minute, "the newcomer among them", func() bool {
			return a.sees(c) == Alive && b.sees(c) == Alive && c.sees(a) == Alive && c.sees(b) == Alive
		})
		t.Logf("taken by all after %v", took)
		for i, x := range []*box{a, b, c} {
			x.append("web")
			w.within(time.Minute, "a name", func() bool {
				for _, y := range []*box{a, b, c} {
					if len(y.names(x)) != 1 {
						return false
					}
				}
				return true
			})
			if n, all := x.strangers(); n > maxStrangers || all > maxStrangers+4 {
				t.Errorf("host %d knows %d strangers among %d", i, n, all)
			}
		}
		time.Sleep(10 * time.Second)
		if n := a.onDisk(bucketLog); n > maxStrangers+100 {
			t.Errorf("%d entries are on the disk", n)
		}
		a.quit()
		a.launch()
		w.within(time.Minute, "host1 again", func() bool {
			return a.sees(b) == Alive && b.sees(a) == Alive && a.sees(c) == Alive && len(a.names(c)) == 1
		})
	})
}

// Gossip's word is as cheap. What it tells of has no place that anybody else needs, and
// takes no more than half of what is sent.
func TestCrowdByGossip(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(3)
		a, b := bs[0], bs[1]
		for range maxAuthors {
			a.gossips()
		}
		if n, all := a.strangers(); n > maxStrangers || all > maxStrangers+3 {
			t.Fatalf("%d strangers are known among %d", n, all)
		}
		c := w.box("newcomer")
		c.join(b) // host1 hears of it by gossip and from others' logs
		took := w.within(2*time.Minute, "the newcomer known to host1", func() bool { return a.sees(c) == Alive && c.sees(a) == Alive })
		t.Logf("taken after %v", took)
		for i := range 3 {
			a.append("from here")
			c.append("from there")
			w.within(20*time.Second, "names", func() bool { return len(c.names(a)) == i+1 && len(a.names(c)) == i+1 })
		}
		for _, x := range bs {
			if a.sees(x) != Alive {
				t.Errorf("%s is %v to host1", x.name, a.sees(x))
			}
		}
	})
}

// A host that comes itself has a place at once, whoever is there by others' word, and
// nobody who was met goes for it.
func TestRoomForWhoComes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(3)
		a := bs[0]
		time.Sleep(10 * time.Second)
		comes := func() bool {
			raw, err := SignRecord(newIdentity(t), w.secret, Record{BootNonce: 9, Epoch: 1, Serial: 1, ProtoMin: 1, ProtoMax: 1})
			if err != nil {
				t.Fatal(err)
			}
			rec, err := ParseRecord(raw)
			if err != nil {
				t.Fatal(err)
			}
			a.mesh.mu.Lock()
			defer a.mesh.mu.Unlock()
			return a.mesh.noteRecordLocked(rec, raw, byItself)
		}
		met := 0
		for ; met < maxAuthors-3-20; met++ {
			if !comes() {
				t.Fatalf("no room for the host after %d", met)
			}
		}
		for range 100 {
			a.gossips()
		}
		for range 21 {
			if comes() {
				met++
			}
		}
		if met != maxAuthors-3 {
			t.Errorf("room for %d hosts, want %d", met, maxAuthors-3)
		}
		a.mesh.mu.Lock()
		if n := len(a.mesh.hosts); n != maxAuthors-1 {
			t.Errorf("the records of %d hosts are kept", n)
		}
		a.mesh.mu.Unlock()
		for _, x := range bs {
			if a.sees(x) != Alive {
				t.Errorf("%s is %v", x.name, a.sees(x))
			}
		}
	})
}

// lineCount counts the log lines of rejections.
type lineCount struct {
	slog.Handler
	n *atomic.Int32
}

func (h lineCount) Enabled(context.Context, slog.Level) bool { return true }
func (h lineCount) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h lineCount) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "rejected" {
		h.n.Add(1)
	}
	return nil
}

// Whoever signs nonsense with names that it makes up is itself named for it, once a
// minute.
func TestRogueHidesBehindNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := lineCount{slog.DiscardHandler, &atomic.Int32{}}
		w.log = slog.New(h)
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		r := newRogue(t, w, a)
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(a, b, r.box) })
		const n = 1200
		_ = r.exchange(b, nil, r.made(n, MaxSnapshot+1))
		if got := b.rejected(r)[reasonStranger]; got != n {
			t.Errorf("the sender is named %d times: %v", got, b.mesh.Rejections())
		}
		if rows := len(b.mesh.Rejections()); rows > 2 {
			t.Errorf("%d rows of rejections", rows)
		}
		if _, all := b.strangers(); all != 3 {
			t.Errorf("%d hosts are known", all)
		}
		if lines := h.n.Load(); lines == 0 || lines > 3 {
			t.Errorf("%d lines in the log", lines)
		}
		if b.mesh.senders.take(r.control(), 0, false, time.Now()) {
			t.Error("it is heard on")
		}
		a.append("web")
		w.within(2*time.Second, "a name", func() bool { return len(b.names(a)) == 1 })
	})
}

// A packet through its tunnel shows that a host is there.
func TestMetInTheTunnel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		id := b.id.ID()
		met := func() bool {
			a.mesh.mu.Lock()
			defer a.mesh.mu.Unlock()
			return !a.mesh.logs.strangers.unmet(id)
		}
		unmeet := func() {
			a.mesh.mu.Lock()
			defer a.mesh.mu.Unlock()
			delete(a.mesh.logs.strangers.proven, id)
			a.mesh.logs.stand(id)
		}
		unmeet()
		b.append("web")
		w.within(500*time.Millisecond, "met by its datagram", met)
		time.Sleep(time.Second) // the datagram is repeated
		unmeet()
		w.within(10*time.Second, "met by its root", met)
		for range maxStrangers/2 + 1 { // from so many on it is looked at what the tunnel has had
			a.gossips()
		}
		unmeet()
		if a.mesh.lookAtHosts(); !met() {
			t.Error("not met by what came through the tunnel")
		}
	})
}

// A stranger that has forked is no matter for the operator, until it is met.
func TestForkOfAStranger(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a := bs[0]
		s := newScribe(t, w.secret)
		log := s.epoch(t, 5, 2, 1)
		other := s.epochOf(t, 5, 2, 1, func(int) []byte { return []byte("other") })
		for _, p := range slices.Concat(log, other[2:]) {
			_, _ = a.mesh.take([]Entry{p.Entry}, bs[1].id.ID(), true)
		}
		if ns := a.mesh.State().Notices; len(ns) != 0 {
			t.Errorf("the operator reads %q", ns)
		}
		a.mesh.mu.Lock()
		a.mesh.meetLocked(s.id.ID())
		a.mesh.mu.Unlock()
		w.within(2*time.Second, "a notice", func() bool { return len(a.mesh.State().Notices) == 1 })
	})
}

// Made-up hosts get half of what is sent at most, and do not hold up what others need.
func TestCrowdLeavesRoomToWork(t *testing.T) {
	to := audience{met: 10}
	for i := range 1000 {
		to.nodes = append(to.nodes, memberlist.Node{Name: fmt.Sprint(i)})
	}
	met := to.nodes[:to.met:to.met]
	names := make(map[string]bool)
	for _, n := range met {
		names[n.Name] = true
	}
	count := func(n int) (met, all int) {
		seen := make(map[string]bool)
		for _, x := range to.some(n) {
			if seen[x.Name] {
				t.Fatalf("%s is there twice", x.Name)
			}
			if seen[x.Name] = true; names[x.Name] {
				met++
			}
		}
		return met, len(seen)
	}
	if m, all := count(directMax); m != 10 || all != directMax {
		t.Errorf("%d of %d were met", m, all)
	}
	if m, all := count(fanout); m < fanout/2 || all != fanout {
		t.Errorf("%d of %d were met", m, all)
	}
	if _, all := count(2000); all != 1000 {
		t.Errorf("%d of all", all)
	}
	sum := 0
	for range 1000 {
		m, _ := count(1)
		sum += m
	}
	if sum < 400 || sum > 600 {
		t.Errorf("of 1,000 times one, %d were met", sum)
	}
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		time.Sleep(time.Second)
		id := b.id.ID()
		a.knows(b)
		m := a.mesh
		try := func(gossip, met, full bool) (wanted, dialled bool) {
			m.mu.Lock()
			h := m.hosts[id]
			h.gossip, h.dialling, h.nextDial = gossip, false, time.Time{}
			if m.logs.strangers.pressed = 0; full {
				m.logs.press()
			}
			if delete(m.logs.strangers.proven, id); met {
				m.logs.meet(id)
			}
			m.logs.stand(id)
			wanted = m.wantedLocked(id, h)
			m.mu.Unlock()
			m.dialHosts(t.Context(), func(func()) bool { return false }, func(func()) bool { dialled = true; return true }, newDialBook())
			return wanted, dialled
		}
		for _, c := range []struct{ gossip, met, full, wanted, dialled bool }{
			{gossip: true},
			{gossip: true, full: true, wanted: true}, // it may have been left out there
			{gossip: true, met: true, full: true},    // it was not
			{wanted: true},                           // strangers have taken all places to dial
			{met: true, wanted: true, dialled: true}, // but some are left
			{met: true, full: true, wanted: true, dialled: true},
		} {
			if wanted, dialled := try(c.gossip, c.met, c.full); wanted != c.wanted || dialled != c.dialled {
				t.Errorf("%+v: wanted %v, dialled %v", c, wanted, dialled)
			}
		}
		m.mu.Lock()
		for i := range maxAuthors {
			m.nodes[fmt.Sprint(i)] = node{}
		}
		m.mu.Unlock()
		a.gossips()
		if n := m.Counters()["node_rejected_crowd"]; n != 1 {
			t.Errorf("gossip holds %d hosts and takes one more", maxAuthors)
		}
		m.mu.Lock()
		clear(m.nodes)
		m.mu.Unlock()
	})
}

// What a member answers on a stream is judged as what it says itself.
func TestRogueAnswersWithABomb(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a := bs[0]
		r := newRogue(t, w, a)
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(bs[0], bs[1], r.box) })
		r.quit()
		ln, err := r.host.Listen(t.Context(), netip.AddrPortFrom(r.control(), DefaultGossipPort))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		packed := bomb(30 << 20)
		header := binary.BigEndian.AppendUint32([]byte{10}, uint32(1+12+len(packed)+16))
		answer := append(header, r.seal(packed, header)...)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write(answer)
				_ = c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := a.mesh.joinGossip(ctx, r.id.ID()); err == nil {
			t.Error("a bomb is taken")
		}
		if a.rejected(r)[reasonMalformed] == 0 {
			t.Errorf("nobody is named: %v", a.mesh.Rejections())
		}
	})
}

// Beyond directMax hosts a write is handed on: it is everywhere at once, not when the digests find it.
func TestHandedOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(2*directMax - 8)
		time.Sleep(5 * time.Second)
		var all []time.Duration
		for i := range 15 {
			x := bs[i]
			es, err := x.mesh.Append(Draft{KindName, []byte("y")})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for slices.ContainsFunc(bs, func(y *box) bool { return !y.has(es[0]) }) {
				time.Sleep(2 * time.Millisecond)
			}
			all = append(all, time.Since(start))
			time.Sleep(200 * time.Millisecond)
		}
		t.Logf("p50 %v, worst %v", quantile(all, 50), quantile(all, 100))
		if quantile(all, 50) > 100*time.Millisecond {
			t.Errorf("p50 %v", quantile(all, 50))
		}
	})
}
