package peer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunnel is a pair with open devices that have each other as a peer.
func tunnel(t *testing.T) (a, b *testHost, da, db *Device) {
	t.Helper()
	a, b = newPair(t)
	da, db = a.open(), b.open()
	t.Cleanup(func() { da.Close(); db.Close() })
	a.must("set", func() error { return da.Set([]Config{passive(b.peerOf())}) })
	b.must("set", func() error { return db.Set([]Config{a.peerOf()}) })
	a.up()
	b.up()
	return a, b, da, db
}

func handshake(t *testing.T, h *testHost, d *Device, pub Key) time.Time {
	t.Helper()
	st, err := h.status(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range st {
		if s.PublicKey == pub {
			return s.LastHandshake
		}
	}
	t.Fatalf("%s does not have the peer", h.name)
	return time.Time{}
}

func noLoss(t *testing.T, stop func() (sent, lost int)) {
	t.Helper()
	sent, lost := stop()
	t.Logf("%d packets sent, %d lost", sent, lost)
	if lost != 0 || sent < 50 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
}

func TestTunnel(t *testing.T) {
	t.Parallel()
	a, b, da, _ := tunnel(t)
	stop := load(t, a, b)
	if sent, _ := stop(); sent == 0 {
		t.Error("nothing was sent")
	}
	st, err := a.status(da)
	if err != nil || len(st) != 1 {
		t.Fatalf("status: %v, %v", st, err)
	}
	s := st[0]
	if s.PublicKey != b.id.WireGuardPublic() || s.Endpoint != netip.AddrPortFrom(b.addr, 6783) || time.Since(s.LastHandshake) > time.Minute ||
		s.RxBytes < 92 || s.TxBytes < 148 || !slices.Equal(s.AllowedIPs, b.peerOf().AllowedIPs) {
		t.Errorf("status: %+v", s)
	}
	if wg, err := exec.LookPath("wg"); err == nil {
		a.must("wg show", func() error {
			out, err := exec.Command(wg, "show", "weftwg").CombinedOutput()
			if !bytes.Contains(out, []byte("peer: "+s.PublicKey.String())) || !bytes.Contains(out, []byte("listening port: 6783")) {
				t.Errorf("wg show:\n%s", out)
			}
			return err
		})
	}
	old := handshake(t, a, da, s.PublicKey)
	a.must("renew", func() error { return da.Renew(s.PublicKey) })
	eventually(t, "a new handshake after Renew", func() bool { return handshake(t, a, da, s.PublicKey).After(old) })
	noLoss(t, load(t, a, b))
	if err := a.do(func() error { return da.Renew(Key{9}) }); err == nil {
		t.Error("an unknown peer was renewed")
	}
}

// TestRestart: a router that comes and goes is not noticed.
func TestRestart(t *testing.T) {
	t.Parallel()
	a, b, da, _ := tunnel(t)
	stop := load(t, a, b)
	pub := b.id.WireGuardPublic()
	before, pid := handshake(t, a, da, pub), mustProcess(t, a)
	for range 5 {
		a.must("close", da.Close)
		if _, err := a.status(da); !errors.Is(err, os.ErrClosed) {
			t.Errorf("status of a closed device: %v", err)
		}
		d := a.open()
		a.must("set", func() error { return d.Set([]Config{b.peerOf()}) })
		*da = Device{o: d.o, kind: d.kind, control: d.control}
	}
	noLoss(t, stop)
	if at := handshake(t, a, da, pub); !at.Equal(before) || mustProcess(t, a) != pid {
		t.Errorf("handshake at %s, before %s; process %v, before %v", at, before, mustProcess(t, a), pid)
	}
}

// TestRouterKilled: kill -9 for the router's whole process group.
func TestRouterKilled(t *testing.T) {
	t.Parallel()
	a, b := newPair(t)
	db := b.open()
	defer db.Close()
	b.must("set", func() error { return db.Set([]Config{passive(a.peerOf())}) })
	b.up()
	o := a.options()
	o.Links = nil // not for JSON; without it there is only userspace
	order, err := json.Marshal(routerOrder{o, []Config{b.peerOf()}})
	if err != nil {
		t.Fatal(err)
	}
	router := exec.Command(o.Executable[0], "router")
	router.Stdin = bytes.NewReader(order)
	router.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := router.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.must("start the router", router.Start)
	defer router.Wait()
	defer unix.Kill(-router.Process.Pid, unix.SIGKILL)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("router: %s", line)
	}
	a.up()
	stop := load(t, a, b)
	if err := unix.Kill(-router.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	router.Wait()
	if err := unix.Kill(mustProcess(t, a).pid, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	da := a.open()
	defer da.Close()
	at := handshake(t, a, da, b.id.WireGuardPublic())
	a.must("set", func() error { return da.Set([]Config{b.peerOf()}) })
	noLoss(t, stop)
	if now := handshake(t, a, da, b.id.WireGuardPublic()); !now.Equal(at) {
		t.Errorf("handshake at %s and again at %s", at, now)
	}
	p := mustProcess(t, a)
	for _, f := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/" + f)
		if err != nil || bytes.Contains(text, []byte(o.PrivateKey.String())) {
			t.Errorf("%s of the device process: %q, %v", f, text, err)
		}
	}
	if sid, err := unix.Getsid(p.pid); err != nil || sid != p.pid {
		t.Errorf("session of the device process: %d, %v", sid, err)
	}
}

// TestSetLeavesOthersAlone changes everything around one session.
func TestSetLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	a, b, da, _ := tunnel(t)
	stop := load(t, a, b)
	pub := b.id.WireGuardPublic()
	before := handshake(t, a, da, pub)
	peer := b.peerOf()
	more := netip.MustParsePrefix("10.40.0.0/14")
	third := Config{PublicKey: mustIdentity(t).WireGuardPublic(), Endpoint: netip.MustParseAddrPort("192.168.48.13:6783"), Keepalive: 25 * time.Second}
	with := func(c Config, ps ...netip.Prefix) Config {
		c.AllowedIPs = append(slices.Clone(c.AllowedIPs), ps...)
		return c
	}
	for range 10 {
		for _, want := range [][]Config{
			{with(peer, more), third}, // a peer joins, an allowed IP is added
			{peer, with(third, more)}, // it moves to the other
			{with(peer, more), third}, // and back
			{peer, third},             // it is nobody's
			{peer},                    // the peer leaves
		} {
			a.must("set", func() error { return da.Set(want) })
			st, err := a.status(da)
			if err != nil || len(st) != len(want) {
				t.Fatalf("status: %v, %v", st, err)
			}
			for _, w := range want {
				i := slices.IndexFunc(st, func(s Status) bool { return s.PublicKey == w.PublicKey })
				if i < 0 || !slices.Equal(st[i].AllowedIPs, w.AllowedIPs) {
					t.Fatalf("want %v, have %v", w, st)
				}
			}
		}
	}
	noLoss(t, stop)
	if at := handshake(t, a, da, pub); !at.Equal(before) {
		t.Errorf("handshake at %s, before %s", at, before)
	}
	err := a.do(func() error {
		bad := peer
		bad.PublicKey = a.id.WireGuardPublic()
		return da.Set([]Config{peer, bad})
	})
	if err == nil || !strings.Contains(err.Error(), "own key") || strings.Contains(err.Error(), a.id.WireGuardPrivate().String()) {
		t.Errorf("own key as a peer: %v", err)
	}
}

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
		if now := mustProcess(t, a); now == p || p.alive() {
			t.Errorf("%s: process %v, before %v, alive %v", c.name, now, p, p.alive())
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
	o.Links = noKernel{}
	_, err = h.try(o)
	mustHint(t, err, "this kernel has no WireGuard", "modprobe wireguard")
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

	h.open().Close()
	o = h.options()
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
	mustHint(t, err, "has not answered for 5s", "fuser -k")
	h.must("remove", func() error { return d.Remove(t.Context()) })
	if p.alive() {
		t.Error("it survived Remove")
	}
}

// TestCallHangs: a call of wgctrl that does not come back.
func TestCallHangs(t *testing.T) {
	t.Parallel()
	c := &control{name: "weftwg"}
	free, ended := make(chan struct{}), make(chan struct{})
	err := c.call(func() error { defer close(ended); <-free; return nil })
	mustHint(t, err, "has not answered for 5s", "fuser -k")
	err = c.call(func() error { t.Error("a second call while the first hangs"); return nil })
	mustHint(t, err, "has not answered for 5s", "fuser -k")
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
