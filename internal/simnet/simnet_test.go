package simnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	addrA = netip.MustParseAddr("192.168.48.11")
	addrB = netip.MustParseAddr("192.168.48.12")
	portB = netip.AddrPortFrom(addrB, 7)
)

func pair(t *testing.T, seed uint64) (*Net, *Host, *Host) {
	t.Helper()
	n := New(seed)
	return n, n.Host("a", addrA), n.Host("b", addrB)
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceEnabled {
		t.Skip("bubbles crash the race detector: run without -race")
	}
	synctest.Test(t, f)
}

func stream(t *testing.T, a, b *Host) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := b.Listen(t.Context(), portB)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := a.Dial(t.Context(), portB)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestStreamKeepsOrderThroughLossAndCut(t *testing.T) {
	n, a, b := pair(t, 7)
	n.SetDefault(Link{Loss: 0.3, Jitter: 3 * time.Millisecond})
	c, s := stream(t, a, b)
	defer s.Close()
	const size = 600 << 10 // more than the window
	go func() {
		for i := 0; i < size; i += 1 << 10 {
			piece := make([]byte, 1<<10)
			for j := range piece {
				piece[j] = byte(i>>10 + j)
			}
			if i == size/2 {
				n.Cut(a, b)
				time.AfterFunc(50*time.Millisecond, func() { n.Heal(a, b) })
			}
			if _, err := c.Write(piece); err != nil {
				t.Error(err)
				return
			}
		}
		c.Close()
	}()
	got, err := io.ReadAll(s)
	if err != nil || len(got) != size {
		t.Fatalf("%d bytes of %d: %v", len(got), size, err)
	}
	for i, x := range got {
		if x != byte(i>>10+i&1023) {
			t.Fatalf("byte %d is wrong", i)
		}
	}
}

func TestErrorsAreOpErrors(t *testing.T) {
	_, a, b := pair(t, 1)
	refused := func(err error, what error, op string) {
		t.Helper()
		oe, ok := err.(*net.OpError)
		if !ok || oe.Op != op || !errors.Is(err, what) {
			t.Errorf("%#v, want %s: %v", err, op, what)
		}
	}
	_, err := a.Dial(t.Context(), portB)
	refused(err, syscall.ECONNREFUSED, "dial")

	c, s := stream(t, a, b)
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	refused(err, os.ErrDeadlineExceeded, "read")
	_ = c.SetReadDeadline(time.Time{})
	b.Kill()
	_, err = c.Read(make([]byte, 1))
	refused(err, syscall.ECONNRESET, "read")
	_, err = s.Read(make([]byte, 1))
	refused(err, net.ErrClosed, "read")
	_, err = c.Write([]byte("x"))
	refused(err, syscall.EPIPE, "write")
}

func TestCrashIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, a, b := pair(t, 1)
		c, _ := stream(t, a, b)
		b.Crash()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := a.Dial(ctx, portB)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("dial a dead host: %v after %v", err, time.Since(start))
		}
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Errorf("write towards a dead host: %v", err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read from a dead host: %v", err)
		}
		if _, err := c.Write(make([]byte, 2*streamWindow)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write over the window: %v", err)
		}
	})
}

func TestDatagrams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		count := func(seed uint64, l Link) (got int) {
			n, a, b := pair(t, seed)
			n.SetDefault(l)
			p, err := a.ListenPacket(t.Context(), netip.AddrPortFrom(addrA, 7))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			q, err := b.ListenPacket(t.Context(), portB)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			for range 400 {
				if _, err := p.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(portB)); err != nil {
					t.Fatal(err)
				}
			}
			_ = q.SetReadDeadline(time.Now().Add(time.Second))
			for {
				if _, from, err := q.ReadFrom(make([]byte, 10)); err != nil {
					return got
				} else if from.String() != "192.168.48.11:7" {
					t.Fatalf("from %v", from)
				}
				got++
			}
		}
		if n := count(1, Link{}); n != 400 {
			t.Errorf("%d of 400 arrive", n)
		}
		lossy := count(1, Link{Loss: 0.2})
		if lossy < 280 || lossy > 360 || count(1, Link{Loss: 0.2}) != lossy {
			t.Errorf("%d of 400 arrive at 20 %% loss, and then %d with the same seed", lossy, count(1, Link{Loss: 0.2}))
		}
		if n := count(1, Link{Cut: true}); n != 0 {
			t.Errorf("%d arrive through a cut", n)
		}
	})
}

func TestGate(t *testing.T) {
	n, a, b := pair(t, 1)
	ln, err := b.Listen(t.Context(), netip.AddrPortFrom(netip.IPv6Unspecified(), 7))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n.SetGate(func(src, dst netip.Addr) bool { return src == addrB })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Dial(ctx, portB); err == nil {
		t.Error("the gate is open")
	}
	n.SetGate(nil)
	if _, err := a.Dial(t.Context(), portB); err != nil {
		t.Error(err)
	}
	if age, ok := b.LastReceive(addrA); !ok || age > time.Minute {
		t.Errorf("heard %v ago, %v", age, ok)
	}
}
