package router

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/statedb"
)

// within runs a command in the network namespace of a process.
func (h *realHost) within(pid int, args ...string) {
	h.t.Helper()
	if out, err := exec.Command("nsenter", append([]string{"--net=" + pidNetNS(pid)}, args...)...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %v %s", args, err, out)
	}
}

// stored has it that containers are attached, whatever they really have.
func (h *realHost) stored(as ...*attachment) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.putAttachmentLocked(as...); err != nil {
		h.t.Fatal(err)
	}
}

// broken has the state file refuse every change, until the returned func is called.
func (h *realHost) broken() (mend func()) {
	h.t.Helper()
	good := h.db.DB
	bad, err := statedb.Open(filepath.Join(h.t.TempDir(), "state.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := bad.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.db.DB = bad
	return func() { h.db.DB = good }
}

// What runs in a container may put addresses on its interface, as one that configures itself by 169.254/16 does.
// They are not weft's: the next router neither takes them in, nor from whom they are.
func TestAddressesThatWereNeverGiven(t *testing.T) {
	for _, foreign := range []string{"8.8.8.8/32", "169.254.7.7/16", "169.1.2.3/8", "10.32.0.9/12", "10.32.0.10/12"} {
		for _, doubt := range []bool{false, true} {
			if doubt && checkAddress(pfx(foreign)) == nil {
				continue // it may have been given, and forgotten
			}
			t.Run(fmt.Sprintf("%s/%v", strings.ReplaceAll(foreign, "/", "_"), doubt), func(t *testing.T) {
				h := newRealHost(t)
				c1, c2 := dockerID("c1"), dockerID("c2")
				pid := h.process()
				h.engine.pids[c1], h.engine.pids[c2] = pid, 0
				if _, err := h.attach(t.Context(), attachRequest{Container: c1}); err != nil {
					t.Fatal(err)
				}
				h.stored(&attachment{Key: c2, Name: "c2", Addrs: []netip.Prefix{pfx("10.32.0.9/12")}})
				h.within(pid, "ip", "addr", "add", foreign, "dev", "ethwe")
				h.start(h.f.restart(h.Router, func() {
					if doubt {
						h.loseMark()
					}
				}))
				h.says("c1[10.32.0.1/12] c2[10.32.0.9/12]")
				if errs := h.wireAll(); len(errs) > 0 {
					t.Error(errs)
				}
				h.really("c1[10.32.0.1/12]")
			})
		}
	}
}

// A router was killed on its way back from an attach that failed: the address is another's by now.
func TestAnInterfaceThatWasLeft(t *testing.T) {
	h := newRealHost(t)
	c1, c2 := dockerID("c1"), dockerID("c2")
	h.stored(&attachment{Key: c2, Name: "c2", Addrs: []netip.Prefix{pfx("10.32.0.9/12")}})
	h.wired(c1, h.process(), "10.32.0.9/12")
	h.start(h.f.restart(h.Router, func() {}))
	h.says("c2[10.32.0.9/12]")
	h.really("")
}

// What was freed before an adoption came off is not given to another at once.
func TestAdoptionKeepsHolds(t *testing.T) {
	h := newRealHost(t)
	c1, c2 := dockerID("c1"), dockerID("c2")
	h.engine.pids[c1], h.engine.pids[c2] = h.process(), h.process()
	h.stored(&attachment{Key: c1, Name: "c1", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}})
	h.wired(c1, h.engine.pids[c1], "10.32.0.1/12")
	h.wired(c2, h.engine.pids[c2], "10.32.0.2/12")
	h.load(h.f.restart(h.Router, h.loseMark))
	mend := h.broken()
	h.begin()
	mend()
	h.alone()
	if h.unadopted == nil {
		t.Fatal("adopted")
	}
	if _, err := h.detach(t.Context(), c1, nil); err != nil {
		t.Fatal(err)
	}
	h.adopt()
	h.share()
	h.says("c2[10.32.0.2/12]")
	if al, _, err := h.tryAllocate("other", netip.Prefix{}); err != nil || al.Addr == pfx("10.32.0.1/12") {
		t.Errorf("other gets %v, %v at once", al, err)
	}
}

// Until what containers have is taken in, no mark says that the state is the latest: the next start would take from them what it lacks.
func TestNoMarkBeforeContainersAreAdopted(t *testing.T) {
	for _, loss := range []string{"mark", "state"} {
		t.Run(loss, func(t *testing.T) {
			h := newRealHost(t)
			c := dockerID("c1")
			h.engine.pids[c] = h.process()
			h.wired(c, h.engine.pids[c], "10.32.0.1/12")
			h.load(h.f.restart(h.Router, func() {
				if h.loseMark(); loss == "state" {
					if err := os.Remove(h.f.state); err != nil {
						t.Error(err)
					}
				}
			}))
			mend := h.broken()
			h.begin()
			mend()
			h.alone()
			if h.unadopted == nil {
				t.Fatal("adopted")
			}
			h.start(h.f.restart(h.Router, func() {}))
			h.says("c1[10.32.0.1/12]")
			h.alone()
			h.load(h.f.restart(h.Router, func() {}))
			if !h.db.isSettled() {
				t.Error("its mark does not vouch for it then")
			}
		})
	}
}
