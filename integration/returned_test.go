package integration

import (
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestReturnedContainers: a host with an engine was taken for dead, and its container's address is another's by now. The host comes
// back, and Docker starts the container again: status says what is the matter and what to type, nobody gets the wrong one, and
// then it has a new address.
func TestReturnedContainers(t *testing.T) {
	netlab.Require(t, "root", "docker", "busybox", "dig")
	lab := newLab(t)
	hs := []*netlab.Host{newHosts(t, lab, netlab.HostOptions{Docker: true}, "host1")[0], newHosts(t, lab, netlab.HostOptions{}, "host2")[0]}
	h := hs[0]
	if err := h.ImportImage("busybox"); err != nil {
		t.Fatal(err)
	}
	launchMesh(t, hs)
	waitPeers(t, hs...)
	web := runContainer(t, h, "web")
	other := attachWorkload(t, hs[1], "other")
	other.pings(t, web.addr, 2)
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	says(t, hs[1], 30*time.Second, []string{"status", "ipam"}, "host1)", "- unreachable!")
	do(t, hs[1], "rmpeer", "--force", "host1")
	rival, err := hs[1].Workload("rival")
	if err != nil {
		t.Fatal(err)
	}
	do(t, hs[1], "attach", "ip:"+web.addr+"/12", "netns:"+rival.NetNSPath())

	if err := h.StartDocker(); err != nil {
		t.Fatal(err)
	}
	do(t, h, "launch")
	waitPeers(t, hs...)
	probe := attachWorkload(t, h, "probe")
	for _, how := range []string{"start", "restart"} {
		if out, err := h.Docker(how, "web"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		says(t, h, 20*time.Second, []string{"status"}, "web is out of reach: its address "+web.addr+" is ", "host2)'s, which took over while this host was away; detach and attach it again")
		for _, x := range hs {
			resolves(t, x, 20*time.Second, web.fqdn())
		}
		for _, w := range []*workload{probe, other} { // it is the rival's, which serves nothing
			w.pings(t, web.addr, 2)
			if out, _, err := w.Run("busybox", "wget", "-q", "-T", "2", "-O", "-", "http://"+web.addr+"/index.html"); err == nil || strings.Contains(out, marker) {
				t.Errorf("after docker %s, the wrong one answers at %s: %q, %v", how, web.addr, out, err)
			}
		}
	}
	do(t, h, "detach", "web")
	again := do(t, h, "attach", "web")
	if again == web.addr {
		t.Fatalf("it got %s again", again)
	}
	other.pings(t, again, 2)
	for _, x := range hs {
		resolves(t, x, 20*time.Second, web.fqdn(), again)
	}
	if out := do(t, h, "status"); strings.Contains(out, "is out of reach") {
		t.Errorf("status goes on about it:\n%s", out)
	}
}
