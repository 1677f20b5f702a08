package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestSuspendedHost: a host stands still, and is taken over meanwhile. When it goes on, cut off from the others, it gives
// out nothing of what it had: the address that it would give is a container's elsewhere. When it hears from another
// host, it knows.
func TestSuspendedHost(t *testing.T) {
	netlab.Require(t, "busybox")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	h := hs[1]
	had := attachWorkload(t, h, "had")
	next, err := h.Workload("next")
	if err != nil {
		t.Fatal(err)
	}
	container := "netns:" + next.NetNSPath()
	promised := do(t, h, "attach", container)
	do(t, h, "detach", container) // it is kept for the same container for a while

	pids := []int{routerPID(t, h)}
	if device := devicePID(t, h); device != 0 { // the kernel's stands still with the machine only
		pids = append(pids, device)
	}
	for _, pid := range pids {
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // no harm twice
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	slept := time.Now().Add(32 * time.Second)
	says(t, hs[0], 30*time.Second, []string{"status", "ipam"}, "host2)", "- unreachable!")
	do(t, hs[0], "rmpeer", "--force", "host2")
	rival, err := hs[0].Workload("rival")
	if err != nil {
		t.Fatal(err)
	}
	do(t, hs[0], "attach", "ip:"+promised+"/12", "netns:"+rival.NetNSPath())
	other := attachWorkload(t, hs[0], "other")
	for time.Now().Before(slept) {
		other.pings(t, promised, 1)
	}

	if err := lab.Cut(hs[0], h); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	attach, err := h.Start("attach", weft, "attach", container)
	if err != nil {
		t.Fatal(err)
	}
	waits := func() error {
		t.Helper()
		select {
		case <-attach.Done():
			t.Fatalf("before it has heard from anybody, it gives out %s", lastLine(attach.Log()))
		default:
		}
		if log := attach.Log(); !strings.Contains(log, "weft: waiting for address space: waiting to hear from another host") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	}
	eventually(t, 20*time.Second, "attach says what it waits for", waits)
	refused(t, h, []string{"rmpeer", "--force", "host1"}, "this host's state may not be the latest")
	if err := waits(); err != nil {
		t.Fatal(err)
	}

	if err := lab.Heal(hs[0], h); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "attach ends", func() error {
		select {
		case <-attach.Done():
			return nil
		default:
			return fmt.Errorf("it says %q", attach.Log())
		}
	})
	w := &workload{Workload: next, host: h, container: container, addr: lastLine(attach.Log())}
	if w.addr == promised || w.addr == had.addr {
		t.Fatalf("it gives out %s, which another host has taken over", w.addr)
	}
	crosses(t, other, w, 20*time.Second)
	w.pings(t, promised, 2)
	says(t, h, 20*time.Second, []string{"status"}, "its address "+had.addr+" is ", "took over while this host was away; detach and attach it again")
}

// TestNewcomersAfterATakeover: a host died, was taken over, came back and knows of it. Hosts join after that, whose disks are so
// slow that they hear of it before they have written down which mesh they are in.
func TestNewcomersAfterATakeover(t *testing.T) {
	netlab.Require(t, "busybox", "strace")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "new1", "new2")
	launchMesh(t, hs[:2])
	waitPeers(t, hs[:2]...)
	if err := hs[1].Kill(); err != nil {
		t.Fatal(err)
	}
	says(t, hs[0], 30*time.Second, []string{"status", "ipam"}, "host2)", "- unreachable!")
	do(t, hs[0], "rmpeer", "--force", "host2")
	do(t, hs[1], "launch")
	do(t, hs[1], "prime") // it has space anew: it knows that it had lost what it had
	all := []*workload{attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")}

	token := do(t, hs[0], "token")
	launches := map[*netlab.Host]*netlab.Proc{}
	for _, h := range hs[2:] {
		if err := h.WriteFile("/run/token", []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := h.Start("launch", "strace", "-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=100000", "-o", "/dev/null",
			weft, "launch", "--token-file", "/run/token", hs[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		launches[h] = p
	}
	for _, h := range hs[2:] {
		eventually(t, 30*time.Second, h.Name()+" is a member", func() error {
			switch log := launches[h].Log(); {
			case strings.Contains(log, "weft: error: "):
				t.Fatal(log)
			case !strings.Contains(log, "weft is running"):
				return fmt.Errorf("launch says %q", log)
			}
			return nil
		})
		do(t, h, "prime")
		all = append(all, attachWorkload(t, h, "of-"+h.Name()))
	}
	waitPeers(t, hs...)
	allReach(t, all...)
	for _, h := range hs {
		if log, err := h.ReadFile("/run/weft/router.log"); err != nil || strings.Contains(string(log), "panic: ") {
			t.Errorf("%s: a router has crashed (%v)", h.Name(), err)
		}
	}
}
