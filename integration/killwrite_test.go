package integration

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestKilledAtAWrite kills a router as it is about to write to its disk for the n-th time, for a row of n, while
// containers come and go and while another host gets space from it; and as it starts. Between two writes nothing
// changes that outlives it, so a kill before one and a kill before the next stand for all instructions in between.
// Whatever it had answered holds afterwards, and no address has two users.
func TestKilledAtAWrite(t *testing.T) {
	netlab.Require(t, "root", "strace")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	h := hs[0]

	var all []*netlab.Workload
	holds := map[string]string{} // what attach has answered, by container
	workload := func(h *netlab.Host, name string) (*netlab.Workload, string) {
		w, err := h.Workload(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
		return w, "netns:" + w.NetNSPath()
	}
	attach := func(h *netlab.Host, ns string, args ...string) {
		if out, _, err := h.Run(append([]string{weft, "attach"}, append(args, ns)...)...); err == nil {
			holds[ns] = strings.TrimSpace(out)
		}
	}
	const inject = "inject=pwrite64,fdatasync:signal=KILL:when=%d"
	kills := 0
	var left []string
	at := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20}
	for range 5 {
		at = append(at, 1+rng.IntN(30))
	}
	for round, n := range at {
		pid := routerPID(t, h)
		tracer, err := h.Start(fmt.Sprintf("strace%d", round), "strace", "-f", "-e", "trace=pwrite64,fdatasync", "-e", fmt.Sprintf(inject, n), "-o", "/dev/null", "-p", fmt.Sprint(pid))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "strace is there", func() error {
			if log := tracer.Log(); !strings.Contains(log, "attached") {
				return fmt.Errorf("%q", log)
			}
			return nil
		})
		_, one := workload(h, fmt.Sprintf("one%d", round))
		_, two := workload(hs[1], fmt.Sprintf("two%d", round))
		attach(h, one)
		asks, err := hs[1].Start(fmt.Sprintf("asks%d", round), weft, "attach", fmt.Sprintf("net:10.33.%d.0/24", round), two) // the first host's space
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 1 { // leave one, detach one
			if _, _, err := h.Run(weft, "detach", left[0]); err == nil {
				delete(holds, left[0])
			} else {
				holds[left[0]] = "" // either
			}
			left = left[1:]
		}
		left = append(left, one)
		_, three := workload(h, fmt.Sprintf("three%d", round))
		attach(h, three, fmt.Sprintf("ip:10.34.0.%d/24", round+1))
		if _, _, err := h.Run(weft, "status"); err != nil {
			kills++
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // so many writes there may not have been
		ended(t, "strace", tracer)
		if round%3 == 2 { // and once more, as it starts
			p, err := h.Start(fmt.Sprintf("start%d", round), "strace", "-f", "-e", "trace=pwrite64,fdatasync", "-e", fmt.Sprintf(inject, 1+rng.IntN(12)), "-o", "/dev/null", weft, "launch")
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, "it is killed, or has survived its start", func() error {
				select {
				case <-p.Done():
					return nil
				default:
				}
				_, stderr, err := h.Run(weft, "status")
				if err != nil {
					return fmt.Errorf("%w: %s", err, stderr)
				}
				t.Logf("round %d: it survived its start", round)
				return nil
			})
			eventually(t, 20*time.Second, "it is gone", func() error {
				var pid int
				if b, err := h.ReadFile("/run/weft/weft.lock"); err == nil {
					if _, err := fmt.Sscan(string(b), &pid); err == nil { // else it has not got that far
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				select {
				case <-p.Done():
					return nil
				default:
					return fmt.Errorf("process %d, or what launches it, is there", pid)
				}
			})
		}
		eventually(t, 20*time.Second, "it can be launched", func() error {
			_, stderr, err := h.Run(weft, "launch")
			if err != nil {
				return fmt.Errorf("%w: %s", err, stderr)
			}
			return nil
		})
		do(t, h, "prime")
		ended(t, "the other host's attach", asks)
		if holds[two] = lastLine(asks.Log()); !strings.HasPrefix(holds[two], fmt.Sprintf("10.33.%d.", round)) {
			t.Fatalf("round %d: the other host's attach: %s", round, asks.Log())
		}
		eventually(t, 10*time.Second, fmt.Sprintf("killed before write %d, all is as it was answered, and no address has two users", n), func() error {
			return sameAsAnswered(hs, all, holds)
		})
	}
	if kills < len(at)/2 {
		t.Errorf("it was killed at a write in %d of %d rounds only", kills, len(at))
	}
}

// nothing is what a container has whose attach was refused.
const nothing = "nothing"

// sameAsAnswered compares what is in the containers' namespaces, what weft ps tells, and what attach has answered:
// an address, nothing, or, as nobody knows, either (the empty string, or no entry).
func sameAsAnswered(hs []*netlab.Host, all []*netlab.Workload, holds map[string]string) error {
	told := map[string]string{} // address by container
	for _, h := range hs {
		out, stderr, err := h.Run(weft, "ps")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) == 3 && strings.HasPrefix(f[0], "netns:") {
				p, err := netip.ParsePrefix(f[2])
				if err != nil {
					return err
				}
				told[f[0]] = p.Addr().String()
			}
		}
	}
	users := map[string]string{}
	for _, w := range all {
		ns := "netns:" + w.NetNSPath()
		out, stderr, err := w.Run("ip", "-4", "-o", "addr", "show", "scope", "global")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		has := ""
		if f := strings.Fields(out); len(f) > 3 {
			has, _, _ = strings.Cut(f[3], "/")
		}
		if has != told[ns] {
			return fmt.Errorf("%s has %q, and weft ps says %q", ns, has, told[ns])
		}
		if want, answered := holds[ns]; answered && want != "" && want != has && (want != nothing || has != "") {
			return fmt.Errorf("%s has %q, and was told %q", ns, has, want)
		}
		if has != "" && users[has] != "" {
			return fmt.Errorf("%s is used by %s and by %s", has, users[has], ns)
		}
		users[has] = ns
	}
	return nil
}
