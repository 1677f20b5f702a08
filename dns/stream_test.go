package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
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
func framed(t *testing.T, names ...string) (out []byte) {
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
