package netlab

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDocker runs two engines at once: each is alone with its containers.
func TestDocker(t *testing.T) {
	t.Parallel()
	Require(t, "root", "docker")
	l := newLab(t)
	start := time.Now()
	var wg sync.WaitGroup
	for _, name := range []string{"host1", "host2"} {
		wg.Go(func() {
			h, err := l.Host(name, HostOptions{Docker: true})
			if err == nil {
				err = h.ImportImage("busybox")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("two engines with an image after %v", time.Since(start))
	a, b := l.Hosts()[0], l.Hosts()[1]
	docker := func(h *Host, args ...string) string {
		t.Helper()
		out, err := h.Docker(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := docker(a, "run", "--rm", "--hostname", "web", "busybox", "hostname"); got != "web" {
		t.Errorf("docker run says %q", got)
	}
	for _, h := range []*Host{a, b} {
		docker(h, "run", "-d", "--name", "web", "--restart", "always", "--init", "busybox", "sleep", "4242")
		if got := docker(h, "ps", "--format", "{{.Names}} {{.Status}}"); !strings.HasPrefix(got, "web Up") {
			t.Errorf("docker ps on %s says %q", h.Name(), got)
		}
	}
	if got := run(t, a, "iptables", "-S", "FORWARD"); !strings.Contains(got, "-P FORWARD DROP") {
		t.Errorf("rules of FORWARD: %s", got)
	}
	pid := func(h *Host) string { return docker(h, "inspect", "-f", "{{.State.Pid}}", "web") }
	first, other := pid(a), pid(b)

	// A killed engine leaves its containers; the next one starts them anew.
	start = time.Now()
	if err := a.KillDocker(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Docker("ps"); err == nil {
		t.Error("a killed engine answers")
	}
	run(t, a, "kill", "-0", first)
	if err := a.StartDocker(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed and started in %v", time.Since(start))
	if got := pid(a); got == first || got == "0" {
		t.Errorf("the container has the process %s after the kill, %s before", got, first)
	}
	start = time.Now()
	if err := a.StopDocker(); err != nil {
		t.Fatal(err)
	}
	if found, err := running(l.record.mark(a.Name())); err != nil || len(found) != 0 {
		t.Errorf("after its engine's stop, %s has %d processes, %v", a.Name(), len(found), err)
	}
	if err := a.RestartDocker(); err != nil { // a stopped one is started
		t.Fatal(err)
	}
	t.Logf("stopped and started in %v", time.Since(start))
	waitFor(t, "the container to run again", func() bool {
		return strings.HasPrefix(docker(a, "ps", "--format", "{{.Status}}"), "Up")
	})
	if got := pid(b); got != other {
		t.Errorf("the other host's container was touched: process %s, then %s", other, got)
	}
	// A paused container ends with the lab too.
	docker(b, "pause", "web")
	start = time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("closed in %v", time.Since(start))
	if n := labProcesses(t, l.ID()); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if dirs := cgroupDirs(l.record.cgroup()); len(dirs) != 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
}
