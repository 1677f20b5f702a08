package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestRouterKilled kills a router twenty times, and starts it at once, while
// packets flow: none may be lost, no address may change, and the router may
// never be taken for a copy of itself.
func TestRouterKilled(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	resolves(t, hs[0], 5*time.Second, "b.weft.local", b.addr)
	a.pings(t, b.addr, 3)
	before, err := reportOf(hs[0])
	if err != nil {
		t.Fatal(err)
	}

	// 100 pings a second, and one TCP stream whose every byte is checked.
	ping, err := a.Start("ping", "ping", "-i", "0.01", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Start("sink", "sh", "-c", "sleep 1000 | busybox nc -l -p 9000 | sha256sum >/run/sum"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the sink listens", func() error {
		out, _, err := b.Run("busybox", "netstat", "-ltn")
		if err == nil && !strings.Contains(out, ":9000") {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	source, err := a.Start("source", "sh", "-c",
		"(i=0; while [ ! -e /run/enough ]; do i=$((i+1)); echo line $i of a stream that must arrive whole; done) | tee /run/sent | busybox nc "+b.addr+" 9000")
	if err != nil {
		t.Fatal(err)
	}

	device := devicePID(t, hs[0])
	for i := range 20 {
		pid := routerPID(t, hs[0])
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		do(t, hs[0], "launch")
		if got := devicePID(t, hs[0]); got != device {
			t.Fatalf("kill %d: the device process changed from %d to %d", i, device, got)
		}
	}
	waitPeers(t, hs...)

	if err := ping.Kill(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-ping.Done()
	if loss := lossOf(ping.Log()); loss != "0" || strings.Contains(ping.Log(), "Unreachable") {
		t.Errorf("ping lost packets: %s", tail(ping.Log(), 400))
	}
	t.Log(strings.TrimSpace(tail(ping.Log(), 200)))
	if err := a.WriteFile("/run/enough", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-source.Done()
	sent, _, err := a.Run("sh", "-c", "sha256sum </run/sent")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the stream arrived whole", func() error {
		got, err := b.ReadFile("/run/sum")
		if err == nil && string(got) != sent {
			err = fmt.Errorf("checksum %q, want %q", got, sent)
		}
		return err
	})

	after, err := reportOf(hs[0])
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(after.Attachments) != fmt.Sprint(before.Attachments) || after.Router.ID != before.Router.ID {
		t.Errorf("attachments changed:\n%v\n%v", before.Attachments, after.Attachments)
	}
	for _, h := range hs {
		r, err := reportOf(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range r.Router.Notices {
			if strings.Contains(n, "identity") || strings.Contains(n, "clone") {
				t.Errorf("%s took the restarted router for a copy: %s", h.Name(), n)
			}
		}
	}
	resolves(t, hs[1], 5*time.Second, "a.weft.local", a.addr)
}

func devicePID(t *testing.T, h *netlab.Host) int {
	t.Helper()
	b, err := h.ReadFile("/run/weft/device.pid")
	if err != nil {
		t.Skipf("kernel WireGuard has no device process: %v", err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}
