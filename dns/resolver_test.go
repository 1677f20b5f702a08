package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"pgregory.net/rapid"
)

func reply(name string, rrs ...string) *miekg.Msg {
	m := new(miekg.Msg).SetReply(question(name, miekg.TypeA))
	for _, s := range rrs {
		rr, err := miekg.NewRR(s)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == miekg.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func TestLifetime(t *testing.T) {
	const soa = "example.com. 900 IN SOA ns. root. 1 2 3 4 60"
	nx := reply("x.example.com.", soa)
	nx.Rcode = miekg.RcodeNameError
	bare := reply("x.example.com.")
	bare.Rcode = miekg.RcodeNameError
	cut := reply("x.", "x. 60 IN A 192.0.2.1")
	cut.Truncated = true
	fails := reply("x.", "x. 60 IN A 192.0.2.1")
	fails.Rcode = miekg.RcodeServerFailure
	for i, c := range []struct {
		m    *miekg.Msg
		want uint32
	}{
		{reply("x.", "x. 60 IN A 192.0.2.1", "x. 30 IN A 192.0.2.2"), 30},
		{reply("x.", "x. 20 IN CNAME y.", "y. 30 IN A 192.0.2.2"), 20},
		{reply("x.", "x. 0 IN A 192.0.2.1"), 0},
		{reply("x.", "x. 4000000 IN A 192.0.2.1"), maxFresh},
		{reply("x.", "x. 4294967295 IN A 192.0.2.1"), 0},
		{reply("x.example.com.", soa), 60},
		{reply("x.example.com.", "x.example.com. 20 IN CNAME y.example.com.", soa), 20},
		{nx, 60}, {bare, 0}, {reply("x."), 0}, {cut, 0}, {fails, 0},
	} {
		if got, ok := lifetime(c.m); ok != (c.want > 0) || ok && got != c.want {
			t.Errorf("%d: %d %v, want %d", i, got, ok, c.want)
		}
	}
}

// What a cache gives is what was put last and has not ended, with TTLs that count down; and it
// never holds more than it may.
func TestCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type put struct {
			at  time.Time
			ttl uint32
			ip  string
		}
		c, model := newCache(), map[string]put{}
		now := time.Unix(1e9, 0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "seconds")) * time.Second)
			name := rapid.SampledFrom([]string{"a.", "b.", "c."}).Draw(t, "name")
			k := keyOf(question(name, miekg.TypeA))
			if rapid.Bool().Draw(t, "put") {
				p := put{now, rapid.Uint32Range(1, 100).Draw(t, "ttl"), fmt.Sprintf("192.0.2.%d", rapid.IntRange(1, 200).Draw(t, "ip"))}
				c.put(newCached(k, reply(name, fmt.Sprintf("%s %d IN A %s", name, p.ttl, p.ip)), now))
				model[name] = p
				continue
			}
			m, fresh, _ := c.get(k, now)
			p, has := model[name]
			if (m != nil) != has {
				t.Fatalf("%s: %v, want one: %v", name, m, has)
			}
			if !has {
				continue
			}
			left := p.at.Add(time.Duration(p.ttl) * time.Second).Sub(now)
			want := uint32(staleTTL)
			if left > 0 {
				want = uint32(left / time.Second)
			}
			if fresh != (left > 0) || m.Answer[0].Header().Ttl != want || m.Answer[0].(*miekg.A).A.String() != p.ip {
				t.Fatalf("%v fresh %v, want %s for %d s", m, fresh, p.ip, want)
			}
		}
	})
	// A negative answer is told to live for the lower of its zone's two times, less its age.
	c := newCache()
	now := time.Unix(1e9, 0)
	for name, soa := range map[string]string{"low.": "3600 IN SOA ns. root. 1 2 3 4 300", "high.": "300 IN SOA ns. root. 1 2 3 4 3600"} {
		m := reply(name, ". "+soa)
		m.Rcode = miekg.RcodeNameError
		k := keyOf(question(name, miekg.TypeA))
		c.put(newCached(k, m, now))
		m, fresh, _ := c.get(k, now.Add(299*time.Second))
		if _, still, _ := c.get(k, now.Add(300*time.Second)); !fresh || still || m.Ns[0].Header().Ttl != 1 {
			t.Errorf("after 299 of 300 s fresh %v, then %v: %v", fresh, still, m)
		}
	}
	c = newCache()
	for i := range maxCached + 100 {
		name := fmt.Sprintf("n%d.", i)
		c.put(newCached(keyOf(question(name, miekg.TypeA)), reply(name, name+" 60 IN A 192.0.2.1"), time.Now()))
		c.get(keyOf(question("n0.", miekg.TypeA)), time.Now()) // asked for often: it stays
	}
	if len(c.entries) > maxCached || c.bytes > maxCachedBytes {
		t.Errorf("%d entries of %d bytes", len(c.entries), c.bytes)
	}
	if c.entries[keyOf(question("n0.", miekg.TypeA))] == nil || c.entries[keyOf(question("n1.", miekg.TypeA))] != nil {
		t.Error("it is not the one asked for least recently that goes")
	}
	if m, _, _ := c.get(keyOf(question("n0.", miekg.TypeA)), time.Now().Add(stale+2*time.Minute)); m != nil {
		t.Error("kept for ever")
	}
	c.clear()
	if m, _, _ := c.get(keyOf(question("n0.", miekg.TypeA)), time.Now()); m != nil || c.bytes != 0 {
		t.Error("cleared, and still there")
	}
}

// scripted is an upstream server that answers by a function of the question, and probes not at all.
func scripted(t *testing.T, f func(q *miekg.Msg) *miekg.Msg) (addr netip.AddrPort, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	return serving(t, func(q *miekg.Msg) *miekg.Msg {
		if q.Question[0].Qtype == miekg.TypeHINFO {
			return nil
		}
		asked.Add(1)
		return f(q)
	}), asked
}

// serving is an upstream server, over UDP, that answers all that comes by a function of the question.
func serving(t *testing.T, f func(q *miekg.Msg) *miekg.Msg) netip.AddrPort {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &miekg.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: miekg.HandlerFunc(func(w miekg.ResponseWriter, q *miekg.Msg) {
		if m := f(q); m != nil {
			w.WriteMsg(m)
		}
	})}
	done := make(chan struct{})
	go func() { srv.ActivateAndServe(); close(done) }()
	<-started
	t.Cleanup(func() { srv.Shutdown(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func answering(ip string, ttl int) func(*miekg.Msg) *miekg.Msg {
	return func(q *miekg.Msg) *miekg.Msg {
		m := new(miekg.Msg).SetReply(q)
		rr, _ := miekg.NewRR(fmt.Sprintf("%s %d IN A %s", q.Question[0].Name, ttl, ip))
		m.Answer = append(m.Answer, rr)
		return m
	}
}

func TestCachedAnswers(t *testing.T) {
	var dead atomic.Bool
	live := answering("203.0.113.1", 60)
	up, asked := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		if dead.Load() {
			return nil
		}
		return live(q)
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}, FallbackTimeout: 300 * time.Millisecond})
	for _, name := range []string{"www.example.com.", "WWW.example.com.", "www.EXAMPLE.com."} {
		if got := tell(ask(t, "udp", addr, question(name, miekg.TypeA))); got != "NOERROR "+name+" A 203.0.113.1" {
			t.Error(got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked upstream %d times for one name", n)
	}
	// It has ended, and nobody answers: the stale one is given; then what comes back is.
	dead.Store(true)
	s.resolver.cache.mu.Lock()
	for _, e := range s.resolver.cache.entries {
		e.since = e.since.Add(-time.Hour)
	}
	s.resolver.cache.mu.Unlock()
	m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA))
	if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL {
		t.Errorf("stale: %v", m)
	}
	if m := ask(t, "udp", addr, question("other.example.com.", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("never known: %v", m)
	}
	dead.Store(false)
	s.resolver.mu.Lock()
	clear(s.resolver.failed)
	s.resolver.mu.Unlock()
	await(t, "they are heard again", func() bool { // a slow machine gets a stale one
		m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA))
		return len(m.Answer) == 1 && m.Answer[0].Header().Ttl > staleTTL
	})
}

// What upstream servers can't or won't tell is asked once in a moment, takes the place of no stale answer, and is
// asked again, also for a name that is to be fetched before it ends.
func TestUpstreamErrorsAreRemembered(t *testing.T) {
	var rcode atomic.Int32
	live := answering("203.0.113.1", 100)
	up, asked := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		m := live(q)
		if m.Rcode = int(rcode.Load()); m.Rcode != miekg.RcodeSuccess {
			m.Answer = nil
		}
		return m
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}})
	since := func(d time.Duration) { // a moment has passed, and all that is kept is so old
		s.resolver.mu.Lock()
		clear(s.resolver.failed)
		s.resolver.mu.Unlock()
		s.resolver.cache.mu.Lock()
		for _, e := range s.resolver.cache.entries {
			e.since = time.Now().Add(-d)
		}
		s.resolver.cache.mu.Unlock()
	}
	for _, code := range []int{miekg.RcodeServerFailure, miekg.RcodeRefused, miekg.RcodeNotImplemented} {
		rcode.Store(0)
		kept := question(fmt.Sprintf("kept%d.example.com.", code), miekg.TypeA)
		ask(t, "udp", addr, kept)
		since(time.Hour)
		rcode.Store(int32(code))
		broken := question(fmt.Sprintf("broken%d.example.com.", code), miekg.TypeA)
		ask(t, "udp", addr, broken)
		n := asked.Load()
		s.resolver.mu.Lock()
		for k, f := range s.resolver.failed { // however slow this machine is
			f.at = time.Now().Add(time.Hour)
			s.resolver.failed[k] = f
		}
		s.resolver.mu.Unlock()
		for range 5 {
			if m := ask(t, "udp", addr, broken); m.Rcode != code {
				t.Errorf("%v", m)
			}
		}
		if got := asked.Load(); got != n {
			t.Errorf("%s: asked upstream %d times again", miekg.RcodeToString[code], got-n)
		}
		if m := ask(t, "udp", addr, kept); len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL {
			t.Errorf("%s, and a stale answer is there: %v", miekg.RcodeToString[code], m)
		}
		since(0)
		n = asked.Load()
		if ask(t, "udp", addr, broken); asked.Load() == n {
			t.Errorf("%s: remembered for ever", miekg.RcodeToString[code])
		}
		// Nearly over, and what it is fetched again for fails: it is fetched again all the same.
		for range 2 {
			since(95 * time.Second)
			n = asked.Load()
			await(t, "it is fetched again", func() bool {
				if m := ask(t, "udp", addr, kept); len(m.Answer) != 1 {
					t.Fatalf("%v", m)
				}
				return asked.Load() > n
			})
		}
	}
}

// What is asked for often is fetched again before it ends.
func TestHotNamesAreFetchedAgain(t *testing.T) {
	up, asked := scripted(t, answering("203.0.113.1", 100))
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}})
	q := question("www.example.com.", miekg.TypeA)
	ask(t, "udp", addr, q)
	s.resolver.cache.mu.Lock()
	s.resolver.cache.entries[keyOf(q)].since = time.Now().Add(-95 * time.Second)
	s.resolver.cache.mu.Unlock()
	for range hot {
		if m := ask(t, "udp", addr, q); len(m.Answer) != 1 || m.Answer[0].Header().Ttl > 5 && asked.Load() < 2 {
			t.Errorf("%v", m)
		}
	}
	await(t, "it is fetched again", func() bool { return asked.Load() >= 2 })
}

func TestSplitDomainsAndRebinding(t *testing.T) {
	public, _ := scripted(t, answering("10.0.0.1", 60))
	corp, _ := scripted(t, answering("10.1.1.7", 60))
	eu, _ := scripted(t, answering("10.1.2.7", 60))
	o := Options{Upstream: []netip.AddrPort{public}, Forward: map[string][]netip.AddrPort{"corp.example": {corp}, "EU.corp.example.": {eu}}}
	for refuse, want := range map[bool]string{false: "NOERROR www.example.com. A 10.0.0.1", true: "REFUSED"} {
		o.RefusePrivate = refuse
		_, addr := start(t, o)
		for name, want := range map[string]string{
			"www.example.com.":   want,
			"www.corp.example.":  "NOERROR www.corp.example. A 10.1.1.7",
			"corp.example.":      "NOERROR corp.example. A 10.1.1.7",
			"x.eu.Corp.example.": "NOERROR x.eu.Corp.example. A 10.1.2.7",
			`a\.corp.example.`:   strings.Replace(want, "www.example.com.", `a\.corp.example.`, 1), // a label with a dot in it
		} {
			if got := tell(ask(t, "udp", addr, question(name, miekg.TypeA))); got != want {
				t.Errorf("%s, refuse %v: %s, want %s", name, refuse, got, want)
			}
		}
	}
	for _, bad := range []string{"x.weft.local", "weft.local", "a..b"} {
		if _, err := New(Options{Forward: map[string][]netip.AddrPort{bad: {corp}}}); err == nil {
			t.Errorf("forward %q was taken", bad)
		}
	}
	if _, err := New(Options{Forward: map[string][]netip.AddrPort{"corp.example": nil}}); err == nil {
		t.Error("forward to nobody was taken")
	}
}

// Addresses that mean something else to everybody are refused in whatever record and form they come, and others are not.
func TestRebindProtection(t *testing.T) {
	var data atomic.Pointer[string]
	up, _ := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		m := new(miekg.Msg).SetReply(q)
		rr, err := miekg.NewRR(q.Question[0].Name + " 60 IN " + *data.Load())
		if err != nil {
			t.Errorf("%q: %v", *data.Load(), err)
			return m
		}
		m.Answer = append(m.Answer, rr)
		if _, is := rr.(*miekg.SRV); is {
			rr, _ := miekg.NewRR("target.example. 60 IN A 10.0.0.1")
			m.Extra = append(m.Extra, rr)
		}
		return m
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}, RefusePrivate: true})
	s.SetTable(NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("8.8.0.0/16"), netip.MustParsePrefix("2600:1::/32")}, nil))
	n := 0
	for text, refused := range map[string]bool{
		"A 10.0.0.1": true, "A 100.64.0.1": true, "A 0.1.2.3": true, "A 127.0.0.1": true, "A 169.254.53.1": true, "A 172.31.0.1": true,
		"A 192.168.0.1": true, "A 198.18.0.1": true, "A 255.255.255.255": true, "A 8.8.0.1": true,
		"A 9.9.9.9": false, "A 100.128.0.1": false, "A 172.32.0.1": false, "A 8.9.0.1": false, "A 192.0.0.170": false,
		"AAAA ::": true, "AAAA ::1": true, "AAAA ::ffff:10.0.0.1": true, "AAAA ::10.0.0.1": true, "AAAA 64:ff9b::a00:1": true, "AAAA 64:ff9b::808:1": true,
		"AAAA 64:ff9b:1::a00:1": true, "AAAA 2002:a00:1::1": true, "AAAA fec0::1": true, "AAAA fe80::1": true, "AAAA fd00::1": true, "AAAA 2600:1::1": true,
		"AAAA 2600:2::1": false, "AAAA 64:ff9b::909:909": false, "AAAA 2002:909:909::1": false,
		"HTTPS 1 . ipv4hint=10.0.0.1": true, "HTTPS 1 . ipv6hint=fd00::1": true, "SVCB 1 . alpn=h2 ipv4hint=9.9.9.9,10.0.0.1": true,
		"HTTPS 1 . ipv4hint=9.9.9.9": false,
		"SRV 0 0 1 target.example.":  true, "TXT 10.0.0.1": false,
	} {
		data.Store(&text)
		qtype, _, _ := strings.Cut(text, " ")
		n++
		m := ask(t, "udp", addr, question(fmt.Sprintf("n%d.example.", n), miekg.StringToType[qtype]))
		if got := m.Rcode == miekg.RcodeRefused; got != refused || !got && len(m.Answer) != 1 {
			t.Errorf("%s: refused %v: %v", text, got, m)
		}
	}
}

// The same question from many clients goes upstream once, and one client can't take all there is.
func TestOneFlightForManyAndShares(t *testing.T) {
	release := make(chan struct{})
	live := answering("203.0.113.1", 60)
	up, asked := scripted(t, func(q *miekg.Msg) *miekg.Msg { <-release; return live(q) })
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}})
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA)); len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
		})
	}
	await(t, "all have asked", func() bool { return s.Counters().Forwarded >= 20 })
	src := client{addr: netip.MustParseAddr("10.32.0.1")}
	s.resolver.mu.Lock()
	s.resolver.sources[src] = maxPerSource
	s.resolver.mu.Unlock()
	if _, err := s.resolver.ask(context.Background(), question("greedy.example.com.", miekg.TypeA), src); err != errBusy {
		t.Errorf("one with all its share in hand: %v", err)
	}
	close(release)
	clients.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked upstream %d times", n)
	}
}

// FuzzCache puts what an upstream server may send and takes it out again.
func FuzzCache(f *testing.F) {
	for _, m := range []*miekg.Msg{reply("www.example.com.", "www.example.com. 60 IN A 192.0.2.1"), reply("www.example.com.", "example.com. 900 IN SOA ns. root. 1 2 3 4 60")} {
		p, _ := m.Pack()
		f.Add(p, uint32(30))
		f.Add(p[:len(p)-4], uint32(90))
	}
	f.Fuzz(func(t *testing.T, packet []byte, age uint32) {
		q := question("www.example.com.", miekg.TypeA)
		if len(packet) > 1 {
			q.Id = uint16(packet[0])<<8 | uint16(packet[1])
		}
		m, err := match(q, packet)
		if err != nil || len(m.Question) != 1 {
			return
		}
		c, now, k := newCache(), time.Now(), keyOf(q)
		e := newCached(k, m, now)
		if e == nil {
			return
		}
		c.put(e)
		got, fresh, _ := c.get(k, now.Add(time.Duration(age%(2*86400))*time.Second))
		if got == nil {
			return
		}
		ttl, _ := lifetime(m)
		if fresh != (age%(2*86400) < ttl) {
			t.Errorf("after %d s of %d s: fresh %v", age, ttl, fresh)
		}
		p, err := finish(relay(q, got), q, true)
		if err != nil {
			t.Fatal(err)
		}
		checkReply(t, q, p, true)
	})
}

// An upstream server that sends its reply byte by byte, and never all of it, costs the client its
// patience and no more.
func TestSlowBytes(t *testing.T) {
	var up netip.AddrPort
	var l net.Listener
	await(t, "a port is free for UDP and TCP", func() (ok bool) {
		up, _ = scripted(t, func(q *miekg.Msg) *miekg.Msg {
			m := new(miekg.Msg).SetReply(q)
			m.Truncated = true // come by TCP
			return m
		})
		var err error
		l, err = net.Listen("tcp4", up.String())
		return err == nil
	})
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for _, err := c.Write([]byte{0xff, 0xff}); err == nil; _, err = c.Write([]byte{0}) {
					<-tick.C
				}
			})
		}
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}, FallbackTimeout: 400 * time.Millisecond})
	for range 2 {
		m := ask(t, "tcp", addr, question("www.example.com.", miekg.TypeA))
		if len(m.Answer) != 0 || m.Rcode == miekg.RcodeSuccess && !m.Truncated {
			t.Errorf("%v", m)
		}
	}
	if n := s.Counters().Forwarded; n != 2 {
		t.Errorf("%d forwarded", n)
	}
	l.Close()
	conns.Wait()
}

// await looks again and again, for 30 s at most, until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// The bound on the cache is one on memory, whatever a hostile zone answers: many records, each with a long owner.
func TestCacheIsBoundedInMemory(t *testing.T) {
	long := strings.Repeat(strings.Repeat("\\255", 60)+".", 4)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	c, now := newCache(), time.Unix(1e9, 0)
	for i := range 500 {
		m := new(miekg.Msg).SetQuestion(long, miekg.TypeA)
		for j := range 100 {
			m.Answer = append(m.Answer, &miekg.A{
				Hdr: miekg.RR_Header{Name: strings.Clone(long), Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 300},
				A:   net.IPv4(192, 0, byte(j), byte(i)).To4(),
			})
		}
		c.put(newCached(cacheKey{name: fmt.Sprint(i), qtype: miekg.TypeA}, m, now))
	}
	if len(c.entries) < 10 {
		t.Errorf("only %d replies are kept", len(c.entries))
	}
	if got := int64(heap() - before); got > 2*maxCachedBytes {
		t.Errorf("%d replies take %d bytes", len(c.entries), got)
	}
	runtime.KeepAlive(c)
}
