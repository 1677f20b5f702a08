package peer

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRemove(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	d := h.open()
	p := mustProcess(t, h)
	for range 2 {
		h.must("remove", func() error { return d.Remove(t.Context()) })
		if p.alive() {
			t.Error("the device process lives")
		}
		if err := unix.Kill(p.pid, 0); err == nil {
			t.Error("the device process is a zombie")
		}
		h.must("look", func() error {
			if _, err := net.InterfaceByName("weftwg"); err == nil {
				t.Error("the link is there")
			}
			if _, err := os.Stat(socketPath("weftwg")); err == nil {
				t.Error("the socket is there")
			}
			if _, err := os.Stat(pidPath(h.runDir)); err == nil {
				t.Error("the pid file is there")
			}
			return nil
		})
	}
	// With the pid file lost it ends by its link.
	d = h.open()
	p = mustProcess(t, h)
	os.Remove(pidPath(h.runDir))
	h.must("remove", func() error { return d.Remove(t.Context()) })
	eventually(t, "the process ends", func() bool { reap(p.pid); return !p.alive() })
}

// TestRemoveOffline: without a Device, as "weft stop" after a router was killed.
func TestRemoveOffline(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	remove := func() {
		t.Helper()
		h.must("remove", func() error { return Remove(t.Context(), h.options()) })
		h.must("look", func() error {
			if _, err := net.InterfaceByName("weftwg"); err == nil {
				t.Error("the link is there")
			}
			if _, err := os.Stat(socketPath("weftwg")); err == nil {
				t.Error("the socket is there")
			}
			return nil
		})
	}
	remove() // nothing
	h.open().Close()
	p := mustProcess(t, h)
	remove()
	if p.alive() {
		t.Error("the device process lives")
	}
	h.open().Close()
	p = mustProcess(t, h)
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is dead", func() bool { return !p.alive() })
	remove() // what a killed process leaves
	h.must("bridge", func() error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weftwg"}}) })
	h.must("remove", func() error { return Remove(t.Context(), h.options()) })
	h.must("look", func() error { _, err := net.InterfaceByName("weftwg"); return err })
}

// TestDeviceDies: killed, without its link, without its socket: the next Open
// makes a new one.
func TestDeviceDies(t *testing.T) {
	t.Parallel()
	a, b, da, _ := tunnel(t)
	for _, c := range []struct {
		name string
		harm func() error
	}{
		{"process killed", func() error { return unix.Kill(mustProcess(t, a).pid, unix.SIGKILL) }},
		{"link deleted", func() error { return links{}.DeleteLink("weftwg") }},
		{"socket removed", func() error { return os.Remove(socketPath("weftwg")) }},
	} {
		p := mustProcess(t, a)
		a.must(c.name, c.harm)
		eventually(t, c.name+": ErrGone", func() bool { _, err := a.status(da); return errors.Is(err, ErrGone) })
		if err := a.do(func() error { return da.Set(nil) }); !errors.Is(err, ErrGone) {
			t.Errorf("%s: Set: %v", c.name, err)
		}
		d := a.open()
		if now := mustProcess(t, a); now == p {
			t.Errorf("%s: process %v again", c.name, p)
		}
		a.must("close", da.Close)
		*da = Device{o: d.o, kind: d.kind, control: d.control, child: d.child}
		a.must("set", func() error { return da.Set([]Config{b.peerOf()}) })
		a.up()
		load(t, a, b)()
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	_, err := h.try(Options{Interface: "much-too-long-for-linux", ListenPort: 70000, MTU: 1000, Datapath: "fast"})
	for _, text := range []string{"interface name", "listen port", "private key", "mtu 1000", "datapath", "run directory"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: want %q in it", err, text)
		}
	}
	o := h.options()
	o.Datapath = Kernel
	for _, o.Links = range []LinkAdder{noKernel{}, nil} {
		_, err = h.try(o)
		mustHint(t, err, "this kernel has no WireGuard", "modprobe wireguard")
	}
	o.Links = broken{}
	o.Datapath = Auto
	_, err = h.try(o)
	mustHint(t, err, "no permission", "")

	foreign := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weftwg"}}
	h.must("bridge", func() error { return netlink.LinkAdd(foreign) })
	_, err = h.try(h.options())
	mustHint(t, err, "interface weftwg exists and is not a WireGuard device", "ip link delete weftwg")
	var pid int
	h.do(func() error { pid, err = startProcess(t.Context(), h.options()); return nil })
	mustHint(t, err, "make interface weftwg: it exists", "ip link delete weftwg")
	if pid != 0 {
		t.Errorf("pid %d", pid)
	}
	h.must("no bridge", func() error { return netlink.LinkDel(foreign) })

	c := h.listen(netip.MustParseAddrPort("0.0.0.0:6783"))
	_, err = h.try(h.options())
	mustHint(t, err, "listen on UDP port 6783: it is in use", "ss -lunp")
	h.must("look", func() error {
		if _, err := net.InterfaceByName("weftwg"); err == nil {
			t.Error("the link is left behind")
		}
		return nil
	})
	c.Close()

	o = h.options()
	o.Executable = []string{"/bin/false"}
	o.Datapath = Userspace
	_, err = h.try(o)
	mustHint(t, err, "it ended with exit status 1 (see "+logPath(h.runDir)+")", "")
	o.Executable = []string{"/nowhere/weft"}
	_, err = h.try(o)
	mustHint(t, err, "/nowhere/weft", "")

	o = h.options()
	o.Datapath, o.Links = Auto, noKernel{}
	d, err := h.try(o)
	if err != nil || d.Kind() != Userspace {
		t.Fatalf("auto: %v", err)
	}
	d.Close()
	o.Datapath = Kernel
	_, err = h.try(o)
	mustHint(t, err, "weftwg lives as a userspace device, and a kernel device was asked for", "weft stop")
}

// TestOpenSetsWhatDiffers: key and port of an adopted device, and its MTU never.
func TestOpenSetsWhatDiffers(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	h.inner = netip.MustParseAddr("10.32.0.1")
	h.open().Close()
	h.up()
	o := h.options()
	o.PrivateKey, o.ListenPort = mustIdentity(t).WireGuardPrivate(), 6784
	d, err := h.try(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	h.must("look", func() error {
		dev, err := d.control.client.Device("weftwg")
		if err == nil && (Key(dev.PrivateKey) != o.PrivateKey || dev.ListenPort != 6784) {
			t.Errorf("port %d, or another key", dev.ListenPort)
		}
		return err
	})
	h.must("mtu", func() error {
		link, err := netlink.LinkByName("weftwg")
		if err != nil {
			return err
		}
		if got := link.Attrs().MTU; got != DefaultMTU {
			t.Errorf("MTU %d", got)
		}
		return netlink.LinkSetMTU(link, 1300)
	})
	eventually(t, "the device follows the link's MTU", func() bool {
		b, _ := os.ReadFile(logPath(h.runDir))
		return bytes.Contains(b, []byte("MTU updated: 1300"))
	})
	b, err := os.ReadFile(logPath(h.runDir))
	if err != nil || bytes.Contains(b, []byte(o.PrivateKey.String())) || bytes.Contains(b, []byte("private_key")) {
		t.Errorf("the log has a private key, or is missing (%v)", err)
	}
}

// TestDeviceHangs: a stopped process gives an error, not a hang.
func TestDeviceHangs(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	o := h.options()
	o.Executable = append(o.Executable, "--pdeathsig")
	d, err := h.try(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := mustProcess(t, h)
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process stops", func() bool { st, err := statOf(p.pid); return err == nil && st.state == 'T' })
	_, err = h.status(d)
	mustHint(t, err, "has not answered for 3s", "fuser -k")
	h.must("remove", func() error { return d.Remove(t.Context()) })
	if p.alive() {
		t.Error("it survived Remove")
	}
}

// TestStartHangs: a process that does not get ready is ended, and has told where it was.
func TestStartHangs(t *testing.T) {
	t.Parallel()
	h := newHost(t, "a")
	o := h.options()
	o.Executable = []string{o.Executable[0], "hang"}
	h.must("open", func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { // until the program runs, the signal would just end it
			for pause(ctx) == nil {
				if b, _ := os.ReadFile(logPath(h.runDir)); len(b) > 0 {
					cancel()
				}
			}
		}()
		_, err := Open(ctx, o)
		mustHint(t, err, "it is not ready: context canceled; it is in state", "")
		return nil
	})
	b, err := os.ReadFile(logPath(h.runDir))
	if err != nil || !bytes.Contains(b, []byte("goroutine ")) || !bytes.Contains(b, []byte("TestMain")) {
		t.Errorf("its log (%v): %s", err, b)
	}
	_, err = readProcess(h.runDir)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pid file: %v", err)
	}
}

// TestCallHangs: a call of wgctrl that does not come back.
func TestCallHangs(t *testing.T) {
	t.Parallel()
	c := &control{name: "weftwg"}
	free, ended := make(chan struct{}), make(chan struct{})
	err := c.call(func() error { defer close(ended); <-free; return nil })
	mustHint(t, err, "has not answered for 3s", "fuser -k")
	err = c.call(func() error { t.Error("a second call while the first hangs"); return nil })
	mustHint(t, err, "has not answered for 3s", "fuser -k")
	close(free)
	<-ended
	eventually(t, "calls are made again", func() bool { return c.call(func() error { return nil }) == nil })
	if err := c.call(func() error { return unix.ECONNREFUSED }); !errors.Is(err, ErrGone) {
		t.Errorf("connection refused: %v", err)
	}
}

type noKernel struct{ links }

func (noKernel) AddWireGuard(string) error { return errors.ErrUnsupported }

type broken struct{ links }

func (broken) AddWireGuard(string) error { return errors.New("no permission") }

func mustProcess(t *testing.T, h *testHost) process {
	t.Helper()
	p, err := readProcess(h.runDir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
