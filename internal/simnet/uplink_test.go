package simnet

import (
	"io"
	"net/netip"
	"testing"
	"time"
)

// Streams share an uplink, a short one is not kept waiting by a long one, and nothing
// waits for what nobody reads any more.
func TestUplink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, a, b := pair(t, 1)
		other := n.Host("c", netip.MustParseAddr("192.168.48.13"))
		a.SetUplink(100 << 10)
		start := time.Now()
		done := make(chan time.Duration, 3)
		send := func(to *Host, size int, read bool) {
			ln, err := to.Listen(t.Context(), netip.AddrPortFrom(to.addrs[0], 7))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := a.Dial(t.Context(), netip.AddrPortFrom(to.addrs[0], 7))
			if err != nil {
				t.Fatal(err)
			}
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer c.Close()
				if _, err := c.Write(make([]byte, size)); err != nil && read {
					t.Error(err)
				}
			}()
			if !read {
				_ = s.Close()
				return
			}
			go func() {
				if got, err := io.Copy(io.Discard, s); got != int64(size) || err != nil {
					t.Errorf("%d of %d bytes: %v", got, size, err)
				}
				done <- time.Since(start)
			}()
		}
		send(b, 200<<10, true)
		send(other, 20<<10, true)
		send(other, 100<<10, false)
		p, err := a.ListenPacket(t.Context(), netip.AddrPortFrom(addrA, 9))
		if err != nil {
			t.Fatal(err)
		}
		q, err := b.ListenPacket(t.Context(), netip.AddrPortFrom(addrB, 9))
		if err != nil {
			t.Fatal(err)
		}
		sent := time.Now()
		if _, err := p.WriteTo(make([]byte, 1000), q.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := q.ReadFrom(make([]byte, 2000)); err != nil || time.Since(sent) > 2*time.Millisecond {
			t.Errorf("a datagram waits %v: %v", time.Since(sent), err)
		}
		for i, want := range []time.Duration{400 * time.Millisecond, 2200 * time.Millisecond} {
			if took := <-done; took < want || took > want+100*time.Millisecond {
				t.Errorf("stream %d ends after %v, want %v", i, took, want)
			}
		}
	})
}
