package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// Two servers that have each other as upstream: a question ends, and goes round once.
func TestLoop(t *testing.T) {
	one := newServer(t, Options{FallbackTimeout: 2 * time.Second, Upstream: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}})
	oneAddr := netip.MustParseAddrPort(listen(t, one))
	two := newServer(t, Options{FallbackTimeout: 2 * time.Second, Upstream: []netip.AddrPort{oneAddr}})
	one.upstream.fixed = []netip.AddrPort{netip.MustParseAddrPort(listen(t, two))}
	run(t, one)
	run(t, two)
	if m := ask(t, "udp", oneAddr.String(), question("www.example.com.", miekg.TypeA)); m.Rcode == miekg.RcodeSuccess {
		t.Errorf("%v", m)
	}
	if one.Counters().Forwarded > 30 || two.Counters().Forwarded > 30 {
		t.Errorf("went round: %+v %+v", one.Counters(), two.Counters())
	}
	// The probe of one of them comes back and tells why; from then on it has nobody to ask.
	found := func() (n int) {
		for _, s := range []*Server{one, two} {
			for _, p := range knownLoops(s) {
				if p.isLoop {
					n++
				}
			}
		}
		return n
	}
	await(t, "the loop is found", func() bool { return found() > 0 })
	if m := ask(t, "udp", oneAddr.String(), question("other.", miekg.TypeA)); m.Rcode != miekg.RcodeNameError {
		t.Errorf("with nobody to ask: %v", m)
	}
}

// knownLoops gives what a server knows of its upstream servers.
func knownLoops(s *Server) map[asked]probed {
	l := s.resolver.loops
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[asked]probed{}
	for a, p := range l.known {
		out[a] = *p
	}
	return out
}

// An upstream server that answered at first and then began to ask us is found out when it falls silent, and asked
// again when it has ceased to.
func TestLoopThatComesAndGoes(t *testing.T) {
	var s *Server
	var addr string
	var asksUs atomic.Bool
	live := answering("203.0.113.1", 60)
	up := serving(t, func(q *miekg.Msg) *miekg.Msg {
		if !asksUs.Load() {
			return live(q)
		}
		c := miekg.Client{Timeout: 5 * time.Second}
		m, _, err := c.Exchange(q, addr)
		if err != nil {
			return nil
		}
		return m
	})
	s, addr = start(t, Options{Upstream: []netip.AddrPort{up}, FallbackTimeout: 300 * time.Millisecond})
	if m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA)); len(m.Answer) != 1 {
		t.Fatalf("%v", m)
	}
	await(t, "it was probed", func() bool { p := knownLoops(s)[asked{".", up}]; return !p.onWay && time.Now().Before(p.due) })
	asksUs.Store(true)
	if m := ask(t, "udp", addr, question("other.example.com.", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("in a loop: %v", m)
	}
	await(t, "the loop is found", func() bool { return knownLoops(s)[asked{".", up}].isLoop })
	if m := ask(t, "udp", addr, question("other.", miekg.TypeA)); m.Rcode != miekg.RcodeNameError {
		t.Errorf("with nobody to ask: %v", m)
	}
	asksUs.Store(false)
	await(t, "the probe ends", func() bool { return !knownLoops(s)[asked{".", up}].onWay })
	s.resolver.loops.mu.Lock()
	s.resolver.loops.known[asked{".", up}].due = time.Now() // a minute later
	s.resolver.loops.mu.Unlock()
	n := 0
	await(t, "it is asked again", func() bool {
		n++
		return len(ask(t, "udp", addr, question(fmt.Sprintf("again%d.example.com.", n), miekg.TypeA)).Answer) == 1
	})
}

// A server that leads back the names of a split domain only is found out, and asked for others.
func TestLoopOfASplitDomain(t *testing.T) {
	var to atomic.Pointer[string] // it probes while it starts
	live := answering("203.0.113.1", 60)
	up := serving(t, func(q *miekg.Msg) *miekg.Msg {
		if !miekg.IsSubDomain("corp.example.", q.Question[0].Name) {
			return live(q)
		}
		back := to.Load()
		if back == nil {
			return nil
		}
		c := miekg.Client{Timeout: 5 * time.Second}
		m, _, err := c.Exchange(q, *back)
		if err != nil {
			return nil
		}
		return m
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}, Forward: map[string][]netip.AddrPort{"Corp.example": {up}}, FallbackTimeout: 300 * time.Millisecond})
	to.Store(&addr)
	if m := ask(t, "udp", addr, question("a.corp.example.", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("in a loop: %v", m)
	}
	await(t, "the loop is found", func() bool { return knownLoops(s)[asked{"corp.example.", up}].isLoop })
	if m := ask(t, "udp", addr, question("www.example.", miekg.TypeA)); len(m.Answer) != 1 {
		t.Errorf("another name: %v", m)
	}
}

// A probe that nothing came of is made again at once, one that was answered after a while.
func TestProbesThatAreLost(t *testing.T) {
	answers := serving(t, func(q *miekg.Msg) *miekg.Msg { return new(miekg.Msg).SetRcode(q, miekg.RcodeNameError) })
	l := newLoops(slog.New(slog.DiscardHandler))
	due := func() bool {
		good, probe := l.without(".", []netip.AddrPort{answers})
		if len(good) != 1 {
			t.Errorf("left out")
		}
		return len(probe) == 1
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, step := range []struct {
		ctx  context.Context // of a probe before; nil: none
		want bool
	}{{nil, true}, {nil, false}, {over, true}, {t.Context(), false}} {
		if step.ctx != nil {
			l.probe(step.ctx, asked{".", answers})
		}
		if got := due(); got != step.want {
			t.Errorf("%+v: due %v", step, got)
		}
	}
	l.suspect()
	if !due() {
		t.Error("no server answers, and none is probed")
	}
	// Nor does a lost one prove that a loop has ended; an answer does.
	isLoop := func() bool { return l.known[asked{".", answers}].isLoop }
	l.known[asked{".", answers}].isLoop = true
	if l.probe(over, asked{".", answers}); !isLoop() {
		t.Error("a loop has ended with a lost probe")
	}
	if l.probe(t.Context(), asked{".", answers}); isLoop() {
		t.Error("the server answers, and is a loop")
	}
	for a, want := range map[string]bool{"127.0.0.53": true, "10.0.0.1": true, "100.100.100.100": true, "fe80::1%lo": true,
		"fd00::1": true, "198.51.100.1": false, "2001:db8::1": false} {
		if got := nearby(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s nearby: %v", a, got)
		}
	}
}
