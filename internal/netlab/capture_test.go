package netlab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCaptureClassifies(t *testing.T) {
	l := newLab(t)
	a, b := newHost(t, l, "a"), newHost(t, l, "b")
	marker, absent := []byte("in-the-clear-0123456789"), []byte("never-sent-0123456789")
	file := filepath.Join(l.Dir(), "a.pcap")
	c, err := a.Capture(CaptureOptions{Markers: [][]byte{marker, absent}, File: file})
	if err != nil {
		t.Fatal(err)
	}
	if !pings(a, b, 5) {
		t.Fatal("no way")
	}
	send := func(port int, payload string) {
		t.Helper()
		err := a.Do(func() error {
			conn, err := net.Dial("udp", fmt.Sprintf("%v:%d", b.Addr(), port))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte(payload))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send(6783, "\x01\x00\x00\x00"+strings.Repeat("x", 144)) // WireGuard
	send(6783, "\x04\x00\x00\x00"+strings.Repeat("x", 60))  // WireGuard
	send(6783, "something else with "+string(marker))       // Other
	send(53, "a question")                                  // Other; each is answered by an ICMP error
	if _, _, err := a.Run("busybox", "nc", "-w", "1", b.Addr().String(), "6783"); err == nil {
		t.Error("somebody listens on port 6783")
	}
	sum := c.Stop()
	t.Logf("%+v", sum)
	if sum.Frames[WireGuard] != 2 || sum.Frames[Join] != 2 || sum.Frames[Other] != 2 || sum.Frames[ARP] < 2 || sum.Frames[ICMP] < 2 || sum.Frames[ICMPv6] != 0 {
		t.Errorf("frames by class: %v", sum.Frames)
	}
	if len(sum.Other) != 2 || !strings.Contains(sum.Other[0], "> 192.168.48.12:6783") || !strings.Contains(sum.Other[1], "> 192.168.48.12:53") {
		t.Errorf("other frames: %q", sum.Other)
	}
	if sum.Lost != 0 || sum.Err != nil {
		t.Errorf("lost %d frames, error %v", sum.Lost, sum.Err)
	}
	if found, err := c.Contains(marker); !found || err != nil {
		t.Errorf("marker found: %v, %v", found, err)
	}
	if found, err := c.Contains(absent); found || err != nil {
		t.Errorf("absent marker found: %v, %v", found, err)
	}
	if _, err := c.Contains([]byte("unknown")); err == nil {
		t.Error("an unknown marker was looked up")
	}
	if diff := cmp.Diff(sum, c.Stop()); diff != "" {
		t.Errorf("a second stop differs: %s", diff)
	}

	pcap, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var frames int
	for rest := pcap[24:]; len(rest) >= 16; frames++ {
		rest = rest[16+binary.LittleEndian.Uint32(rest[8:]):]
	}
	total := 0
	for _, n := range sum.Frames {
		total += n
	}
	if frames != total || !bytes.Contains(pcap, marker) {
		t.Errorf("the file holds %d frames of %d", frames, total)
	}
}

// TestCaptureKeepsUp copies as much as the integration tests do, and loses no frame.
func TestCaptureKeepsUp(t *testing.T) {
	l := newLab(t)
	a, b := newHost(t, l, "a"), newHost(t, l, "b")
	marker := []byte("marker-at-the-very-end")
	c, err := a.Capture(CaptureOptions{Markers: [][]byte{marker}})
	if err != nil {
		t.Fatal(err)
	}
	const size = 100 << 20
	start := time.Now()
	transfer(t, a, b, size, marker)
	sum := c.Stop()
	t.Logf("%d bytes of frames in %v", sum.Bytes, time.Since(start))
	if sum.Lost != 0 || sum.Bytes < size {
		t.Errorf("%d frames lost, %d bytes seen", sum.Lost, sum.Bytes)
	}
	if found, err := c.Contains(marker); !found || err != nil {
		t.Errorf("marker found: %v, %v", found, err)
	}
}

// transfer sends size zeros and an end over TCP from a to b.
func transfer(t *testing.T, a, b *Host, size int, end []byte) {
	t.Helper()
	addr := netip.AddrPortFrom(b.Addr(), 8000).String()
	var in net.Listener
	err := b.Do(func() (err error) { in, err = net.Listen("tcp", addr); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got := make(chan int64, 1)
	go func() {
		var n int64
		defer func() { got <- n }()
		conn, err := in.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		n, _ = io.Copy(io.Discard, conn)
	}()
	err = a.Do(func() error {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		_, err = io.Copy(conn, io.MultiReader(bytes.NewReader(make([]byte, size)), bytes.NewReader(end)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != int64(size+len(end)) {
		t.Errorf("%d bytes arrived of %d", n, size+len(end))
	}
}
