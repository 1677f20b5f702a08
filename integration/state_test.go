package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

const stateFile = "/var/lib/weft/state.db"

// killRouter ends a host's router, and waits until the state file is let go.
func killRouter(t *testing.T, h *netlab.Host) {
	t.Helper()
	pid := routerPID(t, h)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the router has ended", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
}

// TestStateFiles: a state file that is old, damaged or not provably the latest never
// makes an address two containers'.
func TestStateFiles(t *testing.T) {
	netlab.Require(t, "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	a := attachWorkload(t, hs[0], "a")
	h := hs[1]
	w1 := attachWorkload(t, h, "w1")

	t.Run("an older copy", func(t *testing.T) {
		killRouter(t, h)
		old, err := h.ReadFile(stateFile)
		if err != nil {
			t.Fatal(err)
		}
		do(t, h, "launch")
		do(t, h, "detach", w1.container)
		w2, err := h.Workload("w2")
		if err != nil {
			t.Fatal(err)
		}
		two := "netns:" + w2.NetNSPath()
		do(t, h, "attach", w1.addr+"/12", two) // the address has another user now
		killRouter(t, h)
		if err := h.WriteFile(stateFile, old, 0o600); err != nil {
			t.Fatal(err)
		}
		do(t, h, "launch")
		if log := routerLog(t, h); !strings.Contains(log, "older copy") {
			t.Errorf("the router says nothing of the old state:\n%s", tail(log, 2000))
		}
		do(t, h, "prime")
		if out := do(t, h, "ps"); strings.Count(out, w1.addr+"/") != 1 || !strings.Contains(out, two+" ") {
			t.Errorf("who has %s:\n%s", w1.addr, out)
		}
		if again := do(t, h, "attach", w1.container); again == w1.addr {
			t.Errorf("%s is given twice", again)
		}
		if out, _, err := a.Run("busybox", "ping", "-c", "2", "-W", "2", w1.addr); err != nil {
			t.Errorf("the address's user is out of reach:\n%s", out)
		}
	})

	t.Run("a damaged file", func(t *testing.T) {
		before := do(t, h, "ps")
		killRouter(t, h)
		b, err := h.ReadFile(stateFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.WriteFile(stateFile, b[:10<<10], 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, h, []string{"launch"}, "the state file was damaged", "set aside")
		if err := h.WriteFile(stateFile, b[:10<<10], 0o600); err != nil {
			t.Fatal(err)
		}
		do(t, h, "launch", hs[0].Addr().String())
		do(t, h, "prime")
		says(t, h, 10*time.Second, []string{"status"}, "the state file was damaged", "set aside as state.db.damaged-")
		if after := do(t, h, "ps"); after != before {
			t.Errorf("its containers had\n%s\nand have\n%s", before, after)
		}
		if out := do(t, h, "status", "ipam"); strings.Count(out, "host2)") != 1 || !strings.Contains(out, "(25.0% of total)") {
			t.Errorf("it has not found its part again:\n%s", out)
		}
	})

	t.Run("nobody to ask", func(t *testing.T) {
		for _, other := range []*netlab.Host{hs[0], hs[2]} {
			if err := lab.Cut(h, other); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
		// As after a reboot, /run is empty.
		if _, stderr, err := h.Run("rm", "-rf", "/run/weft"); err != nil {
			t.Fatal(stderr)
		}
		do(t, h, "launch")
		w, err := h.Workload("w3")
		if err != nil {
			t.Fatal(err)
		}
		p, err := h.Start("alone", weft, "attach", "netns:"+w.NetNSPath())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "attach says what it waits for", func() error {
			if log := p.Log(); !strings.Contains(log, "may not be the latest") {
				return fmt.Errorf("it says %q", log)
			}
			return nil
		})
		refused(t, h, []string{"rmpeer", "--force", "host1"}, "may not be the latest")
		do(t, h, "prime", "--alone")
		ended(t, "attach", p)
		if log := p.Log(); !strings.Contains(log, "\n10.") {
			t.Errorf("attach ended with %q", log)
		}
	})
}

func routerLog(t *testing.T, h *netlab.Host) string {
	t.Helper()
	b, err := h.ReadFile("/run/weft/router.log")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
