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

	"golang.org/x/sys/unix"
)

// tunnel is a pair with open devices that have each other as a peer.
func tunnel(t *testing.T) (a, b *testHost, da, db *Device) {
	t.Helper()
	a, b = newPair(t)
	da, db = connect(t, a, b)
	return a, b, da, db
}

func connect(t *testing.T, a, b *testHost) (da, db *Device) {
	t.Helper()
	da, db = a.open(), b.open()
	t.Cleanup(func() { da.Close(); db.Close() })
	a.must("set", func() error { return da.Set([]Config{passive(b.peerOf())}) })
	b.must("set", func() error { return db.Set([]Config{a.peerOf()}) })
	a.up()
	b.up()
	return da, db
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
	sameSession(t, a, before, handshake(t, a, da, pub))
	if now := mustProcess(t, a); now != pid {
		t.Errorf("process %v, before %v", now, pid)
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
	sameSession(t, a, at, handshake(t, a, da, b.id.WireGuardPublic()))
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

// sameSession checks that there was no other handshake. wireguard-go sets its timer for another try after it has sent the
// first; if the answer comes in between, as on a busy machine, it tries again after 5 s although it has a session.
func sameSession(t *testing.T, h *testHost, before, now time.Time) {
	t.Helper()
	if now.Equal(before) {
		return
	}
	b, err := os.ReadFile(logPath(h.runDir))
	if err != nil || !bytes.Contains(b, []byte("Handshake did not complete after")) {
		t.Errorf("handshake at %s, before %s (%v)", now, before, err)
	}
}

// TestSetLeavesOthersAlone changes everything around one session.
func TestSetLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	a, b, da, _ := tunnel(t)
	changeOthers(t, a, b, da)
	err := a.do(func() error {
		own := b.peerOf()
		own.PublicKey = a.id.WireGuardPublic()
		return da.Set([]Config{b.peerOf(), own})
	})
	if err == nil || !strings.Contains(err.Error(), "own key") || strings.Contains(err.Error(), a.id.WireGuardPrivate().String()) {
		t.Errorf("own key as a peer: %v", err)
	}
}

func changeOthers(t *testing.T, a, b *testHost, da *Device) {
	t.Helper()
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
	sameSession(t, a, before, handshake(t, a, da, pub))
}

// TestKernel is the kernel's device against a userspace one.
func TestKernel(t *testing.T) {
	t.Parallel()
	a, b := newPair(t)
	if err := a.do(func() error { return links{}.AddWireGuard("probe") }); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this kernel has no WireGuard")
	}
	a.kind = Auto
	da, _ := connect(t, a, b)
	if da.Kind() != Kernel {
		t.Fatalf("auto made a %s device", da.Kind())
	}
	changeOthers(t, a, b, da)
	stop := load(t, a, b)
	before := handshake(t, a, da, b.id.WireGuardPublic())
	a.must("close", da.Close)
	da = a.open()
	a.must("set", func() error { return da.Set([]Config{b.peerOf()}) })
	noLoss(t, stop)
	sameSession(t, a, before, handshake(t, a, da, b.id.WireGuardPublic()))
	a.must("renew", func() error { return da.Renew(b.id.WireGuardPublic()) })
	noLoss(t, load(t, a, b))
	a.kind = Userspace
	_, err := a.try(a.options())
	mustHint(t, err, "weftwg lives as a kernel device, and a userspace device was asked for", "weft stop")
	a.must("remove", func() error { return da.Remove(t.Context()) })
	a.must("look", func() error {
		if _, err := net.InterfaceByName("weftwg"); err == nil {
			t.Error("the link is there")
		}
		return nil
	})
}
