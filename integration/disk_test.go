package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// fillDisk leaves no byte on a host's disk; what it returns makes room again.
func fillDisk(t *testing.T, h *netlab.Host) (room func()) {
	t.Helper()
	const fill = "mount -o remount,size=1m /var/lib/weft && { cat /dev/zero >/var/lib/weft/filler 2>/dev/null; test -s /var/lib/weft/filler; }"
	if out, stderr, err := h.Run("sh", "-c", fill); err != nil {
		t.Fatalf("%s: %v\n%s%s", fill, err, out, stderr)
	}
	return func() {
		t.Helper()
		if out, stderr, err := h.Run("rm", "/var/lib/weft/filler"); err != nil {
			t.Fatalf("%v\n%s%s", err, out, stderr)
		}
	}
}

// TestDiskFull: what cannot be written down is not given out, and says why; all else goes on.
func TestDiskFull(t *testing.T) {
	netlab.Require(t, "busybox")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	h := hs[0]
	a, b := attachWorkload(t, h, "a"), attachWorkload(t, hs[1], "b")
	room := fillDisk(t, h)

	// The file has some room inside: what is given until that is used up counts.
	given := map[string]string{a.addr: "a", b.addr: "b"}
	attach := func(w *netlab.Workload) error {
		t.Helper()
		out, stderr, err := h.Run(weft, "attach", "netns:"+w.NetNSPath())
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		addr := strings.TrimSpace(out)
		if given[addr] != "" {
			t.Fatalf("%s is given to %s and to %s", addr, given[addr], w.Name())
		}
		given[addr] = w.Name()
		return nil
	}
	var w *netlab.Workload
	var err error
	for i := 0; err == nil; i++ {
		if i == 400 {
			t.Fatal("a full disk is no obstacle")
		}
		w, err = h.Workload(fmt.Sprintf("w%d", i))
		if err != nil {
			t.Fatal(err)
		}
		err = attach(w)
	}
	nothing := func() {
		t.Helper()
		ns := "netns:" + w.NetNSPath()
		refused(t, h, []string{"attach", ns}, "no space left on device", "make room there")
		refused(t, h, []string{"attach", "ip:10.32.200.1/24", ns}, "no space left on device", "make room there")
		if out, _, _ := w.Run("ip", "-4", "addr"); strings.Contains(out, "10.") {
			t.Errorf("it has an address all the same:\n%s", out)
		}
		if out := do(t, h, "ps"); strings.Contains(out, ns) || strings.Contains(out, "10.32.200.1") {
			t.Errorf("weft ps tells of it:\n%s", out)
		}
		a.pings(t, b.addr, 3)
	}
	nothing()
	// What it gives another host, it does not forget: that one waits, or has it for good.
	c, err := hs[1].Workload("c")
	if err != nil {
		t.Fatal(err)
	}
	p, err := hs[1].Start("asks", weft, "attach", "net:10.33.7.0/24", "netns:"+c.NetNSPath()) // the first host's space
	if err != nil {
		t.Fatal(err)
	}
	killRouter(t, h)
	do(t, h, "launch")
	nothing()

	room()
	eventually(t, 20*time.Second, "attach works when there is room", func() error { return attach(w) })
	ended(t, "the other host's attach", p)
	got := lastLine(p.Log())
	if !strings.HasPrefix(got, "10.33.7.") {
		t.Fatalf("the other host's attach ended with %q", got)
	}
	if out, stderr, err := h.Run(weft, "attach", "ip:"+got+"/24", "netns:"+w.NetNSPath()); err == nil {
		t.Errorf("%s is given again: %s%s", got, out, stderr)
	}
}

// TestDiskThatFailsToSync: a change whose sync fails was not made; if nobody can tell whether it was, the router ends,
// with an exit code that a service manager acts on. The next one goes by what the disk has: no address has two users.
func TestDiskThatFailsToSync(t *testing.T) {
	netlab.Require(t, "busybox", "strace")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	const unit = `until "$0" launch --foreground --resume; do echo "ended with $?"; done`
	h := hs[0]
	do(t, h, "launch") // once by hand, then by a service manager
	token := do(t, h, "token")
	killRouter(t, h)
	p, err := h.Start("unit", "sh", "-c", unit, weft)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it serves", func() error {
		_, stderr, err := h.Run(weft, "status")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		return nil
	})
	join(t, hs[1], token, h.Addr().String())
	waitPeers(t, hs...)
	do(t, h, "prime")
	a, b := attachWorkload(t, h, "a"), attachWorkload(t, hs[1], "b")
	all := []*netlab.Workload{a.Workload, b.Workload}
	holds := map[string]string{a.container: a.addr, b.container: b.addr}

	// Of the two syncs of a change now one and now the other fails, as the router's threads take turns; what is to
	// mend the second always does.
	pid := routerPID(t, h)
	tracer, err := h.Start("strace", "strace", "-f", "-e", "trace=fsync,fdatasync", "-e", "inject=fdatasync:error=EIO:when=2+2", "-e", "inject=fsync:error=EIO",
		"-o", "/dev/null", "-p", fmt.Sprint(pid))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; !strings.Contains(p.Log(), "ended with"); i++ {
		if i == 200 {
			t.Fatal("a disk that fails to sync is no obstacle")
		}
		w, err := h.Workload(fmt.Sprintf("w%d", i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
		ns := "netns:" + w.NetNSPath()
		out, stderr, err := h.Run(weft, "attach", ns)
		switch {
		case err == nil:
			holds[ns] = strings.TrimSpace(out)
		case strings.Contains(stderr, "it is not known what the disk has"):
		case strings.Contains(stderr, "input/output error"):
			holds[ns] = nothing
		}
	}
	ended(t, "strace", tracer)
	log := p.Log()
	for _, want := range []string{"weft: error: the router ends, and leaves its tunnels as they are: its disk fails: it is not known what the disk has", "input/output error",
		"weft: hint: the kernel's log (`dmesg`)", "ended with 1\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is missing in\n%s", want, tail(log, 4000))
		}
	}
	a.pings(t, b.addr, 3)

	eventually(t, 20*time.Second, "the next router serves", func() error {
		if now := routerPID(t, h); now == pid {
			return fmt.Errorf("process %d", pid)
		}
		_, stderr, err := h.Run(weft, "prime")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		return nil
	})
	for i, h := range hs {
		all = append(all, attachWorkload(t, h, fmt.Sprint("later", i)).Workload)
	}
	eventually(t, 10*time.Second, "all is as it was answered, and no address has two users", func() error { return sameAsAnswered(hs, all, holds) })
	do(t, h, "stop")
	ended(t, "the unit", p)
}
