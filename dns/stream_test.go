package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

func TestStreams(t *testing.T) {
	s := newServer(t, Options{})
	s.tcp.idle = 100 * time.Millisecond
	s.tcp.perSource = 2
	addr := listen(t, s)
	run(t, s)

	open := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	// Several questions at once on one connection, answered in order, then silence.
	c := open()
	if _, err := c.Write(framed(t, "db.weft.local.", "nosuch.weft.local.", "web.weft.local.")); err != nil {
		t.Fatal(err)
	}
	co := miekg.Conn{Conn: c}
	var got []int
	for range 3 {
		m, err := co.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(m.Answer))
	}
	if !slices.Equal(got, []int{1, 0, 2}) {
		t.Errorf("answers %v", got)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("idle connection: %v, want end", err)
	}
	// One client can't have them all.
	a, b, third := open(), open(), open()
	_, _ = a, b
	if _, err := third.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("third connection: %v, want end", err)
	}
}

// framed gives questions for addresses as a client sends them at once over TCP.
func framed(t testing.TB, names ...string) (out []byte) {
	t.Helper()
	for _, name := range names {
		p, err := question(name, miekg.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(p))), p...)
	}
	return out
}

// On one connection, a name of the mesh and a public one are answered while another waits for upstream servers; and
// who sends more than may wait there is answered in full.
func TestPipeliningIsConcurrent(t *testing.T) {
	slow, many := make(chan struct{}), make(chan struct{})
	answerSlow, answerMany := sync.OnceFunc(func() { close(slow) }), sync.OnceFunc(func() { close(many) })
	live := answering("203.0.113.1", 60)
	up, asked := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		switch q.Question[0].Name[0] {
		case 's':
			<-slow
		case 'm':
			<-many
		}
		return live(q)
	})
	t.Cleanup(answerMany)
	t.Cleanup(answerSlow)
	_, addr := start(t, Options{Upstream: []netip.AddrPort{up}, FallbackTimeout: time.Minute})
	c, err := miekg.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Conn.Write(framed(t, "slow.example.com.", "db.weft.local.", "quick.example.com.")); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"db.weft.local.", "quick.example.com.", "slow.example.com."} {
		if i == 2 {
			answerSlow()
		}
		if m, err := c.ReadMsg(); err != nil || m.Question[0].Name != want || len(m.Answer) != 1 {
			t.Fatalf("%v %v, want the answer for %s", m, err, want)
		}
	}
	var names []string
	for i := range maxPerSource + 20 {
		names = append(names, fmt.Sprintf("m%d.example.com.", i))
	}
	if _, err := c.Conn.Write(framed(t, names...)); err != nil {
		t.Fatal(err)
	}
	c.Conn.(*net.TCPConn).CloseWrite() // what is in hand is answered all the same
	await(t, "they are at the upstream server", func() bool { return asked.Load() >= maxPipelined })
	answerMany()
	for range names {
		if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Fatalf("one of many at once: %v %v", m, err)
		}
	}
}

// All connections of a client share one bound on what is in hand, what comes after it waits, and what is in hand is small
// whatever the questions are.
func TestManyConnectionsOfOneClient(t *testing.T) {
	release := make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	live := answering("203.0.113.1", 60)
	up, asked := scripted(t, func(q *miekg.Msg) *miekg.Msg { <-release; return live(q) })
	t.Cleanup(answer)
	s, addr := start(t, Options{Upstream: []netip.AddrPort{up}, FallbackTimeout: time.Minute})
	s.resolver.mu.Lock()
	s.resolver.sources[client{addr: loopback.Addr()}] = maxPerSource // over UDP it has all its share in hand
	s.resolver.mu.Unlock()
	large := func(i int) []byte {
		q := question(fmt.Sprintf("n%d.example.com.", i), miekg.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_LOCAL{Code: 65001, Data: make([]byte, 65000)}}
		p, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
	}
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	ask(t, "udp", addr, question("db.weft.local.", miekg.TypeA)) // the server's own buffers are there
	before := heap()
	const conns, each = 10, 30
	var clients sync.WaitGroup
	for i := range conns {
		c, err := miekg.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		clients.Go(func() {
			for j := range each {
				if _, err := c.Conn.Write(large(each*i + j)); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			}
		})
		clients.Go(func() {
			for range each {
				if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
					t.Errorf("connection %d: %v %v", i, m, err)
					return
				}
			}
		})
	}
	await(t, "all that may be is in hand", func() bool { return asked.Load() >= maxPipelined })
	s.resolver.mu.Lock()
	if got := len(s.resolver.flights); got != maxPipelined {
		t.Errorf("%d questions in hand, want %d", got, maxPipelined)
	}
	s.resolver.mu.Unlock()
	await(t, "what is in hand takes little, when all have come to rest", func() bool { return heap()-before < maxPipelined*65000/2 })
	answer()
	clients.Wait()
	await(t, "all places are given back", func() bool {
		s.pipelined.mu.Lock()
		defer s.pipelined.mu.Unlock()
		return len(s.pipelined.of) == 0
	})
}

// Who loses the right to ask loses it on open connections, too.
func TestOpenConnectionOfAStranger(t *testing.T) {
	var no atomic.Bool
	_, addr := start(t, Options{Allow: func(netip.Addr) bool { return !no.Load() }})
	c, err := miekg.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, want := range []int{miekg.RcodeSuccess, miekg.RcodeRefused} {
		if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
			t.Fatal(err)
		}
		if m, err := c.ReadMsg(); err != nil || m.Rcode != want {
			t.Errorf("%v %v, want %s", m, err, miekg.RcodeToString[want])
		}
		no.Store(true)
	}
}

// failing is a listener that gives its errors, one after another, and then connections.
type failing struct {
	net.Listener
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) == 0 {
		c, _ := net.Pipe()
		return c, nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
}

// Errors of one connection, and want of room for another, don't end a listener.
func TestAcceptGoesOn(t *testing.T) {
	for _, c := range []struct {
		errs []error
		ends bool
	}{
		{[]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}, false},
		{[]error{syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.EPERM}, false},
		{[]error{syscall.EMFILE, syscall.EBADF}, true},
		{[]error{syscall.EINVAL}, true},
		{[]error{net.ErrClosed}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newTCPListener(&failing{errs: c.errs}, defaultTCPLimits, func(netip.Addr) bool { return true })
			conn, err := l.Accept()
			if err == nil {
				conn.Close()
			}
			if (err != nil) != c.ends {
				t.Errorf("%v: %v", c.errs, err)
			}
		})
	}
}

// A client that asks and never reads must not keep the server from ending.
func TestClientThatDoesNotRead(t *testing.T) {
	s := newServer(t, Options{})
	s.tcp.write = 50 * time.Millisecond
	addr := listen(t, s)
	stop := run(t, s)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	out := framed(t, "many.weft.local.")
	for {
		if _, err := c.Write(out); err != nil {
			if errors.Is(err, net.ErrClosed) || isTimeout(err) {
				t.Fatalf("write: %v, want a connection closed by the server", err)
			}
			break
		}
	}
	stop()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
