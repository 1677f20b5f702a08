package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"weft/internal/netlab"
)

// TestAllHostsKilled cuts the power of all hosts at once: no process, no tunnel, no
// session and nothing in /run is left. All that is known afterwards is on the disks.
func TestAllHostsKilled(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	do(t, hs[0], "launch")
	for _, h := range hs[1:] {
		join(t, h, do(t, hs[0], "token"), "host1") // by name, from /etc/hosts
	}
	a, b, c := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b"), attachWorkload(t, hs[2], "c")
	waitPeers(t, hs...)

	launched := func(t *testing.T, flags ...string) {
		t.Helper()
		for _, h := range hs {
			do(t, h, append([]string{"launch"}, flags...)...)
		}
	}
	whole := func(t *testing.T) {
		t.Helper()
		waitPeers(t, hs...)
		allReach(t, a, b, c)
	}
	move := func(t *testing.T, last func(i int) int) {
		t.Helper()
		for i, h := range hs {
			if err := h.Move(netip.AddrFrom4([4]byte{192, 168, 48, byte(last(i))})); err != nil {
				t.Fatal(err)
			}
		}
	}

	t.Run("every address changes, and a target's name leads to the new one", func(t *testing.T) {
		cutPower(t, hs)
		move(t, func(i int) int { return 101 + i })
		launched(t, "--resume") // with the targets of the last run
		whole(t)
	})

	t.Run("they are launched without peers", func(t *testing.T) {
		cutPower(t, hs)
		launched(t)
		whole(t)
	})

	t.Run("they are stopped in good order", func(t *testing.T) {
		var all sync.WaitGroup
		for _, h := range hs {
			all.Go(func() {
				if out, stderr, err := h.Run(weft, "stop"); err != nil {
					t.Errorf("%v: %s%s", err, out, stderr)
				}
			})
		}
		all.Wait()
		launched(t)
		whole(t)
	})

	// No target is left now: a launch without peers and without --resume has none.
	t.Run("they swap their addresses", func(t *testing.T) {
		cutPower(t, hs)
		move(t, func(i int) int { return 201 + i }) // no two hosts have one at a time
		move(t, func(i int) int { return 101 + (i+1)%len(hs) })
		launched(t)
		whole(t)
	})

	t.Run("every address changes, and nothing leads to the new ones", func(t *testing.T) {
		cutPower(t, hs)
		move(t, func(i int) int { return 111 + i })
		launched(t)
		// One command of the operator's, on one host.
		do(t, hs[0], "connect", hs[1].Addr().String(), hs[2].Addr().String())
		whole(t)
	})

	t.Run("once more, with what that has taught them", func(t *testing.T) {
		cutPower(t, hs)
		launched(t)
		whole(t)
	})

	for i, w := range []*workload{a, b, c} {
		r, err := reportOf(hs[i])
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(r.Attachments); len(r.Attachments) != 1 || !strings.Contains(got, "["+w.addr+"/12]") {
			t.Errorf("%s has %s, had %s", hs[i].Name(), got, w.addr)
		}
	}
}

// cutPower kills hosts and takes from them what a reboot takes.
func cutPower(t *testing.T, hs []*netlab.Host) {
	t.Helper()
	for _, h := range hs {
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
		// The kernel's device has no process.
		if out, stderr, err := h.Run("sh", "-c", "rm -rf /run/weft; ! ip link show weftwg >/dev/null 2>&1 || ip link del weftwg"); err != nil {
			t.Fatal(out, stderr)
		}
	}
}
