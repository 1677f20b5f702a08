package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

const password = "four random words together"

func TestJoinByPassword(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	for i, h := range hs {
		if err := h.WriteFile("/run/password", []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"launch", "--password-file", "/run/password"}
		if i > 0 {
			args = append(args, "host1") // by name, from /etc/hosts
		}
		do(t, h, args...)
	}
	do(t, hs[1], "prime")
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	resolves(t, hs[1], 5*time.Second, "a.weft.local", a.addr)
	b.pings(t, "a.weft.local", 2)
	a.pings(t, b.addr, 2)
}

func TestWrongSecret(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	do(t, hs[0], "launch")
	if err := hs[1].WriteFile("/run/password", []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, hs[1], []string{"launch", "--password-file", "/run/password", hs[0].Addr().String()}, "wrong secret")
	// The launch failed whole: nothing runs, and another secret can be tried.
	refused(t, hs[1], []string{"status"}, "not running")
	eventually(t, 5*time.Second, "the other side says it too", func() error {
		b, err := hs[0].ReadFile("/run/weft/router.log")
		if err == nil && !strings.Contains(string(b), "wrong secret") {
			err = fmt.Errorf("no word of it in %s", b)
		}
		return err
	})
	join(t, hs[1], do(t, hs[0], "token"), hs[0].Addr().String())
	waitPeers(t, hs...)
}

func TestJoiningNeedsASecret(t *testing.T) {
	lab := newLab(t)
	h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
	refused(t, h, []string{"launch", "host2"}, "needs its secret")
	if err := h.WriteFile("/run/password", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, h, []string{"launch", "--password-file", "/run/password"}, "password")
	if err := h.WriteFile("/run/token", []byte("weft1-nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, h, []string{"launch", "--token-file", "/run/token"}, "token")
}

// A launch with peers never founds a mesh: it waits, and says for whom.
func TestTargetsThatComeUpLater(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	for _, h := range hs {
		if err := h.WriteFile("/run/password", []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	launch := func(h *netlab.Host, peers ...string) string {
		_, stderr, err := h.Run(append([]string{weft, "launch", "--password-file", "/run/password"}, peers...)...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", h.Name(), err, stderr)
		}
		return stderr
	}
	out := launch(hs[2], "host1", "host2")
	for _, want := range []string{"host1:6783", "host2:6783", "waiting"} {
		if !strings.Contains(out, want) {
			t.Errorf("launch does not say that it waits for %s:\n%s", want, out)
		}
	}
	if status := do(t, hs[2], "status", "targets"); !strings.Contains(status, "host1:6783") || !strings.Contains(status, "host2:6783") {
		t.Errorf("weft status targets of a host that waits:\n%s", status)
	}
	if status := do(t, hs[2], "status", "connections"); !strings.Contains(status, "-> host1:6783") || !strings.Contains(status, "nothing listens there") {
		t.Errorf("weft status connections of a host that waits:\n%s", status)
	}
	launch(hs[1], "host1", "host3")
	if r, err := reportOf(hs[1]); err != nil || len(r.IPAM.Owners) != 0 {
		t.Errorf("a launch with peers founded a mesh: %+v %v", r.IPAM, err)
	}
	launch(hs[0])
	waitPeers(t, hs...)
	ids := map[string]bool{}
	for _, h := range hs {
		do(t, h, "prime")
		r, err := reportOf(h)
		if err != nil {
			t.Fatal(err)
		}
		ids[r.Router.Mesh] = true
	}
	if len(ids) != 1 {
		t.Errorf("the hosts are in meshes %v", ids)
	}
	a, c := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[2], "c")
	a.pings(t, c.addr, 2)
}

func TestUnreachableTarget(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	do(t, hs[0], "launch")
	if err := hs[1].WriteFile("/run/token", []byte(do(t, hs[0], "token")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lab.Cut(hs[0], hs[1]); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := hs[1].Run(weft, "launch", "--token-file", "/run/token", hs[0].Addr().String())
	if err != nil || !strings.Contains(stderr, "waiting for "+hs[0].Addr().String()) {
		t.Errorf("launch: %v\n%s", err, stderr)
	}
	if err := lab.Heal(hs[0], hs[1]); err != nil {
		t.Fatal(err)
	}
	waitPeers(t, hs...)
	do(t, hs[1], "connect", "192.168.48.99")
	eventually(t, 20*time.Second, "status says that a target is out of reach", func() error {
		if out := do(t, hs[1], "status", "connections"); !strings.Contains(out, "-> 192.168.48.99:6783") || !strings.Contains(out, "no route") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	do(t, hs[1], "forget", "192.168.48.99")
	if out := do(t, hs[1], "status", "targets"); strings.Contains(out, "192.168.48.99") {
		t.Errorf("a forgotten target is still there:\n%s", out)
	}
}

// Two meshes founded apart refuse each other, naming both and the way out.
func TestTwoMeshes(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	for _, h := range hs {
		if err := h.WriteFile("/run/password", []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		do(t, h, "launch", "--password-file", "/run/password")
	}
	do(t, hs[1], "connect", "host1")
	for i, h := range hs {
		eventually(t, 10*time.Second, h.Name()+" says why it refuses the other mesh", func() error {
			r, err := reportOf(h)
			if err != nil {
				return err
			}
			said := strings.Join(r.Router.Notices, "\n")
			for _, want := range []string{"(host1)", "(host2)", "weft reset"} {
				if !strings.Contains(said, want) {
					return fmt.Errorf("%q is missing in notices %q", want, said)
				}
			}
			return nil
		})
		if i == 1 {
			if out := do(t, h, "status"); !strings.Contains(out, "weft reset") {
				t.Errorf("weft status does not show it:\n%s", out)
			}
		}
	}
	// The way out that it named.
	do(t, hs[1], "reset")
	do(t, hs[1], "launch", "--password-file", "/run/password", "host1")
	waitPeers(t, hs...)

	// A host of one mesh is not moved to another by a secret on its command line.
	do(t, hs[1], "stop")
	other := newHosts(t, lab, netlab.HostOptions{}, "host3")[0]
	do(t, other, "launch")
	if err := hs[1].WriteFile("/run/token", []byte(do(t, other, "token")), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, hs[1], []string{"launch", "--token-file", "/run/token", "host3"}, "belongs to mesh", "weft reset")
}

// A copied machine has the identity of the original: the copy is refused, and
// told what to do; the original is left alone.
func TestClonedIdentity(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "copy")
	launchMesh(t, hs[:2])
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	a.pings(t, b.addr, 1)
	for _, f := range []string{"identity", "token", "state.db"} {
		data, err := hs[1].ReadFile("/var/lib/weft/" + f)
		if err != nil {
			t.Fatal(err)
		}
		if err := hs[2].WriteFile("/var/lib/weft/"+f, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, hs[2], []string{"launch", hs[0].Addr().String()}, "identity", "weft reset --force")
	eventually(t, 10*time.Second, "the contact says it too", func() error {
		r, err := reportOf(hs[0])
		if err == nil && !strings.Contains(strings.Join(r.Router.Notices, "\n"), "identity") {
			err = fmt.Errorf("notices %q", r.Router.Notices)
		}
		return err
	})
	a.pings(t, b.addr, 3)
	resolves(t, hs[0], 10*time.Second, "b.weft.local", b.addr)
	// The original is not told that it were the copy, and goes on.
	if r, err := reportOf(hs[1]); err != nil || len(r.Router.Notices) > 0 {
		t.Errorf("notices of the original: %q (%v)", r.Router.Notices, err)
	}
	late := attachWorkload(t, hs[1], "late")
	resolves(t, hs[0], 10*time.Second, "late.weft.local", late.addr)
	late.pings(t, a.addr, 3)
	// The cure.
	do(t, hs[2], "reset", "--force")
	join(t, hs[2], do(t, hs[0], "token"), hs[0].Addr().String())
	waitPeers(t, hs...)
	a.pings(t, b.addr, 3)
}
