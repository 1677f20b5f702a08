package host

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needRoot skips a developer without root, and fails in CI.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// space is a network namespace that only an open file keeps alive: nothing stays
// behind, however the test ends.
type space struct {
	t    *testing.T
	file *os.File
}

func newSpace(t *testing.T) *space {
	t.Helper()
	needRoot(t)
	s := &space{t: t}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var err error
		s.file, err = os.Open("/proc/thread-self/ns/net")
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { s.file.Close() })
	s.run("ip", "link", "set", "lo", "up")
	return s
}

// path is how the namespace is given to the code under test.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd()) }

// in runs f on a thread of the namespace.
func (s *space) in(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := netns.Set(netns.NsHandle(s.file.Fd())); err != nil {
			s.t.Errorf("enter network namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// try runs a command in the namespace.
func (s *space) try(name string, args ...string) (string, error) {
	var out bytes.Buffer
	var err error
	s.in(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Run()
	})
	return out.String(), err
}

func (s *space) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// sh runs a script.
func (s *space) sh(script string) string { s.t.Helper(); return s.run("sh", "-ec", script) }

// testHost is a space with a Host under test in it.
type testHost struct {
	*space
	h *Host
	c Config
}

var (
	testControl = netip.MustParseAddr("fd57:4e1f:aa01:1::1")
	testPrefix  = netip.MustParsePrefix("fd57:4e1f:aa01::/48")
)

func newTestHost(t *testing.T) *testHost {
	t.Helper()
	s := newSpace(t)
	h, err := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	return &testHost{s, h, Config{
		Control: testControl, ControlPrefix: testPrefix, GossipPort: 7946, JoinPort: 6783, ListenPort: 6783, MTU: 1420,
		Covered: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")},
		DNS:     []netip.AddrPort{netip.AddrPortFrom(Gateway, 53)},
	}}
}

func (h *testHost) set() {
	h.t.Helper()
	if err := h.trySet(); err != nil {
		h.t.Fatalf("Set: %v", err)
	}
}

func (h *testHost) trySet() (err error) {
	h.in(func() { err = h.h.Set(h.c) })
	return err
}

// container attaches a new namespace with the given addresses.
func (h *testHost) container(key string, addrs ...string) *space {
	h.t.Helper()
	s := newSpace(h.t)
	h.attach(s, key, addrs...)
	return s
}

func (h *testHost) attach(s *space, key string, addrs ...string) (mac string) {
	h.t.Helper()
	p := Port{NetNS: s.path(), Key: key, MTU: 1420, Multicast: true}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParsePrefix(a))
	}
	for _, d := range h.c.DNS {
		p.DNS = append(p.DNS, d.Addr())
	}
	var err error
	h.in(func() { mac, err = h.h.Attach(p) })
	if err != nil {
		h.t.Fatalf("Attach %s: %v", key, err)
	}
	for i, l := range h.c.Local {
		if l.Veth == VethName(key) {
			h.c.Local[i].Addrs = p.Addrs
			h.set()
			return mac
		}
	}
	h.c.Local = append(h.c.Local, Local{VethName(key), p.Addrs})
	h.set()
	return mac
}

// tunnel stands in for WireGuard: a TUN device named weftwg. Packets that the host
// sends into it come out of the channel; send puts packets in.
type tunnel struct {
	file *os.File
	out  chan []byte
}

func (h *testHost) tunnel() *tunnel {
	h.t.Helper()
	tun := &tunnel{out: make(chan []byte, 1000)}
	var err error
	h.in(func() {
		var fd int
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return
		}
		req, _ := unix.NewIfreq("weftwg")
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err == nil {
			tun.file = os.NewFile(uintptr(fd), "weftwg")
		}
	})
	if err != nil {
		h.t.Fatalf("make TUN device: %v", err)
	}
	go func() {
		defer close(tun.out)
		buf := make([]byte, 70000)
		for {
			n, err := tun.file.Read(buf)
			if err != nil {
				return
			}
			select {
			case tun.out <- bytes.Clone(buf[:n]):
			default:
			}
		}
	}()
	h.t.Cleanup(func() {
		tun.file.Close()
		for range tun.out { // until the reader has ended
		}
	})
	return tun
}

// join is the mesh between two hosts.
func join(t *testing.T, a, b *tunnel) {
	t.Helper()
	pass := func(from, to *tunnel) {
		for p := range from.out {
			to.file.Write(p)
		}
	}
	go pass(a, b)
	go pass(b, a)
}

const patience = 3 * time.Second      // for what must arrive
const moment = 150 * time.Millisecond // for what must not: its company has long arrived

// echo is a UDP server that answers with what it got, until the test ends.
func (s *space) echo(port int) { s.t.Helper(); s.echoAt(fmt.Sprintf(":%d", port)) }

// echoAt answers from the address that was asked.
func (s *space) echoAt(addr string) {
	s.t.Helper()
	var c net.PacketConn
	var err error
	s.in(func() { c, err = net.ListenPacket("udp", addr) })
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 70000)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	s.t.Cleanup(func() { c.Close(); <-done })
}

// ask sends a UDP packet from the address (empty: the kernel's choice) and waits
// for its answer.
func (s *space) ask(from, to string, wait time.Duration) error {
	var err error
	s.in(func() {
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		var c net.Conn
		if c, err = d.Dial("udp", to); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		if _, err = c.Write([]byte("hello")); err != nil {
			return
		}
		_, err = c.Read(make([]byte, 10))
	})
	return err
}

func (s *space) reaches(to string) {
	s.t.Helper()
	if err := s.ask("", to, patience); err != nil {
		s.t.Errorf("%s does not answer: %v", to, err)
	}
}

func (s *space) misses(to string) {
	s.t.Helper()
	if err := s.ask("", to, moment); err == nil {
		s.t.Errorf("%s answers", to)
	}
}

// icmp sends an echo request and waits for the reply.
func (s *space) icmp(from, to string, wait time.Duration) error {
	var err error
	s.in(func() {
		var c net.PacketConn
		if c, err = net.ListenPacket("ip4:icmp", from); err != nil {
			return
		}
		defer c.Close()
		request := []byte{8, 0, 0, 0, 0x57, 0xef, 0, 1}
		sum := uint32(8<<8) + 0x57ef + 1
		request[2], request[3] = byte(^sum>>8), byte(^sum)
		if _, err = c.WriteTo(request, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(wait))
		buf := make([]byte, 1500)
		for {
			n, peer, e := c.ReadFrom(buf)
			if e != nil {
				err = e
				return
			}
			if n >= 8 && buf[0] == 0 && peer.String() == to {
				return
			}
		}
	})
	return err
}
