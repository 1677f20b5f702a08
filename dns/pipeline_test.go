package dns

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// dialFrom gives a connection of a client that has the address.
func dialFrom(t *testing.T, from netip.Addr, network, addr string) *miekg.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &miekg.Conn{Conn: c}
}

// All connections of a client wait for one turn, and nobody else does: however many it has, one at a time keeps a processor busy.
func TestOneTurnForAClient(t *testing.T) {
	s, addr := start(t, Options{})
	one, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	turn := s.turns.join(one)
	turn.Lock()
	var waiting []*miekg.Conn
	for range 3 {
		c := dialFrom(t, one, "tcp", addr)
		waiting = append(waiting, c)
		if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*miekg.Conn{dialFrom(t, other, "tcp", addr), dialFrom(t, other, "udp", addr), dialFrom(t, one, "udp", addr)} {
		if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
			t.Fatal(err)
		}
		if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Errorf("who has the turn or asks over UDP: %v %v", m, err)
		}
	}
	for i, c := range waiting {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d was answered out of turn: %d bytes, %v", i, n, err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	turn.Unlock()
	s.turns.leave(one)
	for i, c := range waiting {
		if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Errorf("connection %d: %v %v", i, m, err)
		}
		c.Close()
	}
	await(t, "all turns are given up", func() bool {
		s.turns.mu.Lock()
		defer s.turns.mu.Unlock()
		return s.turns.of[one] == nil
	})
}

// A connection that is not read keeps its client's others waiting for a moment only. When it is read, nothing is missing.
func TestUnreadConnectionKeepsNoTurn(t *testing.T) {
	s := newServer(t, Options{})
	s.tcp.write = time.Minute
	addr := listen(t, s)
	run(t, s)
	one := netip.MustParseAddr("127.0.0.1")
	unread := dialFrom(t, one, "tcp", addr)
	asked := framed(t, "many.weft.local.")
	sent, out := 0, bytes.Repeat(asked, 100)
	for {
		unread.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := unread.Conn.Write(out)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break // the server reads no more, since it can't write
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c := dialFrom(t, one, "tcp", addr)
	if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
		t.Fatal(err)
	}
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Errorf("another connection of the client: %v %v", m, err)
	}
	// Up to the one that had no room, and more: all are of a length, and begin with the question's ID.
	unread.SetReadDeadline(time.Now().Add(time.Minute))
	r, length := bufio.NewReader(unread.Conn), 0
	var packet []byte
	for i := range min(sent/len(asked), 10000) {
		var err error
		if packet, err = readMessage(r, packet); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if length = cmp.Or(length, len(packet)); len(packet) != length || !bytes.Equal(packet[:2], asked[2:4]) {
			t.Fatalf("answer %d has %d bytes and the ID %x", i, len(packet), packet[:2])
		}
	}
}

// Questions that one client pipelines, on one connection or on several at once.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct {
		name  string
		conns int
	}{{"one", 1}, {"eight", 8}} {
		b.Run(c.name, func(b *testing.B) {
			_, addr := start(b, Options{})
			const each = 500
			out := bytes.Repeat(framed(b, "db.weft.local."), each)
			var conns []net.Conn
			size := 0
			for range c.conns {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				conns = append(conns, conn)
				if size == 0 {
					conn.Write(out[:len(out)/each])
					buf := make([]byte, 512)
					if _, err := io.ReadFull(conn, buf[:2]); err != nil {
						b.Fatal(err)
					}
					size = 2 + int(buf[0])<<8 + int(buf[1])
					io.ReadFull(conn, buf[:size-2])
				}
			}
			done := make(chan error)
			left := (b.N + each*c.conns - 1) / (each * c.conns)
			b.ResetTimer()
			for _, conn := range conns {
				go func() {
					for range left {
						conn.Write(out)
					}
				}()
				go func() {
					_, err := io.CopyN(io.Discard, conn, int64(left)*each*int64(size))
					done <- err
				}()
			}
			for range conns {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
		})
	}
}
