package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/peer"
)

func TestLiveness(t *testing.T) {
	for _, c := range []struct {
		name string
		s    sign
		want Liveness
	}{
		{"known from disk", sign{}, Unseen},
		{"known from disk, its tunnel hums", sign{heard: true}, Unseen},
		{"in gossip", sign{nodes: 1, met: true}, Alive},
		{"a former start is dead, the new one alive", sign{nodes: 1, met: true, heard: true, silent: time.Hour}, Alive},
		{"dead in gossip, traffic a moment ago", sign{met: true, heard: true, silent: grace - 1}, Alive},
		{"dead in gossip, silent", sign{met: true, heard: true, silent: grace}, Failed},
		{"dead in gossip, never heard", sign{met: true}, Failed},
		{"stopped, gossip is late", sign{left: true, nodes: 1, met: true}, Left},
		{"stopped before this start", sign{left: true}, Left},
	} {
		if got := c.s.liveness(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"host1": "host1:6783", "host1:7000": "host1:7000", "192.0.2.1": "192.0.2.1:6783",
		"2001:db8::1": "[2001:db8::1]:6783", "[2001:db8::1]": "[2001:db8::1]:6783", "[2001:db8::1]:1": "[2001:db8::1]:1",
		"": "", "host1:": "", "host1:0": "", "host1:70000": "", "a b": "", ":6783": "", "[::1": "", "a/b": "",
	} {
		got, err := parseTarget(in, DefaultPort)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	now := time.Now()
	tg := &target{}
	var last time.Duration
	for i := range 12 {
		tg.ended(peer.ID{}, io.EOF, now)
		wait := tg.next.Sub(now)
		if full := min(backoffMin<<i, backoffMax); wait > backoffMax || wait < full*3/4 {
			t.Errorf("try %d waits %v, want about %v", i, wait, full)
		}
		last = wait
	}
	if last < backoffMax*3/4 || tg.state != stateRetrying {
		t.Errorf("%v, %s", last, tg.state)
	}
	tg.ended(peer.ID{1}, nil, now)
	tg.lost(now)
	if tg.state != stateFailed || !tg.next.Equal(now) {
		t.Errorf("%+v", tg)
	}
	tg.ended(peer.ID{}, io.EOF, now)
	if tg.state != stateFailed || tg.peer != (peer.ID{1}) || tg.next.Sub(now) > 2*backoffMin {
		t.Errorf("%+v", tg)
	}
	for range 12 { // one that was met is tried as often as any known host
		if tg.ended(peer.ID{}, io.EOF, now); tg.next.Sub(now) > redialEvery {
			t.Errorf("a target that was met waits %v", tg.next.Sub(now))
		}
	}
}

func TestSourceLimits(t *testing.T) {
	s, now := newSourceLimits(sourceBurst, sourceRate), time.Now()
	allowed := func(a string, n int) (k int) {
		for range n {
			if s.allow(sourceOf(netip.MustParseAddr(a), false), now) {
				k++
			}
		}
		return k
	}
	if k := allowed("192.0.2.1", 100); k != sourceBurst {
		t.Errorf("burst of %d", k)
	}
	if k := allowed("2001:db8::1", 20) + allowed("2001:db8::2", 20); k != sourceBurst {
		t.Errorf("a /64 has a burst of %d", k)
	}
	if k := allowed("192.0.2.2", 1); k != 1 {
		t.Error("one source shuts out another")
	}
	now = now.Add(time.Second)
	if k := allowed("192.0.2.1", 100); k != sourceRate {
		t.Errorf("%d a second", k)
	}
	for i := range 3 * maxSources {
		s.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(s.sources) > maxSources {
		t.Errorf("%d sources are remembered", len(s.sources))
	}
}

func TestNotices(t *testing.T) {
	n, now := make(notices), time.Now()
	if !n.set("a", "one", now) || n.set("a", "one", now.Add(time.Minute)) || !n.set("b", "two", now.Add(time.Second)) {
		t.Error("what changed is told wrong")
	}
	if got := n.texts(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
	if !n.expire(now.Add(noticeAge+30*time.Second)) || len(n) != 1 {
		t.Errorf("%v", n)
	}
	for i := range 3 * maxNotices {
		n.set(string(rune('c'+i)), "x", now.Add(time.Duration(i)))
	}
	if len(n) != maxNotices {
		t.Errorf("%d notices", len(n))
	}
}

func TestOptionsRefused(t *testing.T) {
	_, err := New(Options{Port: 70000})
	for _, want := range []string{"identity is missing", "secret is missing", "store is missing", "tunnel is missing", "port 70000"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestAppendIsDurableOrNothing(t *testing.T) {
	m := quietMesh(t, NewSecret())
	d := m.o.Store.(*disk)
	if _, err := m.Append(Draft{KindName, []byte("one")}); err != nil {
		t.Fatal(err)
	}
	root := func() [32]byte { return m.logs.root() }
	before := root()
	d.fail = errors.New("no space left")
	if _, err := m.Append(Draft{KindName, []byte("two")}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("append to a full disk: %v", err)
	}
	if err := m.SetFounding(Founding{Founder: m.id, Nonce: 1}); err == nil || !m.State().Founding.IsZero() {
		t.Errorf("found on a full disk: %v", err)
	}
	d.fail = nil
	for _, ds := range [][]Draft{
		{{KindHost, nil}}, {{KindBegin, nil}}, {{0, nil}},
		{{KindName, []byte("fits")}, {KindName, make([]byte, maxPayload+1)}},
	} {
		if _, err := m.Append(ds...); err == nil {
			t.Errorf("append takes %v", ds)
		}
	}
	if root() != before {
		t.Error("a failed append has changed the log")
	}
	es, err := m.Append(Draft{KindName, []byte("three")}, Draft{KindName, []byte("four")})
	if err != nil || len(es) != 2 || es[0].Seq != 4 {
		t.Errorf("%v, %v", es, err)
	}

	// A new start on the same disk has it all, in a higher epoch.
	o := m.o
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(again.State().Logs[m.id]); got != 5 {
		t.Errorf("%d entries are remembered", got)
	}
	if err := again.openEpoch(); err != nil {
		t.Fatal(err)
	}
	log := again.State().Logs[m.id]
	held := 0
	for _, e := range log {
		held += len(e.raw)
	}
	if s := again.Stats(); s.LogBytes != held || s.Entries != 5 || s.Authors != 1 {
		t.Errorf("holds %+v, want %d bytes", s, held)
	}
	if len(log) != 5 || log[0].Epoch>>32 != es[0].Epoch>>32+1 {
		t.Errorf("%d entries of epoch %x, before %x", len(log), log[0].Epoch, es[0].Epoch)
	}
	if n := len(d.buckets[bucketLog]); n != 5 {
		t.Errorf("%d entries on disk", n)
	}
}

func TestLogIsBounded(t *testing.T) {
	m := quietMesh(t, NewSecret())
	repeat := Draft{KindName, []byte("again and again")}
	if _, err := m.Append(slices.Repeat([]Draft{repeat}, 100)...); err != nil {
		t.Fatal(err)
	}
	m.logs.authors[m.id].current.bytes = maxLogBytes - 200 // as if it were long
	for _, n := range []int{2, maxLogEntries} {
		if _, err := m.Append(slices.Repeat([]Draft{repeat}, n)...); !errors.Is(err, ErrLogFull) {
			t.Fatalf("append of %d to a full log: %v", n, err)
		}
	}
	select {
	case <-m.reroll:
	default:
		t.Fatal("no new epoch is asked for")
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	if n := len(m.State().Logs[m.id]); n != 3 {
		t.Errorf("the snapshot has %d entries", n)
	}
	if _, err := m.Append(repeat); err != nil {
		t.Error(err)
	}
	m.SetBase(func() []Draft {
		var ds []Draft
		for i := range MaxSnapshot {
			ds = append(ds, Draft{KindGrant, fmt.Appendf(nil, "grant %d", i)})
		}
		return ds
	})
	if err := m.openEpoch(); !errors.Is(err, ErrLogFull) || len(m.State().Logs[m.id]) != 4 {
		t.Errorf("a snapshot that others would refuse: %v", err)
	}
}

// What Append takes, the next start can open with; what a base has beyond is left out,
// and said.
func TestFullLogStartsAgain(t *testing.T) {
	for _, kind := range []Kind{KindName, KindGrant} {
		m := quietMesh(t, NewSecret())
		var ds []Draft
		m.SetBase(func() []Draft { return ds })
		if err := m.openEpoch(); err != nil {
			t.Fatal(err)
		}
		for len(ds) <= MaxSnapshot {
			d := Draft{kind, fmt.Appendf(nil, "%d", len(ds))}
			if _, err := m.Append(d); errors.Is(err, ErrLogFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
		}
		if kind == KindName && len(ds) != maxLasting-spare || kind == KindGrant && len(ds) != maxLasting {
			t.Errorf("%d entries of kind %d are taken", len(ds), kind)
		}
		if kind == KindName {
			if _, err := m.Append(Draft{KindGrant, []byte("a grant still fits")}); err != nil {
				t.Error(err)
			}
			for range 10 { // a router that is told of more containers meanwhile
				ds = append(ds, Draft{kind, fmt.Appendf(nil, "%d", len(ds))})
			}
		}
		if err := m.changeRecord(func(*Record) {}); err != nil {
			t.Errorf("the host record finds no room: %v", err)
		}
		again, err := New(m.o)
		if err != nil {
			t.Fatal(err)
		}
		again.SetBase(func() []Draft { return ds })
		if err := again.openEpoch(); err != nil {
			t.Fatalf("full of kind %d: %v", kind, err)
		}
		log, ns := again.State().Logs[m.id], again.State().Notices
		switch {
		case kind == KindName && (len(log) != 2+maxLasting-spare || log[2].Kind != KindGrant):
			t.Errorf("opens with %d entries, the first of kind %d", len(log), log[2].Kind)
		case kind == KindName && (len(ns) != 1 || !strings.Contains(ns[0], "11 names")):
			t.Errorf("its operator reads %q", ns)
		case kind == KindGrant && (len(log) != 2+maxLasting || len(ns) != 0):
			t.Errorf("opens with %d entries, notices %q", len(log), ns)
		}
		ds = ds[:10] // they are gone; the grants are not
		again.mu.Lock()
		again.own.at = time.Now().Add(-crampedPause)
		again.mu.Unlock()
		_, err = again.Append(Draft{KindName, []byte("more")})
		if !errors.Is(err, ErrLogFull) {
			t.Fatalf("a name beyond: %v", err)
		}
		select {
		case <-again.reroll:
		default:
			t.Fatal("no new epoch is asked for")
		}
		if err := again.openEpoch(); err != nil {
			t.Fatal(err)
		}
		if kind == KindGrant { // no epoch without more room
			if now := again.State().Logs[m.id]; now[0].Epoch != log[0].Epoch {
				t.Error("opens an epoch that has no more room")
			}
			continue
		}
		if _, err := again.Append(Draft{KindName, []byte("more")}); err != nil || len(again.State().Notices) != 0 {
			t.Errorf("a name when there is room: %v, notices %q", err, again.State().Notices)
		}
	}
}

func TestSetFounding(t *testing.T) {
	m := quietMesh(t, NewSecret())
	f := Founding{Founder: m.id, Nonce: 1, Range: pfx("10.32.0.0/12")}
	if err := errors.Join(m.SetFounding(f), m.SetFounding(f)); err != nil || m.State().Founding != f {
		t.Errorf("%v", err)
	}
	f.Nonce = 2
	if err := m.SetFounding(f); err == nil {
		t.Error("a host can be in two meshes")
	}
}

// The stories again, in real time, for the race detector and for leaks.
func TestThreeHostsInRealTime(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(),
		// memberlist's own end with their timers.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).checkBroadcastQueueDepth"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probe"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode.func3"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).pushPullTrigger"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).handleIndirectPing.func2"))
	w := newWorld(t)
	defer func() {
		for _, b := range w.boxes {
			b.quit()
		}
	}()
	a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
	a.found()
	b.join(a)
	c.join(b)
	w.within(10*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
	a.append("web", "db")
	w.within(5*time.Second, "the names everywhere", func() bool { return len(c.names(a)) == 2 && len(b.names(a)) == 2 })
	if _, err := c.mesh.Call(t.Context(), a.id.ID(), "say", []byte("hello")); err != nil {
		t.Error(err)
	}
	b.kill()
	b.launch()
	w.within(10*time.Second, "back", func() bool { return oneMesh(a, b, c) })
	c.stop()
	w.within(5*time.Second, "left", func() bool { return a.sees(c) == Left && b.sees(c) == Left })
}

func TestCallBounds(t *testing.T) {
	m := quietMesh(t, NewSecret())
	if _, err := m.Call(t.Context(), peer.ID{1}, "x", make([]byte, maxBody+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("big body: %v", err)
	}
	if _, err := m.Call(t.Context(), peer.ID{1}, "x", nil); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("unknown host: %v", err)
	}
	if _, err := m.Call(t.Context(), m.id, "x", nil); err == nil {
		t.Error("a call to oneself without a handler succeeds")
	}
}

// A caller that hangs up ends the handler's context.
func TestCallerHangsUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		begun, ended := make(chan struct{}), make(chan struct{})
		a.found(func(o *Options) {
			o.Handle = func(ctx context.Context, _ peer.ID, _ string, _ []byte) ([]byte, error) {
				close(begun)
				<-ctx.Done()
				close(ended)
				return nil, ctx.Err()
			}
		})
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			cancel()
		}()
		if _, err := b.mesh.Call(ctx, a.id.ID(), "wait", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("call: %v", err)
		}
		<-ended
	})
}

// Strangers are bounded in number and rate, and a host of the mesh gets in beside them.
func TestStrangersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		stranger := w.net.Host("stranger", netip.MustParseAddr("192.168.48.200"))
		a.found()
		time.Sleep(time.Second)
		at := netip.MustParseAddrPort(a.target())
		for range 100 {
			c, err := stranger.Dial(t.Context(), at)
			if err != nil {
				continue
			}
			defer c.Close()
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		}
		b.join(a)
		w.within(2*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		n := a.mesh.Counters()
		if n["join_refused_rate"] == 0 || n["join_failed"] == 0 || n["join_failed"] > sourceBurst+5 || len(a.mesh.State().Notices) != 0 {
			t.Errorf("%v %q", n, a.mesh.State().Notices)
		}
	})
}

func TestPortInUse(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.box("host1")
		ln, err := a.host.Listen(t.Context(), netip.MustParseAddrPort("[::]:6783"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		m, err := New(Options{
			Identity: a.id, Secret: a.secret, Store: a.disk, Tunnel: a, Network: a.host,
			Endpoints: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "TCP port 6783 is in use") {
			t.Errorf("run: %v", err)
		}
	})
}

// The host's own sockets: a control address can be bound before it exists.
func TestHostNetwork(t *testing.T) {
	n := hostNetwork{}
	control := netip.AddrPortFrom(peer.ControlAddr([5]byte{1, 2, 3, 4, 5}, peer.ID{1}), 0)
	ln, err := n.Listen(t.Context(), control)
	if err != nil {
		t.Fatalf("listen on %v: %v", control, err)
	}
	_ = ln.Close()
	pc, err := n.ListenPacket(t.Context(), control)
	if err != nil {
		t.Fatalf("listen on %v: %v", control, err)
	}
	_ = pc.Close()

	ln, err = n.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	addr := addrPortOf(ln.Addr())
	c, err := n.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = ln.Close()
	if _, err = n.Dial(t.Context(), addr); reasonOf(err) != Unreachable || !strings.Contains(dialError(err).Error(), "nothing listens there") {
		t.Errorf("dial a closed port: %v", err)
	}
	if as, err := n.Resolve(t.Context(), "192.0.2.1"); err != nil || len(as) != 1 {
		t.Errorf("resolve: %v, %v", as, err)
	}
}

// haveTwin makes a host hear of a higher epoch of its own log.
func haveTwin(t *testing.T, m *Mesh) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	twin := scribe{m.o.Identity, m.o.Secret, make(map[[3]int][]proven)}
	for _, p := range twin.epoch(t, m.own.epoch+1<<32, 1, 0) {
		m.takeOwnLocked(p, peer.ID{1}, true)
	}
}

// While a new epoch waits, the record is kept all the same.
func TestTwinHoldsUpNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.box("host1")
		a.found()
		time.Sleep(time.Second)
		haveTwin(t, a.mesh)
		a.mesh.mu.Lock()
		a.mesh.mends, a.mesh.mended = mendsFree, time.Now()
		epoch := a.mesh.own.epoch
		a.mesh.mu.Unlock()
		poke(a.mesh.reroll)
		time.Sleep(time.Second)
		a.addr = netip.MustParseAddr("192.168.48.99")
		a.mesh.Refresh()
		own := func() Record { h, _ := a.mesh.State().Host(a.id.ID()); return h.Record }
		w.within(mendPause/2, "the new endpoint in the record", func() bool {
			return len(own().Endpoints) == 1 && own().Endpoints[0].Addr() == a.addr
		})
		if own().Epoch != epoch {
			t.Error("the new epoch did not wait")
		}
		w.within(2*mendPause, "the new epoch", func() bool { return own().Epoch > epoch })
	})
}

// A tunnel brings nothing from its own host: whoever sends from its address is a
// local user, whose packets are not held against a member.
func TestDatagramsFromHere(t *testing.T) {
	m := quietMesh(t, NewSecret())
	here := m.controlAddr(m.id)
	for range 10_000 {
		if m.sortMail(here, []byte{gossipMagic, gossipDirect, 0}) || m.sortMail(here, []byte{1, 2, 3}) {
			t.Fatal("it is passed on")
		}
	}
	if c := m.Counters(); c["gossip_from_here"] != 20_000 || len(c) != 1 {
		t.Errorf("counters %v", c)
	}
}

// After a doubt, what was on its way does not count as news of this host's past.
func TestDoubt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := quietMesh(t, w.secret)
		heard := func(want bool, when string) {
			t.Helper()
			if got := m.State().Heard; got != want {
				t.Errorf("%s: heard %v", when, got)
			}
		}
		m.hear(peer.ID{9}, nil)
		heard(true, "another host has told")
		m.Doubt()
		heard(false, "in doubt")
		m.hear(peer.ID{9}, nil)
		heard(false, "what was on its way")
		time.Sleep(doubtDrain)
		m.hear(peer.ID{9}, []mark{{author: peer.ID{9}}})
		heard(false, "somebody who does not know this host")
		m.hear(peer.ID{9}, nil)
		heard(true, "another host has told anew")
	})
}
