package dns

import (
	"errors"
	"io"
	"net"
	"slices"
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
	var out []byte
	for _, name := range []string{"db.weft.local.", "nosuch.weft.local.", "web.weft.local."} {
		p, _ := question(name, miekg.TypeA).Pack()
		out = append(append(out, byte(len(p)>>8), byte(len(p))), p...)
	}
	if _, err := c.Write(out); err != nil {
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
	p, _ := question("many.weft.local.", miekg.TypeA).Pack()
	framed := append([]byte{byte(len(p) >> 8), byte(len(p))}, p...)
	for {
		if _, err := c.Write(framed); err != nil {
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
