package router

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weft/api"
	"weft/ipam"
)

// A container that has ended at the last moment: nothing is left of the attach, and the error says what to do.
func TestAttachOfWhatEndsMeanwhile(t *testing.T) {
	h := newRealHost(t)
	c, pid := dockerID("c1"), h.process()
	h.engine.pids[c] = pid
	target, err := h.resolve(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	al, _, err := h.tryAllocate(c, pfx("10.32.0.0/12"))
	if err != nil {
		t.Fatal(err)
	}
	h.ends[pid]()
	if _, err = h.attachLocked(target, attachRequest{Container: c}, []ipam.Allocation{al}); !isCode(err, 409) || len(api.Hints(err)) == 0 {
		t.Errorf("%v; hints %v", err, api.Hints(err))
	}
	h.giveBack([]ipam.Allocation{al})
	h.says("")
	h.really("")
}

// An attach that fails in a container that was started anew, before its event has come, leaves nothing there that
// is given back.
func TestAttachFailsAfterARestart(t *testing.T) {
	h := newRealHost(t)
	c, first := dockerID("c1"), h.process()
	h.engine.pids[c] = first
	if _, err := h.attach(t.Context(), attachRequest{Container: c}); err != nil {
		t.Fatal(err)
	}
	h.ends[first]()
	pid := h.process()
	h.engine.pids[c] = pid
	h.within(pid, "ip", "link", "set", "lo", "up")
	h.within(pid, "ip", "route", "add", "10.33.0.0/16", "dev", "lo") // where weft's would be
	if got, err := h.attach(t.Context(), attachRequest{Container: c, Addrs: []string{"10.33.0.1/16"}}); err == nil {
		t.Fatalf("attached: %v", got)
	}
	h.says("c1[10.32.0.1/12]")
	h.really("c1[10.32.0.1/12]")
}

// A container's hosts file says what it has, and no longer what was detached; where it can not be written, that is a
// warning, for the rest is done.
func TestHostsFileOfAContainer(t *testing.T) {
	h := newRealHost(t)
	c := dockerID("c1")
	path := filepath.Join(t.TempDir(), "hosts")
	h.engine.pids[c], h.engine.hosts = h.process(), map[string]string{c: path}
	attach := func(warnings int, addrs ...string) {
		t.Helper()
		if got, err := h.attach(t.Context(), attachRequest{Container: c, RewriteHosts: true, Addrs: addrs}); err != nil || len(got.Warnings) != warnings {
			t.Errorf("attach %v: %v, %v", addrs, got, err)
		}
	}
	detach := func(warnings int, addrs ...string) {
		t.Helper()
		if got, err := h.detach(t.Context(), c, addrs); err != nil || len(got.Warnings) != warnings {
			t.Errorf("detach %v: %v, %v", addrs, got, err)
		}
	}
	has := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%q, want %q; %v", b, want, err)
		}
	}
	attach(1, "10.32.0.1/12") // there is no such file
	h.says("c1[10.32.0.1/12]")
	if err := os.WriteFile(path, []byte("127.0.0.1\tlocalhost\n172.17.0.2\tc1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	attach(0, "10.32.0.1/12", "10.33.0.1/16")
	has("10.32.0.1\tc1 # weft\n10.33.0.1\tc1 # weft\n127.0.0.1\tlocalhost\n" + hostsWas + "172.17.0.2\tc1\n")
	detach(0, "10.33.0.1/16")
	has("10.32.0.1\tc1 # weft\n127.0.0.1\tlocalhost\n" + hostsWas + "172.17.0.2\tc1\n")
	h.engine.away = true
	detach(0, "10.32.0.1/12")
	h.engine.away = false
	has("127.0.0.1\tlocalhost\n172.17.0.2\tc1\n")
	attach(0, "10.32.0.1/12")
	if err := os.Truncate(path, 2*maxHosts); err != nil {
		t.Fatal(err)
	}
	detach(1, "10.32.0.1/12")
	if err := os.WriteFile(path, []byte("172.17.0.2\tc1\n"), 0o644); err != nil { // as when it is started
		t.Fatal(err)
	}
	attach(0, "10.32.0.1/12")
	if err := os.WriteFile(path, []byte("10.32.0.1\tc1 # weft\n172.17.0.2\tc1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	detach(0, "10.32.0.1/12")
	has("172.17.0.2\tc1\n")
}

// A container that comes back with a hosts file that can not be written is attached all the same, and the log says what is missing.
func TestHostsFileOfAContainerThatStarts(t *testing.T) {
	h := newRealHost(t)
	c, first := dockerID("c1"), h.process()
	path := filepath.Join(t.TempDir(), "hosts")
	h.engine.pids[c], h.engine.hosts = first, map[string]string{c: path}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := h.attach(t.Context(), attachRequest{Container: c, RewriteHosts: true}); err != nil || len(got.Warnings) > 0 {
		t.Fatal(got, err)
	}
	var log bytes.Buffer
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	h.ends[first]()
	h.engine.pids[c] = h.process()
	if err := os.Truncate(path, 2*maxHosts); err != nil {
		t.Fatal(err)
	}
	if err := h.follow(t.Context(), c); err != nil {
		t.Errorf("it is followed again and again: %v", err)
	}
	h.really("c1[10.32.0.1/12]")
	if !strings.Contains(log.String(), "hosts file is not rewritten") || !strings.Contains(log.String(), "more than") {
		t.Errorf("the log says %s", log.String())
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.follow(t.Context(), c); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "10.32.0.1\tc1 # weft\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A reset takes off the mesh what was not taken into the state, too, and knows when it could not.
func TestResetWhileUnadopted(t *testing.T) {
	h := newRealHost(t)
	h.alone()
	c := dockerID("c1")
	h.wired(c, h.process(), "10.32.0.1/12")
	h.load(h.f.restart(h.Router, h.loseMark))
	mend := h.broken()
	h.begin()
	mend()
	h.alone()
	if !errors.Is(h.unadopted, errUnadopted) || h.attached[c] != nil {
		t.Fatal(h.unadopted)
	}
	unprivileged := h.unprivileged()
	if gone, _, errs := h.detachAll(t.Context()); gone || errors.Join(errs...) == nil {
		t.Errorf("nothing is taken off, and it says %v, %v", gone, errs)
	}
	unprivileged()
	h.really("c1[10.32.0.1/12]")
	if gone, _, errs := h.detachAll(t.Context()); !gone || errors.Join(errs...) != nil {
		t.Error(gone, errs)
	}
	h.really("")
}

// unprivileged has the test's thread change no interface, until the returned func is called.
func (h *realHost) unprivileged() (end func()) {
	h.t.Helper()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all, few [2]unix.CapUserData
	if err := unix.Capget(&head, &all[0]); err != nil {
		h.t.Fatal(err)
	}
	few = all
	few[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	set := func(c *[2]unix.CapUserData) {
		if err := unix.Capset(&head, &c[0]); err != nil {
			h.t.Fatal(err)
		}
	}
	set(&few)
	return func() { set(&all) }
}
