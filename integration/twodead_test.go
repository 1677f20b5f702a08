package integration

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestTwoDeadHosts: of two that died at once, either may have given the other space, so that the one takeover waits for the
// other: both are named, in any order, and all that they had is given out again.
func TestTwoDeadHosts(t *testing.T) {
	netlab.Require(t, "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3", "host4", "host5")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	for _, h := range hs {
		do(t, h, "prime")
	}
	for _, h := range hs[:3] {
		says(t, h, 30*time.Second, []string{"report", "-f", "{{range .IPAM.Electors}}{{.}} {{end}}"}, "host1", "host2", "host3", "host4", "host5")
	}
	for _, h := range hs[3:] {
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range hs[:3] {
		unreachable(t, h, "host4", "host5")
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var out, stderr string
	var err error
	eventually(t, 120*time.Second, "the minute is over", func() error {
		<-tick.C
		if out, stderr, err = hs[0].Run(weft, "rmpeer", "host4"); strings.Contains(stderr, "is taken for dead after") {
			return fmt.Errorf("%v: %s", err, stderr)
		}
		return nil
	})
	if err == nil || !strings.Contains(stderr, "host5) may have been given space by it that nobody else knows of") || !strings.Contains(stderr, "if they are dead, too: weft rmpeer each of them") {
		t.Errorf("what it waits for is not said: %v\n%s%s", err, out, stderr)
	}
	says(t, hs[1], 10*time.Second, []string{"status"}, "host4)", "host5)")
	for range 2 { // the second time it is as wanted already
		if out = do(t, hs[0], "rmpeer", "host4", "host5"); strings.Count(out, " IPs taken over from ") != 2 {
			t.Errorf("both were named:\n%s", out)
		}
	}
	refused(t, hs[1], []string{"rmpeer", "host4"}, "host1) took over from ", "host4) already")
	for _, h := range hs[:3] {
		eventually(t, 20*time.Second, "the dead own nothing", func() error {
			if out := do(t, h, "status", "ipam"); strings.Contains(out, "host4") || strings.Contains(out, "host5") || strings.Contains(out, "unreachable") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	a.pings(t, b.addr, 2)
}

// TestWithoutAMajority: who hangs up while the ring has not begun gets nothing when it does; and once it has, one host of three
// goes on alone, also with a new router.
func TestWithoutAMajority(t *testing.T) {
	netlab.Require(t, "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	do(t, hs[0], "launch", "--ipalloc-init", "consensus=3")
	w, err := hs[0].Workload("impatient")
	if err != nil {
		t.Fatal(err)
	}
	impatient, err := hs[0].Start("impatient", weft, "attach", "netns:"+w.NetNSPath())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "attach says what it waits for", func() error {
		if log := impatient.Log(); !strings.Contains(log, "weft: waiting for address space: awaiting consensus") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
	if err := impatient.Kill(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended(t, "attach", impatient)
	token := do(t, hs[0], "token")
	for _, h := range hs[1:] {
		joins(t, h, token, hs[0].Addr().String())
	}
	for _, h := range hs {
		do(t, h, "prime")
	}
	if out := do(t, hs[0], "ps"); strings.Contains(out, w.NetNSPath()) {
		t.Errorf("who has hung up is attached:\n%s", out)
	}
	says(t, hs[0], 10*time.Second, []string{"status", "ipam"}, "(0 active)")
	for _, h := range hs[1:] {
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	unreachable(t, hs[0], "host2", "host3")
	a := attachWorkload(t, hs[0], "a")
	killRouter(t, hs[0])
	do(t, hs[0], "launch")
	b := attachWorkload(t, hs[0], "b")
	a.pings(t, b.addr, 2)
	says(t, hs[0], 10*time.Second, []string{"status"}, "Status: ready")
	says(t, hs[0], 10*time.Second, []string{"status", "ipam"}, "(2 active)", "- unreachable!")
}

// unreachable waits until a host says it of each of these.
func unreachable(t *testing.T, h *netlab.Host, names ...string) {
	t.Helper()
	eventually(t, 30*time.Second, h.Name()+" misses them", func() error {
		out, stderr, err := h.Run(weft, "status", "ipam")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		for _, name := range names {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(l string) bool {
				return strings.Contains(l, "("+name+")") && strings.Contains(l, "- unreachable!")
			}) {
				return fmt.Errorf("%s is not unreachable in:\n%s", name, out)
			}
		}
		return nil
	})
}
