package dns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

func TestForward(t *testing.T) {
	u := newModel(t)
	_, patient := start(t, Options{Upstream: []netip.AddrPort{u.addr}})
	_, hasty := start(t, Options{Upstream: []netip.AddrPort{u.addr}, FallbackTimeout: 150 * time.Millisecond})
	const good = " A 203.0.113.7"
	for _, c := range []struct{ name, want string }{
		{"www.example.com.", "NOERROR www.example.com." + good},
		{"printer.", "NOERROR printer." + good},
		{"1.0.48.10.in-addr.arpa.", "NOERROR 1.0.48.10.in-addr.arpa." + good},
		{"wrong-id.example.com.", "NOERROR wrong-id.example.com." + good},
		{"forged.example.com.", "NOERROR forged.example.com." + good},
		{"Other-Case.Example.com.", "NOERROR Other-Case.Example.com." + good},
		{"cut.example.com.", "NOERROR cut.example.com." + good},
		{"cut-in-the-middle.example.com.", "NOERROR cut-in-the-middle.example.com." + good},
		{"always-cut.example.com.", "SERVFAIL"},
		{"nx.example.com.", "NXDOMAIN"},
		{"fails.example.com.", "SERVFAIL"},
		{"refuses-bare.example.com.", "REFUSED"},
		{"silent.example.com.", "SERVFAIL"},
		{"only-wrong-id.example.com.", "SERVFAIL"},
		{"wrong-question.example.com.", "SERVFAIL"},
		{"wrong-type.example.com.", "SERVFAIL"},
		{"echo.example.com.", "SERVFAIL"},
		{"garbage.example.com.", "SERVFAIL"},
		{"bare.example.com.", "SERVFAIL"},
		{"cut-no-tcp.example.com.", "SERVFAIL"}, // at the end of the time
	} {
		t.Run(c.name, func(t *testing.T) {
			q := question(c.name, miekg.TypeA)
			addr := patient
			if c.want == "SERVFAIL" {
				addr = hasty
			}
			begin := time.Now()
			m := ask(t, "tcp", addr, q)
			if got := tell(m); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if m.Question[0] != q.Question[0] || m.IsEdns0() != nil {
				t.Errorf("reply %v", m)
			}
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	if m := ask(t, "udp", patient, question("www.example.com.", miekg.TypeA)); tell(m) != "NOERROR www.example.com."+good {
		t.Error(tell(m))
	}
}

// Of an upstream server without TCP, what is cut reaches those who ask over UDP, and is a failure for others.
func TestUpstreamWithoutTCP(t *testing.T) {
	live := answering("203.0.113.7", 60)
	up, _ := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		m := live(q)
		m.Truncated = true
		return m
	})
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}})
	s.SetTable(NewTable("weft.local", nil, []Record{{Name: "out.weft.local.", Target: "www.example.com."}}))
	for _, c := range []struct{ network, name, want string }{
		{"udp", "www.example.com.", "NOERROR tc www.example.com. A 203.0.113.7"},
		{"tcp", "www.example.com.", "SERVFAIL"},
		{"tcp", "out.weft.local.", "SERVFAIL"},
	} {
		if got := tell(ask(t, c.network, addr, question(c.name, miekg.TypeA))); got != c.want {
			t.Errorf("%s over %s: %s, want %s", c.name, c.network, got, c.want)
		}
	}
	if got := s.Counters().Failed; got != 2 {
		t.Errorf("%d have failed", got)
	}
}

func TestForwardFlagsAndEDNS(t *testing.T) {
	u := newModel(t)
	_, addr := start(t, Options{Upstream: []netip.AddrPort{u.addr}})
	q := question("Authentic.example.com.", miekg.TypeA)
	q.RecursionDesired, q.CheckingDisabled = false, true
	m := ask(t, "udp", addr, q)
	if m.AuthenticatedData || m.RecursionDesired || !m.CheckingDisabled || len(m.Answer) != 1 {
		t.Errorf("reply %v", m)
	}
	if l := u.last.Load(); l.IsEdns0() != nil || l.RecursionDesired || !l.CheckingDisabled {
		t.Errorf("asked upstream: %v", l)
	}
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_LOCAL{Code: 65001, Data: []byte("private")}}
	m = ask(t, "udp", addr, q)
	if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != maxUDP || len(m.Extra) != 1 {
		t.Errorf("reply %v", m)
	}
	l := u.last.Load()
	if opt := l.IsEdns0(); opt == nil || !opt.Do() || opt.UDPSize() != maxUDP || len(opt.Option) != 0 {
		t.Errorf("asked upstream: %v", l)
	}
	if l.Id == q.Id { // once in 65,536 runs by chance
		ask(t, "udp", addr, q)
		if u.last.Load().Id == q.Id {
			t.Error("the client's ID went upstream")
		}
	}
	// The answer is large: cut for this client's UDP, whole over TCP.
	large := question("many.example.com.", miekg.TypeA)
	if m := ask(t, "udp", addr, large); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("over UDP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	if m := ask(t, "tcp", addr, large); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("over TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

// What is between two servers only goes no further, in whatever section it comes. An old signature of records does.
func TestRelayedRecords(t *testing.T) {
	header := func(rrtype uint16) miekg.RR_Header {
		return miekg.RR_Header{Name: ".", Rrtype: rrtype, Class: miekg.ClassINET}
	}
	section := func() []miekg.RR {
		return []miekg.RR{
			&miekg.OPT{Hdr: header(miekg.TypeOPT)}, &miekg.A{Hdr: header(miekg.TypeA)}, &miekg.TSIG{Hdr: header(miekg.TypeTSIG)},
			&miekg.SIG{RRSIG: miekg.RRSIG{Hdr: header(miekg.TypeSIG)}}, &miekg.SIG{RRSIG: miekg.RRSIG{Hdr: header(miekg.TypeSIG), TypeCovered: miekg.TypeA}},
		}
	}
	m := relay(question("x.example.", miekg.TypeA), &miekg.Msg{Answer: section(), Ns: section(), Extra: section()})
	for name, rrs := range map[string][]miekg.RR{"answer": m.Answer, "authority": m.Ns, "additional": m.Extra} {
		if len(rrs) != 2 || rrs[0].Header().Rrtype != miekg.TypeA || rrs[1].(*miekg.SIG).TypeCovered != miekg.TypeA {
			t.Errorf("%s section: %v", name, rrs)
		}
	}
}

// A dead server costs little, and once only.
func TestForwardToTheServerThatAnswers(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	u := newModel(t)
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	s, addr := start(t, Options{Upstream: []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort(), closed, u.addr}})
	begin := time.Now()
	if m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA)); len(m.Answer) != 1 {
		t.Fatalf("%v", m)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("first took %v", d)
	}
	if s.resolver.forwarders[0].first.Load() != 2 {
		t.Errorf("asks server %d first", s.resolver.forwarders[0].first.Load())
	}
	// One that fails is left for one that does not, and told of if none does better.
	if m := ask(t, "udp", addr, question("nx.example.com.", miekg.TypeA)); m.Rcode != miekg.RcodeNameError {
		t.Errorf("%v", m)
	}
}

// An error of one server is told of only if no other does better; whichever it is, it makes nobody wait or be asked first.
func TestForwardPastErrors(t *testing.T) {
	servers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")}
	for _, code := range []int{miekg.RcodeFormatError, miekg.RcodeServerFailure, miekg.RcodeNotImplemented, miekg.RcodeRefused, miekg.RcodeNotAuth, miekg.RcodeBadVers} {
		for _, second := range []int{miekg.RcodeSuccess, miekg.RcodeNameError, code} {
			synctest.Test(t, func(t *testing.T) {
				f := newForwarder(5*time.Second, func() []netip.AddrPort { return servers })
				f.exchange = func(_ context.Context, s netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
					if s == servers[0] {
						return new(miekg.Msg).SetRcode(q, code), nil
					}
					return new(miekg.Msg).SetRcode(q, second), nil
				}
				want := uint32(1)
				if second == code {
					want = 0
				}
				begin := time.Now()
				m, err := f.ask(t.Context(), question("www.example.com.", miekg.TypeA))
				if err != nil || m.Rcode != second || time.Since(begin) > 0 || f.first.Load() != want {
					t.Errorf("%s, then %s: %v %v after %v; server %d is asked first", miekg.RcodeToString[code], miekg.RcodeToString[second], m, err, time.Since(begin), f.first.Load())
				}
			})
		}
	}
}

func TestForwardBound(t *testing.T) {
	u := newModel(t)
	s, addr := start(t, Options{Upstream: []netip.AddrPort{u.addr}})
	for range maxInFlight {
		s.resolver.forwarders[0].slots <- struct{}{}
	}
	if m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	if m := ask(t, "udp", addr, question("web.weft.local.", miekg.TypeA)); len(m.Answer) != 2 {
		t.Errorf("the mesh's own names: %v", m)
	}
	<-s.resolver.forwarders[0].slots
	if m := ask(t, "udp", addr, question("www.example.com.", miekg.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	if u.udp.Load() != 1 {
		t.Errorf("%d questions upstream", u.udp.Load())
	}
}

// Neither the end of Run nor that of an address waits for upstream servers.
func TestEndWhileForwarding(t *testing.T) {
	u := newModel(t)
	s := newServer(t, Options{Upstream: []netip.AddrPort{u.addr}, FallbackTimeout: time.Minute})
	stop := run(t, s)
	for i, end := range []func(){func() { s.SetListen(nil) }, stop} {
		addr := listen(t, s)
		var clients sync.WaitGroup
		for _, network := range []string{"udp", "tcp"} {
			c, err := miekg.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients.Go(func() { c.WriteMsg(question(fmt.Sprintf("silent.%s%d.example.com.", network, i), miekg.TypeA)) })
		}
		clients.Wait()
		for range 2 {
			select {
			case <-u.asked:
			case <-time.After(5 * time.Second):
				t.Fatal("the questions do not come")
			}
		}
		begin := time.Now()
		end()
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("took %v", d)
		}
	}
}

func TestNeverToItself(t *testing.T) {
	u := newModel(t)
	s := newServer(t, Options{Upstream: []netip.AddrPort{}})
	run(t, s)
	if err := s.SetListen([]netip.AddrPort{loopback, netip.MustParseAddrPort("127.0.0.5:0")}); err != nil {
		t.Fatal(err)
	}
	l := s.Listening()
	s.upstream.fixed = []netip.AddrPort{l[1], l[0], u.addr, netip.MustParseAddrPort("192.0.2.53:53")}
	if got, want := s.Upstream(), []string{u.addr.String(), "192.0.2.53"}; !slices.Equal(got, want) {
		t.Errorf("upstream %v, want %v", got, want)
	}
}

func TestResolvConf(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	systemd := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	s := newServer(t, Options{ResolvConf: conf})
	s.upstream.systemd = systemd
	s.upstream.recheck = 0
	expect := func(want ...string) {
		t.Helper()
		if got := s.Upstream(); !slices.Equal(got, want) {
			t.Errorf("upstream %v, want %v", got, want)
		}
	}
	expect() // no file
	write(conf, "# comment\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t192.0.2.2 # second\nnameserver bad\nnameserver 192.0.2.1\n")
	expect("192.0.2.1", "192.0.2.2")
	write(conf, "nameserver 127.0.0.53\noptions edns0\n")
	expect("127.0.0.53") // a stub of somebody, and nothing known behind it
	write(systemd, "nameserver 2001:db8::1\nnameserver 192.0.2.3\n")
	expect("2001:db8::1", "192.0.2.3")
	write(systemd, "nameserver 192.0.2.4\n")
	expect("192.0.2.4")
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	expect("192.0.2.4") // being replaced
	write(conf, "search example.com\n")
	expect()
	write(conf, "nameserver 0.0.0.0\n")
	expect("127.0.0.1")
}

// The file is not read for every question.
func TestResolvConfIsReadAtMostOnceASecond(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	os.WriteFile(conf, []byte("nameserver 192.0.2.1\n"), 0o644)
	s := newServer(t, Options{ResolvConf: conf})
	s.upstream.recheck = time.Hour
	for range 2 {
		if got := s.Upstream(); !slices.Equal(got, []string{"192.0.2.1"}) {
			t.Errorf("upstream %v", got)
		}
		os.WriteFile(conf, []byte("nameserver 192.0.2.2\n"), 0o644)
	}
}

// With other servers in resolv.conf, nothing of the old ones is answered any more: neither what is kept, nor what they
// still have to say.
func TestAnotherNetwork(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	network := func(n int) {
		t.Helper()
		if err := os.WriteFile(conf, fmt.Appendf(nil, "nameserver 192.0.2.%d\n", n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	network(1)
	s := newServer(t, Options{ResolvConf: conf})
	s.upstream.recheck = 0
	old, release := make(chan struct{}, 1), make(chan struct{})
	s.resolver.forwarders[0].exchange = func(_ context.Context, server netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
		n := server.Addr().As4()[3]
		if n == 1 && q.Question[0].Name == "slow.example.com." {
			old <- struct{}{}
			<-release
		}
		return answering(fmt.Sprintf("203.0.113.%d", n), 3600)(q), nil
	}
	addr := listen(t, s)
	run(t, s)
	expect := func(name, want string) {
		t.Helper()
		if got := tell(ask(t, "udp", addr, question(name, miekg.TypeA))); got != "NOERROR "+name+" A "+want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	expect("www.example.com.", "203.0.113.1")
	expect("www.example.com.", "203.0.113.1")
	var first sync.WaitGroup
	first.Go(func() { expect("slow.example.com.", "203.0.113.1") })
	<-old
	network(2)
	expect("www.example.com.", "203.0.113.2")
	expect("slow.example.com.", "203.0.113.2")
	close(release)
	first.Wait()
	expect("slow.example.com.", "203.0.113.2")
	network(3)
	expect("slow.example.com.", "203.0.113.3")
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\n; x\nnameserver fe80::1%eth0\nnameserver ::\n"))
	f.Add([]byte("nameserver\x00 1\nnameserver \r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		servers := parseResolvConf(raw)
		if len(servers) > bytes.Count(raw, []byte("nameserver")) {
			t.Errorf("%q: %v", raw, servers)
		}
		for _, a := range servers {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("%q: %v", raw, a)
			}
		}
	})
}

// Whatever an upstream server sends: what is taken is a reply to the question,
// and reaches the client within its limits.
func FuzzUpstreamReply(f *testing.F) {
	q := question("www.example.com.", miekg.TypeA)
	q.Id = 7
	u := new(model)
	for _, name := range []string{"www", "cut", "many", "fails", "refuses-bare", "cut-in-the-middle", "wrong-id", "echo"} {
		asked := question(name+".example.com.", miekg.TypeA)
		asked.Id = 7
		p, _ := asked.Pack()
		for _, p := range u.respond(p, true) {
			f.Add(bytes.Replace(p, fmt.Appendf(nil, "%c%s", len(name), name), []byte("\x03www"), 1))
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		up, err := match(q, packet)
		if err != nil {
			return
		}
		if !up.Response || up.Id != q.Id {
			t.Errorf("took %v", up)
		}
		for _, edns := range []bool{false, true} {
			r := question("WWW.example.com.", miekg.TypeA)
			if edns {
				r.SetEdns0(1232, true)
			}
			for _, udp := range []bool{false, true} {
				up, _ := match(q, packet) // finish cuts it
				p, err := finish(relay(r, up), r, udp)
				if err != nil {
					t.Fatal(err)
				}
				checkReply(t, r, p, udp)
			}
		}
	})
}

// checkReply holds a packed reply to what any reply to r must be.
func checkReply(t *testing.T, r *miekg.Msg, packed []byte, udp bool) {
	t.Helper()
	m := new(miekg.Msg)
	if err := m.Unpack(packed); err != nil {
		t.Fatalf("reply does not parse: %v: %x", err, packed)
	}
	if m.Id != r.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != r.Question[0] {
		t.Fatalf("reply to %v: %v", r, m)
	}
	limit := 65535
	opt := r.IsEdns0()
	if udp {
		limit = 512
		if opt != nil {
			limit = max(512, min(maxUDP, int(opt.UDPSize())))
		}
	}
	if len(packed) > limit {
		t.Fatalf("reply of %d bytes, limit %d: %v", len(packed), limit, m)
	}
	n := 0
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == miekg.TypeOPT {
			n++
		}
	}
	if want := map[bool]int{true: 1}[opt != nil]; n != want {
		t.Fatalf("reply to %v has %d OPT: %v", r, n, m)
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	u := newModel(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, name := range []string{"silent.example.com.", "cut-no-tcp.example.com."} {
		if m, err := exchange(ctx, u.addr, question(name, miekg.TypeA)); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
}
