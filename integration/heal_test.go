package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestHealing is what networks and disks do to a mesh of real hosts that the
// simulations do to a simulated one: links that carry one way only, loss, an address
// that changes, a state file put back. Partitions and restarts of all routers are in
// TestComeAndGo, restarts of all hosts in TestAllHostsKilled, processes that stand still
// in TestStandstill.
func TestHealing(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs)
	a, b, c := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b"), attachWorkload(t, hs[2], "c")
	waitPeers(t, hs...)

	t.Run("a link carries one way only", func(t *testing.T) {
		if err := lab.CutOneWay(hs[0], hs[1]); err != nil {
			t.Fatal(err)
		}
		steady(t, 20*time.Second, hs...) // host3 vouches for both
		c.pings(t, a.addr, 2)
		c.pings(t, b.addr, 2)
		do(t, hs[0], "dns-add", a.addr, a.container, "-h", "oneway.weft.local")
		resolves(t, hs[1], 20*time.Second, "oneway.weft.local", a.addr) // by way of host3
		if err := lab.Heal(hs[0], hs[1]); err != nil {
			t.Fatal(err)
		}
		crosses(t, a, b, 60*time.Second)
		crosses(t, b, a, 60*time.Second)
	})

	t.Run("every link loses a tenth", func(t *testing.T) {
		for i, h := range hs {
			for _, o := range hs[i+1:] {
				if err := lab.Impair(h, o, netlab.Impairment{Seed: 7, Loss: 0.1, Delay: 5 * time.Millisecond}); err != nil {
					t.Fatal(err)
				}
			}
		}
		steady(t, 15*time.Second, hs...)
		for i := range 5 {
			name := fmt.Sprintf("lossy%d.weft.local", i)
			do(t, hs[i%3], "dns-add", "10.32.200.1", "-h", name)
			for _, h := range hs {
				resolves(t, h, 20*time.Second, name, "10.32.200.1")
			}
		}
		for i, h := range hs {
			for _, o := range hs[i+1:] {
				if err := lab.Impair(h, o, netlab.Impairment{}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})

	t.Run("an address changes", func(t *testing.T) {
		if err := hs[1].Move(netip.MustParseAddr("192.168.48.112")); err != nil {
			t.Fatal(err)
		}
		crosses(t, b, a, 60*time.Second)
		crosses(t, a, b, 60*time.Second)
		crosses(t, c, b, 60*time.Second)
		eventually(t, 60*time.Second, "host1 knows the new address", func() error {
			out, _, err := hs[0].Run(weft, "status", "connections")
			if err != nil {
				return err
			}
			if !strings.Contains(out, "192.168.48.112:6783") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		waitPeers(t, hs...)
	})

	t.Run("a state file is put back", func(t *testing.T) {
		kill := func() {
			t.Helper()
			if err := syscall.Kill(routerPID(t, hs[2]), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		kill()
		var old []byte
		eventually(t, 10*time.Second, "the state file is read", func() (err error) {
			old, err = hs[2].ReadFile("/var/lib/weft/state.db")
			return err
		})
		for i := range 3 { // starts that the old file knows nothing of
			do(t, hs[2], "launch")
			do(t, hs[2], "dns-add", "10.32.200.2", "-h", fmt.Sprintf("later%d.weft.local", i))
			resolves(t, hs[0], 20*time.Second, fmt.Sprintf("later%d.weft.local", i), "10.32.200.2")
			kill()
		}
		if err := hs[2].WriteFile("/var/lib/weft/state.db", old, 0o600); err != nil {
			t.Fatal(err)
		}
		do(t, hs[2], "launch")
		waitPeers(t, hs...)
		c.pings(t, a.addr, 2)
		// It is heard again, and what it has no longer is gone everywhere.
		do(t, hs[2], "dns-add", "10.32.200.3", "-h", "after.weft.local")
		for _, h := range hs[:2] {
			resolves(t, h, 20*time.Second, "after.weft.local", "10.32.200.3")
			resolves(t, h, 20*time.Second, "c.weft.local", c.addr)
			resolves(t, h, 20*time.Second, "later2.weft.local")
		}
	})
}

// steady looks for d at what every host says of every other.
func steady(t *testing.T, d time.Duration, hs ...*netlab.Host) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, h := range hs {
			r, err := reportOf(h)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.Router.Peers {
				if p.State != "alive" {
					t.Fatalf("%s holds %s for %s", h.Name(), p.Nickname, p.State)
				}
			}
		}
	}
}
