package integration

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestAdoptsContainers: the state file of a host is gone, or has a flipped bit, and a container of its engine runs on. What
// it really has is its own.
func TestAdoptsContainers(t *testing.T) {
	netlab.Require(t, "root", "docker", "busybox")
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
	token := do(t, h, "token")
	before := do(t, h, "ps", "web")

	for _, c := range []struct {
		name string
		harm func(state []byte) []byte // nil: the file is removed
		says []string
		late bool // the engine answers when the router has started
	}{
		{"a lost file", nil, nil, false},
		{"a late engine", nil, nil, true},
		{"a flipped bit", func(b []byte) []byte {
			// Of a value, in all copies of it: some are in pages that are free.
			out := bytes.ReplaceAll(b, []byte("web.weft.local"), []byte("veb.weft.local"))
			if bytes.Equal(out, b) {
				t.Fatal("the state file does not tell of the name")
			}
			return out
		}, []string{"the state file was damaged", "set aside"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			const adopted = "adopted what a running container has"
			times := strings.Count(routerLog(t, h), adopted)
			killRouter(t, h)
			if c.harm == nil {
				if out, stderr, err := h.Run("rm", stateFile); err != nil {
					t.Fatalf("%v\n%s%s", err, out, stderr)
				}
			} else {
				b, err := h.ReadFile(stateFile)
				if err != nil {
					t.Fatal(err)
				}
				if err := h.WriteFile(stateFile, c.harm(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.late {
				if err := h.SignalDocker(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			join(t, h, token, hs[1].Addr().String())
			if c.late { // the kernel knows what web has, and that nobody else may get it
				if late := attachWorkload(t, h, "late"); late.addr == web.addr {
					t.Errorf("another gets %s", late.addr)
				}
				if err := h.SignalDocker(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			do(t, h, "prime")
			waitPeers(t, hs...)
			eventually(t, 20*time.Second, "the container has what it had", func() error {
				if after := do(t, h, "ps", "web"); after != before {
					return errText("weft ps said\n" + before + "and says\n" + after)
				}
				return nil
			})
			if log := routerLog(t, h); strings.Count(log, adopted) == times {
				t.Errorf("the router does not say that it has adopted it:\n%s", tail(log, 3000))
			}
			if len(c.says) > 0 {
				says(t, h, 10*time.Second, []string{"status"}, c.says...)
			}
			other.pings(t, web.addr, 2)
			// Nobody else gets the address, there or here.
			for _, x := range hs {
				w, err := x.Workload("rival" + strings.ReplaceAll(c.name, " ", ""))
				if err != nil {
					t.Fatal(err)
				}
				refused(t, x, []string{"attach", "ip:" + web.addr + "/12", "netns:" + w.NetNSPath()}, web.addr)
			}
		})
	}
}

// TestOldStateWhileTheEngineIsAway: since a copy of the state file was made, an address has changed hands and a container has
// got one more. The copy is put back, and the engine answers only when the router has started: containers keep what they
// really have, and no address becomes two containers'.
func TestOldStateWhileTheEngineIsAway(t *testing.T) {
	netlab.Require(t, "root", "docker", "busybox")
	lab := newLab(t)
	hs := []*netlab.Host{newHosts(t, lab, netlab.HostOptions{Docker: true}, "host1")[0], newHosts(t, lab, netlab.HostOptions{}, "host2")[0]}
	h := hs[0]
	if err := h.ImportImage("busybox"); err != nil {
		t.Fatal(err)
	}
	launchMesh(t, hs)
	waitPeers(t, hs...)
	c1, c3 := runContainer(t, h, "c1"), runContainer(t, h, "c3")
	if out, err := h.Docker("run", "-d", "--stop-timeout", "1", "--name", "c2", "busybox", "sleep", "1000"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	old, err := h.ReadFile(stateFile)
	if err != nil {
		t.Fatal(err)
	}
	do(t, h, "detach", "c1")
	do(t, h, "attach", "ip:"+c1.addr+"/12", "c2")
	second := do(t, h, "attach", "net:10.33.0.0/16", "c3")
	has := func(container string, want ...string) {
		t.Helper()
		out, err := h.Docker("exec", container, "ip", "-4", "-o", "addr", "show", "dev", "ethwe")
		if err != nil && len(want) > 0 {
			t.Fatalf("%v %s", err, out)
		}
		var got []string
		for f := range strings.FieldsSeq(out) {
			if p, err := netip.ParsePrefix(f); err == nil {
				got = append(got, p.Addr().String())
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", container, got, want)
		}
	}
	ps := do(t, h, "ps")
	killRouter(t, h)
	if err := h.WriteFile(stateFile, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.SignalDocker(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	do(t, h, "launch", "--resume")
	do(t, h, "prime")
	rival, err := h.Workload("rival")
	if err != nil {
		t.Fatal(err)
	}
	if got := do(t, h, "attach", "net:10.33.0.0/16", "netns:"+rival.NetNSPath()); got == second {
		t.Errorf("another gets %s, which c3 has", got)
	}
	do(t, h, "detach", "net:10.33.0.0/16", "netns:"+rival.NetNSPath())
	if err := h.SignalDocker(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "weft ps says what it said", func() error {
		if now := do(t, h, "ps"); now != ps {
			return errText("it said\n" + ps + "and says\n" + now)
		}
		return nil
	})
	if got := do(t, h, "attach", "c1"); got == c1.addr {
		t.Errorf("c1 gets %s, which c2 has", got)
	}
	has("c2", c1.addr)
	has("c3", c3.addr, second)
	other := attachWorkload(t, hs[1], "other")
	other.pings(t, c1.addr, 2)
	if out, stderr, err := h.Run(weft, "dns-lookup", "c2"); err != nil || strings.TrimSpace(out) != c1.addr {
		t.Errorf("c2 is found at %q, %q, %v", out, stderr, err)
	}
}
