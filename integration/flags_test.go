package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// Flags of launch that a mesh of one host can show.
func TestLaunchFlags(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	listens := func() string {
		t.Helper()
		out, stderr, err := h.Run("busybox", "netstat", "-lntu")
		if err != nil {
			t.Fatal(stderr)
		}
		return out
	}
	workload := func(name string) string {
		t.Helper()
		w, err := h.Workload(name)
		if err != nil {
			t.Fatal(err)
		}
		return "netns:" + w.NetNSPath()
	}

	t.Run("--host", func(t *testing.T) {
		do(t, h, "launch")
		if out := listens(); !strings.Contains(out, ":::6783") && !strings.Contains(out, "0.0.0.0:6783") {
			t.Errorf("without --host not all addresses are listened on:\n%s", out)
		}
		do(t, h, "reset")
		addr := h.Addr().String()
		do(t, h, "launch", "--host", addr)
		for l := range strings.Lines(listens()) {
			// The control address, which begins with fd, is inside the tunnels.
			if f := strings.Fields(l); f[0] == "tcp" && strings.HasSuffix(f[3], ":6783") && f[3] != addr+":6783" && !strings.HasPrefix(f[3], "fd") {
				t.Errorf("with --host %s: %s", addr, l)
			}
		}
		if out := listens(); !strings.Contains(out, addr+":6783 ") {
			t.Errorf("--host %s is not listened on:\n%s", addr, out)
		}
		do(t, h, "reset")
	})

	t.Run("--no-dns", func(t *testing.T) {
		if out := do(t, h, "launch", "--no-dns", "--json"); !json.Valid([]byte(out)) || !strings.Contains(out, "founded mesh") {
			t.Errorf("launch --json: %q", out)
		}
		if out := do(t, h, "dns-args"); out != "" {
			t.Errorf("dns-args: %q", out)
		}
		if out := listens(); strings.Contains(out, ":53 ") {
			t.Errorf("something serves names:\n%s", out)
		}
		if out := do(t, h, "status"); strings.Contains(out, "Service: dns") || !strings.Contains(out, "Service: ipam") {
			t.Errorf("status:\n%s", out)
		}
		refused(t, h, []string{"dns-lookup", "web"}, "without DNS")
		if out := do(t, h, "attach", workload("nodns")); !strings.HasPrefix(out, "10.") {
			t.Errorf("attach: %q", out)
		}
		do(t, h, "reset")
	})

	t.Run("a range narrower than the default subnet", func(t *testing.T) {
		do(t, h, "launch", "--ipalloc-range", "10.32.1.0/24", "--ipalloc-default-subnet", "10.32.0.0/16")
		c := workload("narrow")
		if out := do(t, h, "attach", c, "--json"); !strings.Contains(out, "10.32.1.") {
			t.Errorf("attach: %q", out)
		}
		if out := do(t, h, "ps"); !strings.Contains(out, "/16") {
			t.Errorf("it has another subnet than the default one: %s", out)
		}
		if out := do(t, h, "attach", "10.32.77.1/16", workload("operators")); out != "10.32.77.1" {
			t.Errorf("attach of an address of the operator's: %q", out)
		}
		do(t, h, "reset")
	})

	t.Run("--ipalloc-range ''", func(t *testing.T) {
		do(t, h, "launch", "--ipalloc-range", "")
		c := workload("norange")
		refused(t, h, []string{"attach", c}, "without an address range")
		refused(t, h, []string{"prime"}, "without an address range")
		if out := do(t, h, "attach", "10.77.1.1/24", c); out != "10.77.1.1" {
			t.Errorf("attach of an address of the operator's: %q", out)
		}
		if out := do(t, h, "status", "ipam"); strings.Contains(out, "%") {
			t.Errorf("status ipam without a range:\n%s", out)
		}
		do(t, h, "reset")
	})
}

// Flags of launch that take a second host to show.
func TestLaunchFlagsOfAMember(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	const elsewhere = "203.0.113.9:7000"
	first := hs[0].Addr().String()
	do(t, hs[0], "launch", "--ipalloc-default-subnet", "10.33.7.0/24")
	if err := hs[1].WriteFile("/run/token", []byte(do(t, hs[0], "token")), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, hs[1], "launch", "--token-file", "/run/token", "--advertise-address", elsewhere, first)
	do(t, hs[1], "prime")
	waitPeers(t, hs...)

	// --ipalloc-default-subnet is the mesh's: it counts on the second host as well.
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	for _, w := range []*workload{a, b} {
		if !strings.HasPrefix(w.addr, "10.33.7.") {
			t.Errorf("%s has %s, which is not of the default subnet", w.Name(), w.addr)
		}
		if out := do(t, w.host, "status"); !strings.Contains(out, "DefaultSubnet: 10.33.7.0/24") || !strings.Contains(out, "Range: 10.32.0.0/12") {
			t.Errorf("status on %s:\n%s", w.host.Name(), out)
		}
	}
	crosses(t, a, b, 10*time.Second)

	// --advertise-address replaces what was found out.
	out := do(t, hs[0], "status", "peers")
	if !strings.Contains(out, elsewhere) {
		t.Errorf("the advertised address is not known to others:\n%s", out)
	}
	_, endpoints, _ := strings.Cut(out, "endpoints: ")
	if endpoints, _, _ = strings.Cut(endpoints, "\n"); endpoints != elsewhere {
		t.Errorf("host1 knows endpoints %q of host2, want %s alone", endpoints, elsewhere)
	}

	// --resume: the targets of the last run.
	targets := func() string { t.Helper(); return do(t, hs[1], "status", "targets") }
	do(t, hs[1], "stop")
	do(t, hs[1], "launch", "--resume")
	if out := targets(); !strings.Contains(out, first) {
		t.Errorf("targets of launch --resume: %q", out)
	}
	do(t, hs[1], "stop")
	do(t, hs[1], "launch")
	if out := targets(); out != "" {
		t.Errorf("targets of a fresh launch: %q", out)
	}
	waitPeers(t, hs...)
	crosses(t, b, a, 10*time.Second)
}

// A host that is lost is dialled by all that know of it, but not by one with
// --no-discovery that was not told of it.
func TestNoDiscovery(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "lost", "host3")
	launchMesh(t, hs[:2])
	token := do(t, hs[0], "token")
	if err := hs[2].WriteFile("/run/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, hs[2], "launch", "--token-file", "/run/token", "--no-discovery", hs[0].Addr().String())
	waitPeers(t, hs...)
	for i, want := range map[int]string{0: "PeerDiscovery: enabled", 2: "PeerDiscovery: disabled"} {
		if out := do(t, hs[i], "status"); !strings.Contains(out, want) {
			t.Errorf("status on %s lacks %s:\n%s", hs[i].Name(), want, out)
		}
	}
	for _, h := range []*netlab.Host{hs[0], hs[2]} {
		if err := lab.Cut(h, hs[1]); err != nil {
			t.Fatal(err)
		}
	}
	join := hs[1].Addr().String() + ":6783"
	dials := func(h *netlab.Host) bool {
		t.Helper()
		out, stderr, err := h.Run("busybox", "netstat", "-nt")
		if err != nil {
			t.Fatal(stderr)
		}
		return strings.Contains(out, join)
	}
	// host1 dials it again and again: as soon as it has begun twice, host3
	// would have begun too.
	began, dialling := 0, false
	eventually(t, 40*time.Second, "host1 dials the lost host", func() error {
		if dials(hs[2]) {
			t.Fatal("with --no-discovery a host is dialled that was not named")
		}
		now := dials(hs[0])
		if now && !dialling {
			began++
		}
		if dialling = now; began < 2 {
			return fmt.Errorf("%d times", began)
		}
		return nil
	})
	for _, h := range []*netlab.Host{hs[0], hs[2]} {
		if err := lab.Heal(h, hs[1]); err != nil {
			t.Fatal(err)
		}
	}
	waitPeers(t, hs...) // host1 dialled it, and told host3
}

// Until a host has joined, it cannot know whose an address is: a claim waits, and
// says what for. Then it is answered, though not in its favour.
func TestClaimBeforeJoining(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	for _, h := range hs {
		if err := h.WriteFile("/run/password", []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do(t, hs[1], "launch", "--password-file", "/run/password", "host1")
	w, err := hs[1].Workload("w")
	if err != nil {
		t.Fatal(err)
	}
	c := "netns:" + w.NetNSPath()
	early, err := hs[1].Start("early", weft, "attach", "ip:10.32.0.9/12", c)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "attach says what it waits for", func() error {
		if log := early.Log(); !strings.Contains(log, "weft: waiting for address space: awaiting the founder of the mesh") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
	do(t, hs[0], "launch", "--password-file", "/run/password")
	do(t, hs[1], "prime")
	ended(t, "attach", early)
	if err := early.Wait(); err != nil || !strings.Contains(early.Log(), "10.32.0.9\n") {
		t.Errorf("a claim in the founder's half: %v %s", err, early.Log())
	}
	other, err := hs[0].Workload("other")
	if err != nil {
		t.Fatal(err)
	}
	o := "netns:" + other.NetNSPath()
	refused(t, hs[0], []string{"attach", "ip:10.32.0.9/12", o}, "address 10.32.0.9 belongs to ", "(host2), which does not give it", "weft ps")
	if out := do(t, hs[0], "ps"); strings.Contains(out, "10.32.0.9") {
		t.Errorf("a claim that was refused is in weft ps:\n%s", out)
	}
	if out, _, err := other.Run("ip", "link", "show", "ethwe"); err == nil {
		t.Errorf("a claim that was refused left an interface:\n%s", out)
	}
	do(t, hs[1], "detach", "ip:10.32.0.9/12", c)
	eventually(t, 60*time.Second, "the address moves to the other host", func() error {
		out, stderr, err := hs[0].Run(weft, "attach", "ip:10.32.0.9/12", o)
		if err != nil || strings.TrimSpace(out) != "10.32.0.9" {
			return fmt.Errorf("%v: %s%s", err, out, stderr)
		}
		return nil
	})
	owner := "10.40.0.9" // the newcomer's half
	if out := do(t, hs[1], "attach", "ip:"+owner+"/12", c); out != owner {
		t.Errorf("the claim after joining: %q", out)
	}
}
