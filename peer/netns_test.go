package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// testHost is a thread with a network and a mount namespace of its own: a /run
// of its own, hence a place for control sockets that no other host sees. Child
// processes started on the thread are on the host too.
type testHost struct {
	t      *testing.T
	name   string
	runDir string
	tid    int
	id     *Identity
	calls  chan func()
	addr   netip.Addr // underlay
	inner  netip.Addr // on weftwg
	kind   Datapath   // zero: userspace
}

func newHost(t *testing.T, name string) *testHost {
	t.Helper()
	needRoot(t)
	h := &testHost{t: t, name: name, runDir: t.TempDir(), id: mustIdentity(t), calls: make(chan func())}
	up := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Never unlocked: the thread ends with this goroutine, and the
		// namespaces with the thread.
		runtime.LockOSThread()
		up <- h.unshare()
		for f := range h.calls {
			f()
		}
	}()
	err := <-up
	t.Cleanup(func() {
		if p, err := readProcess(h.runDir); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := p.stop(ctx); err != nil {
				t.Error(err)
			}
			reap(p.pid)
		}
		if t.Failed() {
			b, _ := os.ReadFile(logPath(h.runDir))
			t.Logf("device log of %s:\n%s", name, b)
		}
		close(h.calls)
		<-ended
	})
	if err != nil {
		t.Fatalf("make namespaces of %s: %v", name, err)
	}
	return h
}

func (h *testHost) unshare() error {
	h.tid = unix.Gettid()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// do runs f on the host.
func (h *testHost) do(f func() error) error {
	done := make(chan error, 1)
	h.calls <- func() { done <- f() }
	return <-done
}

func (h *testHost) must(what string, f func() error) {
	h.t.Helper()
	if err := h.do(f); err != nil {
		h.t.Fatalf("%s on %s: %v", what, h.name, err)
	}
}

func (h *testHost) options() Options {
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	return Options{
		Interface: "weftwg", ListenPort: 6783, PrivateKey: h.id.WireGuardPrivate(), RunDir: h.runDir, Links: links{}, inline: true,
		Datapath: cmp.Or(h.kind, Userspace), Executable: []string{self, "device", "--leash", fmt.Sprint(os.Getpid())},
	}
}

// try opens the host's device.
func (h *testHost) try(o Options) (d *Device, err error) {
	h.do(func() error {
		d, err = Open(h.t.Context(), o)
		return nil
	})
	return d, err
}

func (h *testHost) open() *Device {
	h.t.Helper()
	d, err := h.try(h.options())
	if err != nil {
		h.t.Fatalf("open on %s: %v (hint: %s)", h.name, err, hintOf(err))
	}
	return d
}

func (h *testHost) status(d *Device) (st []Status, err error) {
	h.do(func() error {
		st, err = d.Status()
		return nil
	})
	return st, err
}

// up does what package host does with the link.
func (h *testHost) up() {
	h.t.Helper()
	h.must("bring weftwg up", func() error {
		link, err := netlink.LinkByName("weftwg")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(netip.PrefixFrom(h.inner, 24).String())
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrReplace(link, addr), netlink.LinkSetUp(link))
	})
}

// listen opens a UDP socket on the host; the test may use it from anywhere.
func (h *testHost) listen(a netip.AddrPort) *net.UDPConn {
	h.t.Helper()
	var c *net.UDPConn
	h.must("listen", func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// links is package host's part.
type links struct{}

func (links) AddWireGuard(name string) error {
	return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

func (links) DeleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	return netlink.LinkDel(link)
}

// newPair makes two hosts on one wire.
func newPair(t *testing.T) (a, b *testHost) {
	t.Helper()
	a, b = newHost(t, "a"), newHost(t, "b")
	a.addr, b.addr = netip.MustParseAddr("192.168.48.11"), netip.MustParseAddr("192.168.48.12")
	a.inner, b.inner = netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", b.tid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	a.must("make the wire", func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())})
	})
	for _, h := range []*testHost{a, b} {
		h.must("address the wire", func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(netip.PrefixFrom(h.addr, 24).String())
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
		})
	}
	return a, b
}

// peerOf is how the others should have this host.
func (h *testHost) peerOf() Config {
	return Config{
		PublicKey: h.id.WireGuardPublic(), PresharedKey: Key{1, 2, 3}, Keepalive: 25 * time.Second,
		Endpoint: netip.AddrPortFrom(h.addr, 6783), AllowedIPs: []netip.Prefix{netip.PrefixFrom(h.inner, 32)},
	}
}

// passive is the same without an endpoint: it waits to be spoken to. Two hosts
// that speak at the same moment answer one another's handshake, drop their own,
// and try again after 5 s; that is WireGuard's way, and too slow for tests.
func passive(c Config) Config {
	c.Endpoint = netip.AddrPort{}
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for !ok() {
		if pause(ctx) != nil {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// load sends a packet every millisecond from a to b, which sends it back, until
// stop is called, which says how many were lost. It begins when the tunnel carries.
func load(t *testing.T, a, b *testHost) (stop func() (sent, lost int)) {
	t.Helper()
	to := netip.AddrPortFrom(b.inner, 7)
	echo := b.listen(to)
	conn := a.listen(netip.AddrPortFrom(a.inner, 0))
	var ends sync.WaitGroup
	ends.Go(func() {
		buf := make([]byte, 64)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			echo.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	buf := make([]byte, 64)
	eventually(t, "a packet comes back", func() bool {
		conn.WriteToUDPAddrPort([]byte("first"), to)
		conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := conn.Read(buf)
		return err == nil
	})
	conn.SetReadDeadline(time.Time{})

	var sent, got atomic.Int32
	halt := make(chan struct{})
	var sender, receiver sync.WaitGroup
	sender.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-halt:
				return
			case <-tick.C:
			}
			if _, err := conn.WriteToUDPAddrPort(fmt.Appendf(nil, "%08d", sent.Load()), to); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			sent.Add(1)
		}
	})
	back := make(map[string]bool)
	receiver.Go(func() {
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if n == 8 && !back[string(buf[:n])] { // not one of the first
				back[string(buf[:n])] = true
				got.Add(1)
			}
		}
	})
	return func() (int, int) {
		n := sent.Load()
		eventually(t, "50 more packets", func() bool { return sent.Load() > n+50 })
		close(halt)
		sender.Wait()
		// The last ones may be late on a busy machine.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for got.Load() < sent.Load() && pause(ctx) == nil {
		}
		conn.SetReadDeadline(time.Unix(1, 0))
		receiver.Wait()
		conn.Close()
		echo.Close()
		ends.Wait()
		return int(sent.Load()), int(sent.Load()) - len(back)
	}
}

// mustHint checks an error and its hint.
func mustHint(t *testing.T, err error, text, hint string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v: want %q in it", err, text)
	} else if h := hintOf(err); !strings.Contains(h, hint) {
		t.Errorf("error %v: hint %q: want %q in it", err, h, hint)
	}
}
