package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestStandstill stops the processes of a host for a while, as a debugger, a full disk
// or a machine without memory does. All their timers are due when they go on, before
// they have read what has come meanwhile.
func TestStandstill(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs)
	a, b, c := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b"), attachWorkload(t, hs[2], "c")
	waitPeers(t, hs...)
	allReach(t, a, b, c)

	// failures is how often each host has taken another for failed.
	failures := func(t *testing.T) (n [3]int) {
		t.Helper()
		for i, h := range hs {
			log, err := h.ReadFile("/run/weft/router.log")
			if err != nil {
				t.Fatal(err)
			}
			n[i] = strings.Count(string(log), `"host is failed"`)
		}
		return n
	}

	router, device := routerPID(t, hs[2]), devicePID(t, hs[2])
	stops := []struct {
		what string
		pids []int
		long time.Duration
		want int // times that each of the others takes it for failed
	}{
		{"the router", []int{router}, 3 * time.Second, 0},
		{"the router", []int{router}, 30 * time.Second, 0}, // its tunnel answers
		{"router and device", []int{router, device}, 3 * time.Second, 0},
		{"router and device", []int{router, device}, 30 * time.Second, 1},
	}
	if device == 0 {
		stops = stops[:2] // the kernel's stands still with the machine only
	}
	for i, s := range stops {
		t.Run(fmt.Sprintf("%s for %v", s.what, s.long), func(t *testing.T) {
			before := failures(t)
			for _, pid := range s.pids {
				t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // no harm twice
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			end := time.Now().Add(s.long)
			if s.want > 0 {
				for _, h := range hs[:2] {
					took := resolves(t, h, 20*time.Second, "c.weft.local") // promise 4 of the design says 16 s, on a machine that is not busy
					t.Logf("%s hides its names after %v", h.Name(), took.Round(time.Millisecond))
				}
			}
			for time.Now().Before(end) {
				a.pings(t, b.addr, 1)
				if len(s.pids) == 1 {
					a.pings(t, c.addr, 1) // packets do not pass the router
				}
			}
			for _, pid := range s.pids {
				if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			name := fmt.Sprintf("after%d.weft.local", i)
			do(t, hs[2], "dns-add", c.addr, c.container, "-h", name)
			for _, h := range hs {
				// After 30 s it first hears from another host that it still has its addresses.
				took := resolves(t, h, 20*time.Second, "c.weft.local", c.addr)
				resolves(t, h, 20*time.Second, name, c.addr)
				t.Logf("%s answers its names %v after it goes on", h.Name(), took.Round(time.Millisecond))
			}
			allReach(t, a, b, c)
			steady(t, 6*time.Second, hs...) // suspicions of before would be over: three hosts wait 4 s
			now := failures(t)
			for i, want := range [3]int{s.want, s.want, 0} {
				if got := now[i] - before[i]; got != want {
					t.Errorf("%s took others for failed %d times, want %d", hs[i].Name(), got, want)
				}
			}
		})
	}
}
