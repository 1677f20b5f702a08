package netlab

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETLAB_CRASH") != "" {
		crash()
		return
	}
	if os.Geteuid() == 0 {
		if err := Sweep(); err != nil {
			slog.Error("sweep", "err", err)
		}
	}
	goleak.VerifyTestMain(m)
}

// newLab makes a lab that is closed, and explains itself, with the test.
func newLab(t *testing.T) *Lab {
	t.Helper()
	Require(t, "root", "busybox", "ip", "nsenter")
	l, err := New(Options{Name: t.Name(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for name, text := range l.Logs() {
				t.Logf("log of %s:\n%s", name, text)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newHost(t *testing.T, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.Host(name, HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func run(t *testing.T, p interface {
	Run(args ...string) (string, string, error)
}, args ...string) string {
	t.Helper()
	out, _, err := p.Run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// pings reports whether an answer comes within so many seconds.
func pings(from *Host, to *Host, seconds int) bool {
	_, _, err := from.Run("busybox", "ping", "-c", "1", "-W", strconv.Itoa(seconds), to.Addr().String())
	return err == nil
}

func TestTwoHostsPing(t *testing.T) {
	start := time.Now()
	l := newLab(t)
	a, b := newHost(t, l, "host1"), newHost(t, l, "host2")
	t.Logf("two hosts made in %v", time.Since(start))
	run(t, a, "busybox", "ping", "-c", "1", "-W", "5", "host2")
	run(t, b, "busybox", "ping", "-c", "1", "-W", "5", a.Addr().String())
	if got := run(t, a, "hostname"); got != "host1" {
		t.Errorf("hostname is %q", got)
	}
	for _, cmd := range []string{"cat /etc/machine-id", "cat /etc/hostname"} {
		if x, y := run(t, a, "sh", "-c", cmd), run(t, b, "sh", "-c", cmd); x == y {
			t.Errorf("%s says %q on both hosts", cmd, x)
		}
	}
	if got := run(t, a, "ls", "/sys/class/net"); !strings.Contains(got, "eth0") {
		t.Errorf("/sys shows the links %q", got)
	}
	// What a host writes stays there.
	const file = "/etc/weft-netlab-test"
	if err := a.WriteFile(file, []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadFile(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other host reads it: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine has it: %v", err)
	}
	out, err := exec.Command("sh", "-c", a.Enter()+" hostname").Output()
	if string(out) != "host1\n" || err != nil {
		t.Errorf("entered by hand, hostname is %q, %v", out, err)
	}
}

func TestCutAndHeal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b, c := newHost(t, l, "a"), newHost(t, l, "b"), newHost(t, l, "c")
	if !pings(a, b, 5) || !pings(a, c, 5) {
		t.Fatal("no way at the start")
	}
	check := func(what string, err error, ab bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		patience := 5
		if !ab {
			patience = 1
		}
		if pings(a, b, patience) != ab {
			t.Errorf("%s: a pings b: %v, want %v", what, !ab, ab)
		}
		if !pings(a, c, 5) {
			t.Errorf("%s: a no longer pings c", what)
		}
	}
	check("cut", l.Cut(a, b), false)
	check("healed", l.Heal(b, a), true)
	check("cut one way", l.CutOneWay(b, a), false)

	// What a sends arrives at b, only the answers do not.
	heard, err := b.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pings(a, b, 1)
	if n := heard.Stop().Frames[ICMP]; n != 2 { // request and answer
		t.Errorf("b's cable carried %d ICMP frames, want 2", n)
	}
	check("healed", l.Heal(a, b), true)
	if l.Cut(a, a) == nil {
		t.Error("a was cut off itself")
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a, b := newHost(t, l, "host1"), newHost(t, l, "host2")
	old, to := b.Addr(), netip.MustParseAddr("192.168.48.99")
	if err := b.Move(to); err != nil {
		t.Fatal(err)
	}
	if b.Addr() != to {
		t.Errorf("it is at %v", b.Addr())
	}
	if !pings(a, b, 5) || !pings(b, a, 5) {
		t.Error("no way to its new address, or from it")
	}
	run(t, a, "busybox", "ping", "-c", "1", "-W", "5", "host2")
	if _, _, err := a.Run("busybox", "ping", "-c", "1", "-W", "1", old.String()); err == nil {
		t.Error("its old address still answers")
	}
}

func TestWorkload(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	h := newHost(t, l, "host1")
	w, err := h.Workload("web")
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, w, "hostname"); got != "web" {
		t.Errorf("hostname is %q", got)
	}
	if got := run(t, w, "ls", "/sys/class/net"); got != "lo" {
		t.Errorf("the workload has the links %q", got)
	}
	if err := w.SetResolvConf("nameserver 169.254.53.1\n"); err != nil {
		t.Fatal(err)
	}
	if got := run(t, w, "cat", "/etc/resolv.conf"); got != "nameserver 169.254.53.1" {
		t.Errorf("resolv.conf is %q", got)
	}
	if got := run(t, h, "cat", "/etc/resolv.conf"); strings.Contains(got, "169.254") {
		t.Errorf("the host's resolv.conf is %q", got)
	}
	// The path leads to the workload, from inside the host.
	inside := run(t, w, "readlink", "/proc/self/ns/net")
	if got := run(t, h, "nsenter", "--net="+w.NetNSPath(), "readlink", "/proc/self/ns/net"); got != inside {
		t.Errorf("%s is %s, want %s", w.NetNSPath(), got, inside)
	}
	// A link of the host can be moved in, and goes with the workload, though
	// another workload was made while it was there.
	run(t, h, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	run(t, h, "ip", "link", "set", "v1", "netns", "web")
	other, err := h.Workload("db")
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.Start("server", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if p.Wait() == nil {
		t.Error("the workload's process ended well")
	}
	waitFor(t, "the workload's link to go", func() bool {
		_, _, err := h.Run("ip", "link", "show", "v0")
		return err != nil
	})
	if _, err := h.Workload("db"); err == nil {
		t.Error("two workloads have one name")
	}
	run(t, other, "true")
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func TestCommands(t *testing.T) {
	l := newLab(t)
	h := newHost(t, l, "host1")

	// A daemon that keeps the output open does not hold up Run.
	out, _, err := h.Run("sh", "-c", "sleep 1000 & echo started")
	if out != "started\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	_, _, err = h.Run("sh", "-c", "echo reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "on host1: exit status 3: reason") {
		t.Errorf("a failed command's error is %v", err)
	}
	p, err := h.Start("talker", "sh", "-c", "echo one; echo two >&2; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "output", func() bool { return p.Log() == "one\ntwo\n" })
	if got := l.Logs()["host1.talker"]; got != "one\ntwo\n" {
		t.Errorf("the lab's log is %q", got)
	}
	if got := l.Logs()["host1.commands"]; !strings.Contains(got, "exit 3\nreason\n(exit status 3)") {
		t.Errorf("the log of commands is %q", got)
	}
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a killed host's process ended with %v", err)
	}
	run(t, h, "true") // the host can be used again
	cmd := h.Command(t.Context(), "cat")
	cmd.Stdin = strings.NewReader("through")
	if b, err := cmd.CombinedOutput(); string(b) != "through" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestManyHosts(t *testing.T) {
	l := newLab(t)
	start := time.Now()
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := l.Host(fmt.Sprintf("h%d", i), HostOptions{Addr6: netip.MustParsePrefix(fmt.Sprintf("fd48::%d/64", i+1))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("a host took %v", time.Since(start)/n)
	hosts := l.Hosts()
	if len(hosts) != n {
		t.Fatalf("%d hosts", len(hosts))
	}
	if !pings(hosts[0], hosts[n-1], 5) {
		t.Error("no way from the first to the last")
	}
	run(t, hosts[0], "busybox", "ping", "-c", "1", "-W", "5", "fd48::1")
	if _, err := l.Host("h3", HostOptions{}); err == nil {
		t.Error("two hosts have one name")
	}
	if _, err := l.Host("No Name", HostOptions{}); err == nil {
		t.Error("a name with a blank was taken")
	}
}

func TestClosedLab(t *testing.T) {
	l := newLab(t)
	h := newHost(t, l, "host1")
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("host2", HostOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("new host: %v", err)
	}
	if _, _, err := h.Run("true"); err == nil {
		t.Error("a command ran")
	}
	if _, err := h.Start("x", "true"); err == nil {
		t.Error("a process started")
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab's directory: %v", err)
	}
}
