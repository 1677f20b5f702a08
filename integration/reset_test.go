package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// stateOf is what weft could change on a host.
func stateOf(h *netlab.Host) string {
	var b strings.Builder
	for _, c := range [][]string{{"ip", "-br", "link"}, {"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route"}, {"nft", "list", "ruleset"},
		{"sh", "-c", "ls -A /run/weft /var/lib/weft /run/wireguard 2>/dev/null"}} {
		out, _, _ := h.Run(c...)
		fmt.Fprintf(&b, "%v\n%s", c, out)
	}
	return b.String()
}

// TestReset leaves nothing on the host, and hands its address space over.
func TestReset(t *testing.T) {
	netlab.Require(t, "root", "nft")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	state := func() string { return stateOf(hs[1]) }
	clean := state()
	launchMesh(t, hs)
	attachWorkload(t, hs[1], "b")
	if state() == clean {
		t.Fatal("a running router is not seen by this test")
	}
	do(t, hs[1], "reset")
	if left := state(); left != clean {
		t.Errorf("reset left something:\n%s\nbefore launch it was:\n%s", left, clean)
	}
	r, err := reportOf(hs[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPAM.Owners) != 1 || r.IPAM.Owners[0].Nickname != "host1" {
		t.Errorf("the space was not handed over: %+v", r.IPAM.Owners)
	}
	// And without a router.
	join(t, hs[1], do(t, hs[0], "token"), hs[0].Addr().String())
	killed(t, routerPID(t, hs[1]))
	refused(t, hs[1], []string{"reset"}, "no router is running")
	do(t, hs[1], "reset", "--force")
	eventually(t, 5*time.Second, "the forced reset leaves nothing", func() error {
		if left := state(); left != clean {
			return fmt.Errorf("%s", left)
		}
		return nil
	})
}

// killed kills a process and waits until it has gone, its sockets with it.
func killed(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a killed process goes", func() error {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil { // a zombie has none
			return errText(exe)
		}
		return nil
	})
}

// A reset that nobody could take the address space from is refused, and then
// nothing has changed: not here, and not with the others.
func TestResetRefused(t *testing.T) {
	netlab.Require(t, "root", "nft", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	clean := stateOf(hs[1])
	launchMesh(t, hs)
	a, b, c := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b"), attachWorkload(t, hs[1], "c")
	waitPeers(t, hs...)
	crosses(t, a, b, 5*time.Second)
	cut := func() {
		t.Helper()
		if err := lab.Cut(hs[0], hs[1]); err != nil {
			t.Fatal(err)
		}
	}
	owners := func(h *netlab.Host) string {
		t.Helper()
		r, err := reportOf(h)
		if err != nil {
			t.Fatal(err)
		}
		var each []string
		for _, o := range r.IPAM.Owners {
			each = append(each, fmt.Sprintf("%s %.2f", o.Nickname, o.Percent))
		}
		slices.Sort(each)
		return strings.Join(each, ", ")
	}
	before, shares := do(t, hs[1], "ps"), owners(hs[1])

	cut()
	refused(t, hs[1], []string{"reset"}, "address space", "weft reset --force")
	if now := do(t, hs[1], "ps"); now != before {
		t.Errorf("weft ps after a refused reset:\n%s\nbefore:\n%s", now, before)
	}
	if now := owners(hs[1]); now != shares {
		t.Errorf("owners after a refused reset: %s, before: %s", now, shares)
	}
	b.pings(t, c.addr, 1)
	resolves(t, hs[1], 2*time.Second, "c.weft.local", c.addr)
	d := attachWorkload(t, hs[1], "d") // it still allocates
	if slices.Contains([]string{a.addr, b.addr, c.addr}, d.addr) {
		t.Errorf("%s was given out twice", d.addr)
	}
	if err := lab.Heal(hs[0], hs[1]); err != nil {
		t.Fatal(err)
	}
	crosses(t, a, b, 20*time.Second)
	crosses(t, d, a, 20*time.Second)
	resolves(t, hs[0], 20*time.Second, "d.weft.local", d.addr)
	if now := owners(hs[0]); now != shares {
		t.Errorf("owners on the other host after a refused reset: %s, before: %s", now, shares)
	}

	cut()
	refused(t, hs[1], []string{"reset"}, "address space")
	do(t, hs[1], "reset", "--force")
	if left := stateOf(hs[1]); left != clean {
		t.Errorf("reset --force left something:\n%s\nbefore launch it was:\n%s", left, clean)
	}
}

// Files of others in weft's directories are not weft's to delete.
func TestForeignFiles(t *testing.T) {
	lab := newLab(t)
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	dirs := []string{"--state-dir", "/var/lib/state", "--run-dir", "/run/run"}
	run := func(verb string, args ...string) {
		t.Helper()
		do(t, h, append(append([]string{verb}, dirs...), args...)...)
	}
	list := func() string {
		t.Helper()
		out, stderr, err := h.Run("sh", "-c", "find /var/lib/state /run/run ! -type d | LC_ALL=C sort | xargs -r grep -H .")
		if err != nil && !strings.Contains(stderr, "grep") {
			t.Fatalf("%v\n%s", err, stderr)
		}
		return out
	}
	const foreign = "/run/run/notes:mine\n/run/run/notes.d/keep:mine\n/var/lib/state/notes:mine\n/var/lib/state/notes.d/keep:mine\n"
	if _, stderr, err := h.Run("sh", "-c", "for d in /var/lib/state /run/run; do mkdir -p $d/notes.d && echo mine >$d/notes && echo mine >$d/notes.d/keep; done"); err != nil {
		t.Fatal(stderr)
	}
	for _, how := range []string{"reset", "reset --force without a router"} {
		run("launch")
		out, _, err := h.Run("ls", "/var/lib/state/state.db", "/run/run/weft.lock", "/run/run/weft.sock")
		if err != nil {
			t.Fatalf("weft does not use the directories that it was told: %s", out)
		}
		if how == "reset" {
			run("reset")
		} else {
			b, err := h.ReadFile("/run/run/weft.lock")
			if err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Sscan(string(b), &pid); err != nil {
				t.Fatal(err)
			}
			killed(t, pid)
			run("reset", "--force")
		}
		if left := list(); left != foreign {
			t.Errorf("%s left\n%swant\n%s", how, left, foreign)
		}
		nothingRuns(t, h)
	}
}

// TestResetWithoutProof: what a host would hand over that may have forgotten something can be another's. It waits for
// another host's word; by force it goes and hands over nothing.
func TestResetWithoutProof(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	unproven := func() {
		t.Helper()
		killRouter(t, hs[0])
		killRouter(t, hs[1])
		if _, stderr, err := hs[1].Run("rm", "/run/weft/mark"); err != nil { // as a reboot does
			t.Fatal(stderr)
		}
		do(t, hs[1], "launch")
		refused(t, hs[1], []string{"reset"}, "this host's state may not be the latest", "bring another host of the mesh into reach", "weft reset --force")
	}
	unproven()
	do(t, hs[0], "launch")
	do(t, hs[0], "prime")
	waitPeers(t, hs...)
	out, stderr, err := hs[1].Run(weft, "reset") // it has heard from the other, or does so now
	if err != nil || strings.Contains(stderr, "warning") {
		t.Fatalf("reset with another host in reach: %v\n%s%s", err, out, stderr)
	}
	says(t, hs[0], 10*time.Second, []string{"status", "ipam"}, "1048576 IPs (100.0% of total)")
	join(t, hs[1], do(t, hs[0], "token"), hs[0].Addr().String())
	unproven()
	if out, stderr, err = hs[1].Run(weft, "reset", "--force"); err != nil || !strings.Contains(stderr, "weft: warning: this host's state may not be the latest, so it has handed no address space over; `weft rmpeer ") {
		t.Fatalf("reset --force: %v\n%s%s", err, out, stderr)
	}
	do(t, hs[0], "launch")
	do(t, hs[0], "prime", "--alone")
	says(t, hs[0], 30*time.Second, []string{"status", "ipam"}, "host2)", "- unreachable!")
	_, id, _ := strings.Cut(stderr, "`weft rmpeer ")
	id, _, _ = strings.Cut(id, "`")
	do(t, hs[0], "rmpeer", "--force", id) // of two, one is no majority
	says(t, hs[0], 10*time.Second, []string{"status", "ipam"}, "1048576 IPs (100.0% of total)")

	// The only host of its mesh has nobody to wait for, once it was up for long enough to be dialled.
	h := newHosts(t, lab, netlab.HostOptions{}, "lone")[0]
	do(t, h, "launch")
	killRouter(t, h)
	if _, stderr, err := h.Run("rm", "/run/weft/mark"); err != nil {
		t.Fatal(stderr)
	}
	do(t, h, "launch")
	do(t, h, "reset")
}
