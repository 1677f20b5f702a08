package integration

import (
	"bytes"
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
			if c.late {
				says(t, h, 10*time.Second, []string{"status"}, "waiting for the container engine, which alone knows the addresses of 1 running container")
				late, err := h.Workload("late")
				if err != nil {
					t.Fatal(err)
				}
				waits, err := h.Start("late", weft, "attach", "netns:"+late.NetNSPath())
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, 10*time.Second, "attach says what it waits for", func() error {
					if log := waits.Log(); !strings.Contains(log, "waiting for the container engine") {
						return errText(log)
					}
					return nil
				})
				if err := h.SignalDocker(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				eventually(t, 20*time.Second, "attach goes on", func() error {
					if log := waits.Log(); !strings.Contains(log, "10.3") || strings.Contains(log, web.addr) {
						return errText(log)
					}
					return nil
				})
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
