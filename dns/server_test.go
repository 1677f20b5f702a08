package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func mustAddrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func records(host string, pairs ...string) (rs []Record) {
	for i := 0; i < len(pairs); i += 2 {
		rs = append(rs, Record{Name: pairs[i], Addr: netip.MustParseAddr(pairs[i+1]), Host: host})
	}
	return rs
}

func testTable() *Table {
	rs := records("h1", "web.weft.local.", "10.32.0.1", "Db.weft.local", "10.32.0.2", "db.weft.local", "fd00::2",
		"a.b.weft.local.", "10.32.0.3", "only6.weft.local.", "fd00::6", "far.weft.local.", "192.0.2.9")
	rs = append(rs, records("h2", "web.weft.local.", "10.40.0.1", "alias.weft.local.", "10.32.0.1")...)
	for i := range 200 {
		rs = append(rs, records("h3", "many.weft.local.", fmt.Sprintf("10.33.0.%d", i+1))...)
	}
	rs = append(rs,
		Record{Name: "_http._tcp.web.weft.local.", Port: 8080, Target: "web.weft.local.", Host: "h1"},
		Record{Name: "web.weft.local.", Text: "version=1", Host: "h1"},
		Record{Name: "www.weft.local.", Target: "web.weft.local.", Host: "h2"},
		Record{Name: "two.weft.local.", Target: "web.weft.local.", Host: "h1"},
		Record{Name: "two.weft.local.", Target: "db.weft.local.", Host: "h2"},
		Record{Name: "both.weft.local.", Target: "web.weft.local.", Host: "h1"},
		Record{Name: "both.weft.local.", Addr: netip.MustParseAddr("10.32.0.79"), Host: "h2"},
		Record{Name: "out.weft.local.", Target: "example.com.", Host: "h2"},
		Record{Name: "loop.weft.local.", Target: "loop.weft.local.", Host: "h2"},
		Record{Name: "ring1.weft.local.", Target: "ring2.weft.local.", Host: "h1"},
		Record{Name: "ring2.weft.local.", Target: "ring1.weft.local.", Host: "h2"},
		Record{Name: "to-ring.weft.local.", Target: "ring1.weft.local.", Host: "h2"},
		Record{Name: "*.apps.weft.local.", Addr: netip.MustParseAddr("10.32.0.77"), Host: "h1"},
		Record{Name: "own.apps.weft.local.", Addr: netip.MustParseAddr("10.32.0.78"), Host: "h1"})
	e := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12"), netip.MustParsePrefix("fd00::/62")}, rs).Edit()
	e.SetHost("h2", HostState{Rank: 1})
	e.SetHost("h3", HostState{Rank: 2})
	return e.Done()
}

// newServer makes a server with the test table, set up by the caller before it
// listens.
func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Upstream == nil && o.ResolvConf == "" {
		o.Upstream = []netip.AddrPort{}
	}
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(testTable())
	return s
}

// run serves until the test ends, or until the returned function is called.
func run(t testing.TB, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

func listen(t testing.TB, s *Server) string {
	t.Helper()
	if err := s.SetListen([]netip.AddrPort{loopback}); err != nil {
		t.Fatal(err)
	}
	return s.Listening()[0].String()
}

func start(t testing.TB, o Options) (*Server, string) {
	s := newServer(t, o)
	addr := listen(t, s)
	run(t, s)
	return s, addr
}

func ask(t testing.TB, network, addr string, q *miekg.Msg) *miekg.Msg {
	t.Helper()
	c := miekg.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	m, _, err := c.Exchange(q, addr)
	if err != nil {
		t.Fatalf("ask %s %v: %v", network, q.Question, err)
	}
	return m
}

func question(name string, qtype uint16) *miekg.Msg {
	return new(miekg.Msg).SetQuestion(name, qtype)
}

// tell writes a reply as one line: code, flags, answers, and the zone of a
// negative one.
func tell(m *miekg.Msg) string {
	out := []string{miekg.RcodeToString[m.Rcode]}
	if m.Authoritative {
		out = append(out, "aa")
	}
	if m.Truncated {
		out = append(out, "tc")
	}
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		out = append(out, f[0], f[3], f[4])
	}
	for _, rr := range m.Ns {
		out = append(out, "ns", rr.Header().Name, miekg.TypeToString[rr.Header().Rrtype])
	}
	return strings.Join(out, " ")
}

func TestAnswers(t *testing.T) {
	s, addr := start(t, Options{TTL: 1})
	var failed uint64
	for _, c := range []struct{ name, qtype, want string }{
		{"db.weft.local.", "A", "NOERROR aa db.weft.local. A 10.32.0.2"},
		{"dB.Weft.LOCAL.", "A", "NOERROR aa dB.Weft.LOCAL. A 10.32.0.2"},
		{"web.weft.local.", "A", "NOERROR aa web.weft.local. A 10.32.0.1 web.weft.local. A 10.40.0.1"},
		{"web.weft.local.", "AAAA", "NOERROR aa ns weft.local. SOA"},
		{"Web.Weft.Local.", "MX", "NOERROR aa ns Weft.Local. SOA"},
		{"db.weft.local.", "AAAA", "NOERROR aa db.weft.local. AAAA fd00::2"},
		{"only6.weft.local.", "A", "NOERROR aa ns weft.local. SOA"},
		{"db.weft.local.", "ANY", "NOERROR aa db.weft.local. A 10.32.0.2 db.weft.local. AAAA fd00::2"},
		{"nosuch.weft.local.", "A", "NXDOMAIN aa ns weft.local. SOA"},
		{"x.web.weft.local.", "A", "NXDOMAIN aa ns weft.local. SOA"},
		{`w\.eb.weft.local.`, "A", "NXDOMAIN aa ns weft.local. SOA"},
		{"b.weft.local.", "A", "NOERROR aa ns weft.local. SOA"},
		{"weft.local.", "SOA", "NOERROR aa weft.local. SOA ns.dns.weft.local."},
		{"weft.local.", "A", "NOERROR aa ns weft.local. SOA"},
		{"web.weft.local.", "SOA", "NOERROR aa ns weft.local. SOA"},
		{"web.", "A", "NOERROR aa web. A 10.32.0.1 web. A 10.40.0.1"},
		{"DB.", "AAAA", "NOERROR aa DB. AAAA fd00::2"},
		{"web.", "AAAA", "NOERROR aa ns web. SOA"},
		{"b.", "A", "NXDOMAIN"},
		{"nosuch.", "A", "NXDOMAIN"},
		{"2.0.32.10.in-addr.arpa.", "PTR", "NOERROR aa 2.0.32.10.in-addr.arpa. PTR db.weft.local."},
		{"2.0.32.10.IN-ADDR.arpa.", "PTR", "NOERROR aa 2.0.32.10.IN-ADDR.arpa. PTR db.weft.local."},
		{"1.0.32.10.in-addr.arpa.", "PTR", "NOERROR aa 1.0.32.10.in-addr.arpa. PTR web.weft.local. 1.0.32.10.in-addr.arpa. PTR alias.weft.local."},
		{"2.0.32.10.in-addr.arpa.", "A", "NOERROR aa ns 32.10.in-addr.arpa. SOA"},
		{"9.9.47.10.in-addr.arpa.", "PTR", "NXDOMAIN aa ns 47.10.in-addr.arpa. SOA"},
		{"0.32.10.in-addr.arpa.", "PTR", "NOERROR aa ns 32.10.in-addr.arpa. SOA"},
		{"32.10.in-addr.arpa.", "SOA", "NOERROR aa 32.10.in-addr.arpa. SOA ns.dns.weft.local."},
		{"1.0.48.10.in-addr.arpa.", "PTR", "SERVFAIL"},
		{"10.in-addr.arpa.", "PTR", "SERVFAIL"},
		{"9.2.0.192.in-addr.arpa.", "PTR", "SERVFAIL"},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", "PTR",
			"NOERROR aa 2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR db.weft.local."},
		{"weft.local.", "NS", "NOERROR aa weft.local. NS ns.dns.weft.local."},
		{"weft.local.", "ANY", "NOERROR aa weft.local. SOA ns.dns.weft.local. weft.local. NS ns.dns.weft.local."},
		{"web.weft.local.", "TXT", "NOERROR aa web.weft.local. TXT \"version=1\""},
		{"_http._tcp.web.weft.local.", "SRV", "NOERROR aa _http._tcp.web.weft.local. SRV 0"},
		{"_tcp.web.weft.local.", "SRV", "NOERROR aa ns weft.local. SOA"},
		{"www.weft.local.", "A", "NOERROR aa www.weft.local. CNAME web.weft.local. web.weft.local. A 10.32.0.1 web.weft.local. A 10.40.0.1"},
		{"WWW.weft.local.", "AAAA", "NOERROR aa WWW.weft.local. CNAME web.weft.local. ns weft.local. SOA"},
		{"www.weft.local.", "CNAME", "NOERROR aa www.weft.local. CNAME web.weft.local."},
		{"www.", "A", "NOERROR aa www. CNAME web.weft.local. web.weft.local. A 10.32.0.1 web.weft.local. A 10.40.0.1"},
		{"two.weft.local.", "A", "NOERROR aa two.weft.local. CNAME db.weft.local. db.weft.local. A 10.32.0.2"},
		{"two.weft.local.", "CNAME", "NOERROR aa two.weft.local. CNAME db.weft.local."},
		{"two.weft.local.", "ANY", "NOERROR aa two.weft.local. CNAME db.weft.local."},
		{"both.weft.local.", "A", "NOERROR aa both.weft.local. A 10.32.0.79"},
		{"both.weft.local.", "CNAME", "NOERROR aa ns weft.local. SOA"},
		{"both.weft.local.", "ANY", "NOERROR aa both.weft.local. A 10.32.0.79"},
		{"x.apps.weft.local.", "A", "NOERROR aa x.apps.weft.local. A 10.32.0.77"},
		{"X.y.Apps.weft.local.", "A", "NOERROR aa X.y.Apps.weft.local. A 10.32.0.77"},
		{"*.apps.weft.local.", "A", "NOERROR aa *.apps.weft.local. A 10.32.0.77"},
		{"x.apps.weft.local.", "AAAA", "NOERROR aa ns weft.local. SOA"},
		{"own.apps.weft.local.", "A", "NOERROR aa own.apps.weft.local. A 10.32.0.78"},
		{"x.own.apps.weft.local.", "A", "NXDOMAIN aa ns weft.local. SOA"},
		{"apps.weft.local.", "A", "NOERROR aa ns weft.local. SOA"},
		{"loop.weft.local.", "A", "SERVFAIL"},
		{"loop.", "AAAA", "SERVFAIL"},
		{"ring1.weft.local.", "A", "SERVFAIL"},
		{"to-ring.weft.local.", "A", "SERVFAIL"},
		{"ring1.weft.local.", "CNAME", "NOERROR aa ring1.weft.local. CNAME ring2.weft.local."},
		{"out.weft.local.", "A", "SERVFAIL aa out.weft.local. CNAME example.com."},
		{"example.com.", "A", "SERVFAIL"},
		{".", "NS", "SERVFAIL"},
		{"weft.local.", "AXFR", "REFUSED"},
		{"web.weft.local.", "TSIG", "NOTIMP"},
		{"web.weft.local.", "OPT", "FORMERR"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := question(c.name, miekg.StringToType[c.qtype])
			m := ask(t, network, addr, q)
			if got := tell(m); got != c.want {
				t.Errorf("%s %s over %s:\n got %s\nwant %s", c.name, c.qtype, network, got, c.want)
			}
			if !m.RecursionAvailable || !m.RecursionDesired || m.Question[0] != q.Question[0] {
				t.Errorf("%s %s: flags or question: %v", c.name, c.qtype, m)
			}
			for _, rr := range append(m.Answer, m.Ns...) {
				if rr.Header().Ttl != 1 {
					t.Errorf("%s %s: TTL of %v", c.name, c.qtype, rr)
				}
			}
			if m.Rcode == miekg.RcodeServerFailure {
				failed++
			}
		}
	}
	if got := s.Counters().Failed; got != failed {
		t.Errorf("counted %d that failed, want %d", got, failed)
	}
}

func TestOtherKindsOfMessages(t *testing.T) {
	s, addr := start(t, Options{})
	q := question("web.weft.local.", miekg.TypeA)
	q.Question[0].Qclass = miekg.ClassCHAOS
	if m := ask(t, "udp", addr, q); m.Rcode != miekg.RcodeRefused {
		t.Errorf("class CH: %v", m)
	}
	q = question("web.weft.local.", miekg.TypeA)
	q.Opcode = miekg.OpcodeUpdate
	if m := ask(t, "udp", addr, q); m.Rcode != miekg.RcodeNotImplemented || m.Opcode != miekg.OpcodeUpdate {
		t.Errorf("update: %v", m)
	}
	q = question("web.weft.local.", miekg.TypeA)
	q.Question = append(q.Question, q.Question[0])
	if m := ask(t, "udp", addr, q); m.Rcode != miekg.RcodeFormatError {
		t.Errorf("two questions: %v", m)
	}
	if c := s.Counters(); c.Malformed != 3 || c.Queries != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestEDNS(t *testing.T) {
	_, addr := start(t, Options{})
	if m := ask(t, "udp", addr, question("db.weft.local.", miekg.TypeA)); m.IsEdns0() != nil {
		t.Errorf("EDNS unasked: %v", m)
	}
	q := question("db.weft.local.", miekg.TypeA).SetEdns0(4096, true)
	q.IsEdns0().Option = []miekg.EDNS0{
		&miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&miekg.EDNS0_LOCAL{Code: 65001, Data: []byte("unknown")},
	}
	m := ask(t, "udp", addr, q)
	opt := m.IsEdns0()
	if opt == nil || opt.UDPSize() != maxUDP || !opt.Do() || opt.Version() != 0 || len(opt.Option) != 0 || len(m.Answer) != 1 {
		t.Errorf("reply %v", m)
	}
	q = question("db.weft.local.", miekg.TypeA).SetEdns0(4096, false)
	q.IsEdns0().SetVersion(3)
	if m := ask(t, "udp", addr, q); m.Rcode != miekg.RcodeBadVers || m.IsEdns0() == nil || m.IsEdns0().Version() != 0 || len(m.Answer) != 0 {
		t.Errorf("version 3: %v", m)
	}
	q = question("db.weft.local.", miekg.TypeA).SetEdns0(4096, false)
	q.SetEdns0(512, false)
	if m := ask(t, "udp", addr, q); m.Rcode != miekg.RcodeFormatError {
		t.Errorf("two OPT: %v", m)
	}
}

func TestTruncation(t *testing.T) {
	_, addr := start(t, Options{})
	for _, c := range []struct {
		size uint16 // 0: no EDNS
		max  int
	}{{0, 512}, {100, 512}, {900, 900}, {4096, maxUDP}} {
		q := question("many.weft.local.", miekg.TypeA)
		if c.size != 0 {
			q.SetEdns0(c.size, false)
		}
		m := ask(t, "udp", addr, q)
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		m.Compress = true
		if n := m.Len(); !m.Truncated || n > c.max || n < c.max-16 {
			t.Errorf("size %d: truncated %v, %d bytes, want up to %d (%d uncompressed)", c.size, m.Truncated, n, c.max, len(packed))
		}
	}
	srv := ask(t, "udp", addr, question("_http._tcp.web.weft.local.", miekg.TypeSRV))
	if len(srv.Answer) != 1 || srv.Answer[0].(*miekg.SRV).Port != 8080 || len(srv.Extra) != 2 || srv.Extra[0].Header().Name != "web.weft.local." {
		t.Errorf("SRV without the addresses of its target: %v", srv)
	}
	m := ask(t, "tcp", addr, question("many.weft.local.", miekg.TypeA))
	if m.Truncated || len(m.Answer) != 200 {
		t.Errorf("over TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

func TestShuffledWithinRank(t *testing.T) {
	_, addr := start(t, Options{})
	firsts := make(map[string]bool)
	for range 20 {
		m := ask(t, "tcp", addr, question("many.weft.local.", miekg.TypeA))
		firsts[m.Answer[0].String()] = true
		if got := tell(ask(t, "udp", addr, question("web.weft.local.", miekg.TypeA))); !strings.HasSuffix(got, "10.32.0.1 web.weft.local. A 10.40.0.1") {
			t.Fatalf("the near one is not the first: %s", got)
		}
	}
	if len(firsts) < 2 {
		t.Error("always the same order")
	}
}

func TestSetTable(t *testing.T) {
	s, addr := start(t, Options{})
	s.SetTable(NewTable("weft.local", nil, records("h1", "web.weft.local.", "10.32.7.7")))
	if got := tell(ask(t, "udp", addr, question("web.weft.local.", miekg.TypeA))); got != "NOERROR aa web.weft.local. A 10.32.7.7" {
		t.Error(got)
	}
	if got := tell(ask(t, "udp", addr, question("db.weft.local.", miekg.TypeA))); got != "NXDOMAIN aa ns weft.local. SOA" {
		t.Error(got)
	}
}

// An answer is of one table, whenever the tables change.
func TestAnswersDoNotMixTables(t *testing.T) {
	s := newServer(t, Options{})
	tables := []*Table{
		NewTable("weft.local", nil, records("h", "web.weft.local", "10.1.0.1", "web.weft.local", "10.1.0.2")),
		NewTable("weft.local", nil, records("h", "web.weft.local", "10.2.0.1", "web.weft.local", "10.2.0.2")),
	}
	s.SetTable(tables[0])
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 500 {
				m := new(miekg.Msg)
				if err := m.Unpack(s.reply(t.Context(), question("web.weft.local.", miekg.TypeA), loopback.Addr(), true)); err != nil {
					t.Error(err)
				}
				if len(m.Answer) != 2 || m.Answer[0].(*miekg.A).A[1] != m.Answer[1].(*miekg.A).A[1] {
					t.Errorf("%v", m)
				}
			}
		})
	}
	for i := range 500 {
		s.SetTable(tables[i%2])
	}
	readers.Wait()
}

// Over UDP a stranger is told so; over TCP it gets no connection, and takes no place of those who may ask.
func TestStrangersAreRefused(t *testing.T) {
	friend := netip.MustParseAddr("127.0.0.2")
	s := newServer(t, Options{Allow: func(src netip.Addr) bool { return src == friend }})
	s.tcp.total = 1
	addr := listen(t, s)
	run(t, s)
	m := ask(t, "udp", addr, question("db.weft.local.", miekg.TypeA))
	if m.Rcode != miekg.RcodeRefused || len(m.Answer) != 0 || s.Counters().Refused != 1 {
		t.Errorf("%v, counters %+v", m, s.Counters())
	}
	for i := range uint64(5) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second)) // below what one may wait for a first question
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a stranger's connection stays: %v", err)
		}
		if got := s.Counters().Refused; got != 2+i {
			t.Errorf("%d were refused", got)
		}
	}
	d := miekg.Client{Net: "tcp", Timeout: 5 * time.Second, Dialer: &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(friend, 0))}}
	if m, _, err := d.Exchange(question("db.weft.local.", miekg.TypeA), addr); err != nil || m.Rcode != miekg.RcodeSuccess {
		t.Errorf("who may ask, beside strangers: %v, %v", m, err)
	}
}

func TestLargeAndShortPackets(t *testing.T) {
	_, addr := start(t, Options{})
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	// A valid query of 60,000 bytes: the padding is an option of EDNS.
	q := question("db.weft.local.", miekg.TypeA).SetEdns0(1232, false)
	q.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_PADDING{Padding: make([]byte, 60000)}}
	large, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{nil, {1}, large[:11], large} { // the first three get silence
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	m, err := (&miekg.Conn{Conn: c, UDPSize: 65535}).ReadMsg()
	if err != nil || m.Id != q.Id || len(m.Answer) != 1 {
		t.Errorf("%v %v", m, err)
	}
}

func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("dig is not installed")
		}
		t.Skip("dig is not installed")
	}
	_, addr := start(t, Options{TTL: 1})
	ap := netip.MustParseAddrPort(addr)
	for _, c := range []struct {
		args, want string
	}{
		{"+short db.weft.local", "10.32.0.2\n"},
		{"+short +tcp db.weft.local", "10.32.0.2\n"},
		{"+short -x 10.32.0.2", "db.weft.local.\n"},
		{"+noall +comments nosuch.weft.local", "status: NXDOMAIN"},
		{"+noall +authority db.weft.local MX", "SOA\tns.dns.weft.local. hostmaster.weft.local."},
		{"+noall +comments +cookie +nsid +subnet=192.0.2.0/24 db.weft.local", "status: NOERROR"},
	} {
		args := append([]string{"@" + ap.Addr().String(), "-p", fmt.Sprint(ap.Port()), "+time=5", "+tries=1"}, strings.Fields(c.args)...)
		out, err := exec.CommandContext(t.Context(), dig, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) || strings.Contains(string(out), ";; Warning") {
			t.Errorf("dig %s: %v\n%s", c.args, err, out)
		}
	}
}

func TestOptions(t *testing.T) {
	_, err := New(Options{Domain: "-bad.", TTL: 1 << 31, FallbackTimeout: -1, Upstream: []netip.AddrPort{{}}})
	for _, want := range []string{"domain", "TTL", "fallback timeout", "upstream"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not tell of the %s", err, want)
		}
	}
	s, err := New(Options{Domain: "Mesh.Example"})
	if err != nil || s.Table().Domain() != "mesh.example." {
		t.Errorf("%v %v", s.Table().Domain(), err)
	}
}
