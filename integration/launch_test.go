package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// The founder says how to join, without the secret; and what each pair of hosts
// has in common is its own.
func TestFounderAndPairs(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "wg")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	out, stderr, err := hs[0].Run(weft, "launch")
	if err != nil || out != "" {
		t.Fatalf("launch: %v, stdout %q\n%s", err, out, stderr)
	}
	for _, want := range []string{"founded mesh", "10.32.0.0/12", "weft token", "weft launch TOKEN"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the founder does not say %q:\n%s", want, stderr)
		}
	}
	token := do(t, hs[0], "token")
	if strings.Contains(stderr, token[:20]) {
		t.Error("the founder printed its token unasked")
	}
	for _, h := range hs[1:] {
		join(t, h, token, hs[0].Addr().String())
	}
	waitPeers(t, hs...)

	wg := func(h *netlab.Host, what string) string {
		t.Helper()
		out, stderr, err := h.Run("wg", "show", "weftwg", what)
		if err != nil {
			t.Fatalf("%s: wg show weftwg %s: %v\n%s", h.Name(), what, err, stderr)
		}
		return strings.TrimSpace(out)
	}
	name := map[string]string{} // by public key
	for _, h := range hs {
		name[wg(h, "public-key")] = h.Name()
	}
	eventually(t, 20*time.Second, "each has a tunnel to each, with a key that is the pair's alone", func() error {
		pair := map[string]string{} // by preshared key, the pair that has it
		count := map[string]int{}   // by pair, the hosts that say so
		for _, h := range hs {
			for l := range strings.Lines(wg(h, "preshared-keys")) {
				f := strings.Fields(l)
				if len(f) != 2 || name[f[0]] == "" || len(f[1]) != 44 {
					return fmt.Errorf("%s: %q", h.Name(), l)
				}
				a, b := min(h.Name(), name[f[0]]), max(h.Name(), name[f[0]])
				if other := pair[f[1]]; other != "" && other != a+"-"+b {
					t.Fatalf("%s and %s-%s have the same preshared key", other, a, b)
				}
				pair[f[1]] = a + "-" + b
				count[a+"-"+b]++
			}
		}
		if len(pair) != 3 || len(count) != 3 {
			return fmt.Errorf("%d keys for %d pairs: %v", len(pair), len(count), count)
		}
		return nil
	})
}

// The MTU is that of the underlay less WireGuard's 80 bytes.
func TestMTUOfTheUnderlay(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	if _, stderr, err := hs[1].Run("ip", "link", "set", "eth0", "mtu", "1400"); err != nil {
		t.Fatal(stderr)
	}
	launchMesh(t, hs)
	waitPeers(t, hs...)
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	for i, want := range []string{"mtu=1420", "mtu=1320"} {
		eventually(t, 10*time.Second, hs[i].Name()+" has "+want, func() error {
			if out := do(t, hs[i], "status", "connections"); !strings.Contains(out, want) {
				return errText(out)
			}
			return nil
		})
	}
	linkMTU := regexp.MustCompile(` mtu (\d+) `)
	for what, run := range map[string]func() (string, string, error){
		"ethwe":  func() (string, string, error) { return b.Run("ip", "link", "show", "ethwe") },
		"weftwg": func() (string, string, error) { return hs[1].Run("ip", "link", "show", "weftwg") },
	} {
		out, stderr, err := run()
		if m := linkMTU.FindStringSubmatch(out); err != nil || m == nil || m[1] != "1320" {
			t.Errorf("%s does not have mtu 1320: %v\n%s%s", what, err, out, stderr)
		}
	}
	// What fits is sent whole.
	if out, _, err := b.Run("busybox", "ping", "-c", "1", "-W", "2", "-s", "1292", a.addr); err != nil {
		t.Errorf("1,320 bytes do not cross: %v\n%s", err, out)
	}
}

// taken binds a TCP port on a host as another program would.
func taken(t *testing.T, h *netlab.Host, addr string) (free func()) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() { l.Close() }
}

// processesOf lists the processes in a host's network namespace, by command line.
func processesOf(t *testing.T, h *netlab.Host) []string {
	t.Helper()
	var netns string
	if err := h.Do(func() (err error) { netns, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range dirs {
		if ns, err := os.Readlink(d + "/ns/net"); err != nil || ns != netns {
			continue
		}
		b, err := os.ReadFile(d + "/cmdline")
		if err == nil && len(b) > 0 {
			found = append(found, strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")))
		}
	}
	return found
}

// nothingRuns waits until neither a process nor a tunnel of weft is on the host.
func nothingRuns(t *testing.T, h *netlab.Host) {
	t.Helper()
	eventually(t, 5*time.Second, "nothing of weft is left on "+h.Name(), func() error {
		var errs []error
		for _, p := range processesOf(t, h) {
			if strings.HasPrefix(p, weft) {
				errs = append(errs, fmt.Errorf("process %s", p))
			}
		}
		if out, _, err := h.Run("ip", "link", "show", "weftwg"); err == nil {
			errs = append(errs, errText(out))
		}
		return errors.Join(errs...)
	})
}

// A launch that cannot have its port leaves the host as it was.
func TestPortTaken(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	do(t, hs[0], "launch")
	if ps := processesOf(t, hs[0]); !strings.Contains(strings.Join(ps, "\n"), weft) {
		t.Fatalf("a router that runs is not seen among %q", ps)
	}
	free := taken(t, hs[1], ":6783")
	refused(t, hs[1], []string{"launch"}, "6783")
	nothingRuns(t, hs[1])
	refused(t, hs[1], []string{"status"}, "not running")
	// It has founded no mesh, and belongs to none.
	free()
	if err := hs[1].WriteFile("/run/token", []byte(do(t, hs[0], "token")), 0o600); err != nil {
		t.Fatal(err)
	}
	free = taken(t, hs[1], ":6783")
	refused(t, hs[1], []string{"launch", "--token-file", "/run/token", hs[0].Addr().String()}, "6783")
	nothingRuns(t, hs[1])
	free()
	do(t, hs[1], "launch", do(t, hs[0], "token"))
	do(t, hs[1], "prime")
	waitPeers(t, hs...)
}

// The default range must be free on the host; one that was asked for is taken
// with a warning.
func TestRangeInUse(t *testing.T) {
	lab := newLab(t)
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	if _, stderr, err := h.Run("ip", "route", "add", "10.40.0.0/16", "dev", "eth0"); err != nil {
		t.Fatal(stderr)
	}
	refused(t, h, []string{"launch"}, "10.32.0.0/12", "10.40.0.0/16", "eth0", "--ipalloc-range")
	nothingRuns(t, h)
	do(t, h, "launch", "--ipalloc-range", "10.32.0.0/12")
	r, err := reportOf(h)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(r.Router.Notices, "\n")
	for _, want := range []string{"overlaps", "10.32.0.0/12", "10.40.0.0/16", "eth0"} {
		if !strings.Contains(said, want) {
			t.Errorf("no notice with %q: %q", want, r.Router.Notices)
		}
	}
	if out := do(t, h, "status"); !strings.Contains(out, "overlaps") {
		t.Errorf("weft status does not show it:\n%s", out)
	}
	do(t, h, "reset")
	do(t, h, "launch", "--ipalloc-range", "10.96.0.0/12") // as the hint said
	if r, err := reportOf(h); err != nil || len(r.Router.Notices) != 0 {
		t.Errorf("notices for a range that is free: %q (%v)", r.Router.Notices, err)
	}
}

// A firewall of the operator's that drops the mesh's packets is named, with the
// command that opens it, to who attaches and by weft status.
func TestFirewallInTheWay(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "nft")
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	if _, stderr, err := h.Run("nft", "add table inet mine; add chain inet mine transit { type filter hook forward priority 0; policy drop; }"); err != nil {
		t.Fatal(stderr)
	}
	do(t, h, "launch")
	w, err := h.Workload("a")
	if err != nil {
		t.Fatal(err)
	}
	attach := func() string {
		t.Helper()
		out, stderr, err := h.Run(weft, "attach", "netns:"+w.NetNSPath())
		if err != nil || !strings.HasPrefix(out, "10.") {
			t.Fatalf("attach: %v %q\n%s", err, out, stderr)
		}
		return stderr
	}
	const chain = "chain transit of table inet mine"
	hint := regexp.MustCompile(`try: (nft 'insert rule inet mine transit [^']* accept')`)
	for what, said := range map[string]string{"weft attach": attach(), "weft status": do(t, h, "status")} {
		m := hint.FindStringSubmatch(said)
		if m == nil || !strings.Contains(said, chain) {
			t.Fatalf("%s does not say what is in the way and how to open it:\n%s", what, said)
		}
		if what == "weft status" {
			if _, stderr, err := h.Run("sh", "-c", m[1]); err != nil {
				t.Fatalf("%s: %s", m[1], stderr)
			}
		}
	}
	if said := attach(); said != "" {
		t.Errorf("weft attach still says:\n%s", said)
	}
	if said := do(t, h, "status"); strings.Contains(said, chain) {
		t.Errorf("weft status still says:\n%s", said)
	}
}

// Whoever is not root is told so, and changes nothing.
func TestNotRoot(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "setpriv")
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	b, err := os.ReadFile(weft)
	if err != nil {
		t.Fatal(err)
	}
	// A place that others may read and run programs from.
	const public = "/run/public-weft"
	if err := h.WriteFile(public, b, 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := func(args ...string) []string {
		return append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", public}, args...)
	}
	if out, stderr, err := h.Run(nobody("version")...); err != nil || !strings.Contains(out, "weft") {
		t.Fatalf("nobody cannot run weft at all: %v\n%s", err, stderr)
	}
	for _, verb := range []string{"launch", "stop", "reset", "demo"} {
		refusedCommand(t, h, nobody(verb), "root", "sudo weft "+verb)
	}
	if ps := processesOf(t, h); strings.Contains(strings.Join(ps, " "), public) {
		t.Errorf("left running: %q", ps)
	}
	do(t, h, "launch")
	refusedCommand(t, h, nobody("status"), "permission")
	refusedCommand(t, h, nobody("stop"), "permission")
	do(t, h, "status") // it was not stopped
}
