package simnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
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
	t.Run("lossy, in virtual time", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			streamKeepsOrder(t, Link{Loss: 0.3, Jitter: 3 * time.Millisecond}, 600<<10) // more than the window
		})
	})
	t.Run("in real time", func(t *testing.T) { streamKeepsOrder(t, Link{Jitter: time.Millisecond}, 600<<10) })
}

func streamKeepsOrder(t *testing.T, l Link, size int) {
	n, a, b := pair(t, 7)
	n.SetDefault(l)
	c, s := stream(t, a, b)
	defer s.Close()
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

// Each loss of one packet costs twice as much as the one before, as TCP's timers do.
func TestLossHurtsStreams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, a, b := pair(t, 1)
		c, s := stream(t, a, b)
		healed := func(after time.Duration, f func()) time.Duration {
			start := time.Now()
			n.CutOneWay(a, b)
			time.AfterFunc(after, func() { n.Heal(a, b) })
			f()
			return time.Since(start)
		}
		took := healed(1300*time.Millisecond, func() {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := s.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
		if want := 1401 * time.Millisecond; took != want { // sent at 0, 200, 600 and 1400 ms
			t.Errorf("a lost byte takes %v, want %v", took, want)
		}
		ln, err := b.Listen(t.Context(), portB)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		took = healed(2*time.Second, func() {
			if _, err := a.Dial(t.Context(), portB); err != nil {
				t.Error(err)
			}
		})
		if want := 3002 * time.Millisecond; took != want { // a SYN at 0, 1 and 3 s
			t.Errorf("a lost dial takes %v, want %v", took, want)
		}
	})
}

// What a stream's sender hears of the other side are the acknowledgements, and they go
// the way back.
func TestAcknowledgementsTravel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, a, b := pair(t, 1)
		c, s := stream(t, a, b)
		defer s.Close()
		go func() { _, _ = io.Copy(io.Discard, s) }()
		silent := func() time.Duration {
			age, _ := a.LastReceive(addrB)
			return age
		}
		n.SetLink(b, a, Link{Delay: time.Second})
		time.Sleep(time.Minute)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if time.Sleep(900 * time.Millisecond); silent() < time.Minute {
			t.Errorf("an acknowledgement took %v less than a second", silent())
		}
		if time.Sleep(200 * time.Millisecond); silent() > 100*time.Millisecond {
			t.Errorf("no acknowledgement for %v", silent())
		}

		n.CutOneWay(b, a)
		time.Sleep(time.Minute)
		_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
		wrote, err := c.Write(make([]byte, 2*streamWindow))
		if wrote != streamWindow || !errors.Is(err, os.ErrDeadlineExceeded) || silent() < 2*time.Minute {
			t.Errorf("without a way back: %d bytes written, %v; heard %v ago", wrote, err, silent())
		}
		if age, _ := b.LastReceive(addrA); age > time.Minute {
			t.Errorf("the sender does not repeat what is not acknowledged, for %v", age)
		}
		n.Heal(a, b)
		_ = c.SetWriteDeadline(time.Now().Add(3 * time.Minute))
		if wrote, err := c.Write(make([]byte, 2*streamWindow)); err != nil {
			t.Errorf("healed: %d bytes written, %v", wrote, err)
		}
	})
}

// What a machine had not sent when its power was cut nobody sends when it is back.
func TestCrashEndsRepetitions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, a, b := pair(t, 1)
		c, s := stream(t, a, b)
		n.CutOneWay(a, b)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		a.Crash()
		a.Up()
		n.Heal(a, b)
		_ = s.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes came from before the crash, %v", n, err)
		}
		if age, _ := b.LastReceive(addrA); age < time.Minute {
			t.Errorf("something came %v ago", age)
		}
	})
}

// exchange sends 400 numbered datagrams, a millisecond apart, and returns those that come, in order.
func exchange(t *testing.T, seed uint64, l Link, before func(n *Net, a, b *Host)) (got []int, took time.Duration, sent Traffic) {
	t.Helper()
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
	if before != nil {
		before(n, a, b)
	}
	start := time.Now()
	for i := range 400 {
		time.Sleep(time.Millisecond)
		if _, err := p.WriteTo([]byte{byte(i >> 8), byte(i)}, net.UDPAddrFromAddrPort(portB)); err != nil {
			t.Fatal(err)
		}
	}
	_ = q.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		buf := make([]byte, 10)
		if _, from, err := q.ReadFrom(buf); err != nil {
			return got, took, a.Sent()
		} else if from.String() != "192.168.48.11:7" {
			t.Fatalf("from %v", from)
		}
		got, took = append(got, int(buf[0])<<8|int(buf[1])), time.Since(start)
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
		got, _, sent := exchange(t, 1, Link{}, nil)
		if len(got) != 400 || sent != (Traffic{Datagrams: 400, DatagramBytes: 800}) {
			t.Errorf("%d of 400 arrive, counted %+v", len(got), sent)
		}
		lossy := Link{Loss: 0.2}
		got, _, sent = exchange(t, 1, lossy, nil)
		if len(got) < 280 || len(got) > 360 || sent.Packets() != 400 {
			t.Errorf("%d of 400 arrive at 20 %% loss, counted %+v", len(got), sent)
		}
		if again, _, _ := exchange(t, 1, lossy, nil); !slices.Equal(again, got) {
			t.Error("the same seed loses others")
		}
		if other, _, _ := exchange(t, 2, lossy, nil); slices.Equal(other, got) {
			t.Error("another seed loses the same")
		}
		if got, _, _ := exchange(t, 1, Link{Cut: true}, nil); len(got) != 0 {
			t.Errorf("%d arrive through a cut", len(got))
		}
		got, _, _ = exchange(t, 1, Link{Dup: 0.1}, nil)
		once := slices.Compact(slices.Sorted(slices.Values(got)))
		if len(got) < 420 || len(got) > 460 || len(once) != 400 {
			t.Errorf("%d datagrams arrive, %d different ones, of 400 with 10 %% repeated", len(got), len(once))
		}
		got, _, _ = exchange(t, 1, Link{Jitter: 10 * time.Millisecond}, nil)
		if len(got) != 400 || slices.IsSorted(got) {
			t.Errorf("%d arrive, in order %v", len(got), slices.IsSorted(got))
		}
		if got, _, _ = exchange(t, 1, Link{Delay: 10 * time.Millisecond}, nil); !slices.IsSorted(got) {
			t.Error("reordered without jitter")
		}
	})
}

// What a host sends or gets while it stands still waits.
func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for name, pick := range map[string]func(a, b *Host) *Host{
			"sender":   func(a, _ *Host) *Host { return a },
			"receiver": func(_, b *Host) *Host { return b },
		} {
			got, took, _ := exchange(t, 1, Link{Delay: time.Millisecond}, func(_ *Net, a, b *Host) { pick(a, b).Pause(3 * time.Second) })
			if len(got) != 400 || took < 3*time.Second || took > 3*time.Second+2*time.Millisecond {
				t.Errorf("the %s stands still: %d arrive, after %v", name, len(got), took)
			}
			_, a, b := pair(t, 1)
			c, s := stream(t, a, b)
			pick(a, b).Pause(3 * time.Second)
			start := time.Now()
			_, err := c.Write([]byte("x"))
			if _, e := s.Read(make([]byte, 1)); err != nil || e != nil || time.Since(start) < 3*time.Second {
				t.Errorf("the %s of a stream stands still: %v, %v after %v", name, err, e, time.Since(start))
			}
		}
	})
}

func TestStreamIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, a, b := pair(t, 1)
		c, s := stream(t, a, b)
		before := a.Sent()
		if _, err := c.Write(make([]byte, 3*segmentSize+1)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, 3*segmentSize+1)); err != nil {
			t.Fatal(err)
		}
		if got := a.Sent().Sub(before); got != (Traffic{Segments: 4, StreamBytes: 3*segmentSize + 1}) {
			t.Errorf("counted %+v", got)
		}
		if got := b.Sent(); got != (Traffic{Segments: 1 + 2}) { // SYN-ACK, and an acknowledgement for every other
			t.Errorf("the other side counted %+v", got)
		}
	})
}

func TestGate(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
	})
}
