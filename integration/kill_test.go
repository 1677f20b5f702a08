package integration

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
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

	// 100 pings a second, and one TCP stream of some megabytes a second whose every
	// byte is checked. It is paced so that it fills no queue: what is lost, the
	// router's death has lost.
	ping, err := a.Start("ping", "ping", "-i", "0.01", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Start("sink", "sh", "-c", "sleep 1000 | busybox nc -l -p 9000 | tee /run/received | sha256sum >/run/sum"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the sink listens", func() error {
		out, _, err := b.Run("busybox", "netstat", "-ltn")
		if err == nil && !strings.Contains(out, ":9000") {
			err = errText("not yet")
		}
		return err
	})
	source, err := a.Start("source", "sh", "-c", `mkfifo /run/copy; sha256sum </run/copy >/run/sent &
		(i=0; while [ ! -e /run/enough ]; do i=$((i+1)); yes "line of part $i of a stream that must arrive whole" | head -c 100000; busybox usleep 10000; done) |
		tee /run/copy | busybox nc `+b.addr+` 9000; wait`)
	if err != nil {
		t.Fatal(err)
	}

	devices := []int{devicePID(t, hs[0]), devicePID(t, hs[1])}
	for i := range 20 {
		h, device := hs[i%2], devices[i%2]
		if err := syscall.Kill(routerPID(t, h), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		do(t, h, "launch")
		if got := devicePID(t, h); got != device {
			t.Fatalf("kill %d: the device process of %s changed from %d to %d", i, h.Name(), device, got)
		}
	}
	waitPeers(t, hs...)
	killedLast := lastAnswered(ping.Log())
	eventually(t, 30*time.Second, "pings are answered after the last kill", func() error {
		if n := lastAnswered(ping.Log()); n < killedLast+50 {
			return fmt.Errorf("the last one is %d, was %d", n, killedLast)
		}
		return nil
	})

	if err := ping.Kill(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	ended(t, "ping", ping)
	allAnswered(t, ping.Log(), killedLast+50)
	a.pings(t, b.addr, 3)
	t.Log(strings.TrimSpace(tail(ping.Log(), 200)))
	if err := a.WriteFile("/run/enough", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended(t, "the source", source)
	sent, err := a.ReadFile("/run/sent")
	if err != nil || len(sent) < 64 {
		t.Fatalf("the checksum of what was sent: %q (%v)", sent, err)
	}
	eventually(t, 10*time.Second, "the stream arrived whole", func() error {
		got, err := b.ReadFile("/run/sum")
		if err == nil && !bytes.Equal(got, sent) {
			err = fmt.Errorf("checksum %q, want %q", got, sent)
		}
		return err
	})
	size, _, err := b.Run("stat", "-c", "%s", "/run/received")
	if n, _ := strconv.Atoi(strings.TrimSpace(size)); err != nil || n < 5_000_000 {
		t.Errorf("only %d bytes were sent, which is no load (%v)", n, err)
	} else {
		t.Logf("%d bytes by TCP", n)
	}

	after, err := reportOf(hs[0])
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(after.Attachments) != fmt.Sprint(before.Attachments) || after.Router.ID != before.Router.ID {
		t.Errorf("attachments changed:\n%v\n%v", before.Attachments, after.Attachments)
	}
	for _, h := range hs {
		// Nor has it ever been: what was noticed and cured meanwhile is counted.
		metrics, stderr, err := h.Run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics")
		if err != nil || !strings.Contains(metrics, "weft_info") {
			t.Errorf("%s: read metrics: %v\n%s", h.Name(), err, stderr)
		}
		for l := range strings.Lines(metrics) {
			if f := strings.Fields(l); len(f) == 2 && strings.Contains(f[0], "clone") && f[1] != "0" {
				t.Errorf("%s took the restarted router for a copy: %s", h.Name(), l)
			}
		}
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

// ended waits for a process that is about to end.
func ended(t *testing.T, what string, p *netlab.Proc) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("%s has not ended: %s", what, tail(p.Log(), 400))
	}
}

var (
	pingSeq  = regexp.MustCompile(`icmp_seq=(\d+) ttl`)
	pingSent = regexp.MustCompile(`(\d+) packets transmitted`)
)

// lastAnswered is the number of the last ping that was answered.
func lastAnswered(out string) int {
	last := 0
	for _, m := range pingSeq.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[1])
		last = max(last, n)
	}
	return last
}

// allAnswered checks that every ping but those in flight at the interrupt was
// answered, once, and at least that many. ping itself counts those in flight as
// lost; they were sent when all routers had long been back.
func allAnswered(t *testing.T, out string, least int) {
	t.Helper()
	const inFlight = 100 // a second's: a busy machine answers late
	next := 1
	seen := map[int]bool{}
	for _, m := range pingSeq.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[1])
		if seen[n] {
			t.Errorf("ping %d was answered twice", n)
		}
		seen[n] = true
	}
	for seen[next] {
		next++
	}
	answered := next - 1
	sent := 0
	if m := pingSent.FindStringSubmatch(out); m != nil {
		sent, _ = strconv.Atoi(m[1])
	}
	if answered != len(seen) || sent-answered > inFlight || answered < max(100, least) || strings.Contains(out, "Unreachable") {
		t.Errorf("of %d pings %d were answered, without a gap to number %d: %s", sent, len(seen), answered, tail(out, 400))
	}
}

// devicePID is the process ID of a host's device, 0 where that is the kernel's.
func devicePID(t *testing.T, h *netlab.Host) int {
	t.Helper()
	if r, err := reportOf(h); err == nil && r.Router.Datapath == "kernel" {
		return 0
	}
	b, err := h.ReadFile("/run/weft/device.pid")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}
