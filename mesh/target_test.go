package mesh

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"weft/peer"
)

// Who is busy is asked again soon; who does not answer, ever later.
func TestBusyTargetIsTriedSoon(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		err   error
		least time.Duration
		most  time.Duration
	}{
		"busy":   {&Refusal{RefusedBusy, "busy with other exchanges of logs"}, redialEvery / 2, redialEvery},
		"silent": {errors.New("no answer"), backoffMax / 2, backoffMax},
	} {
		x := &target{state: stateConnecting}
		for range 10 {
			x.ended(peer.ID{}, c.err, now)
		}
		if wait := x.next.Sub(now); wait < c.least || wait > c.most || x.state != stateRetrying {
			t.Errorf("%s: %s, tried again after %v", name, x.state, wait)
		}
	}
}

// A name of all hosts leads to this one, too. That is no error and no reason to wait: the
// others are dialled as any target is.
func TestTargetOfAllHosts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		for _, order := range [][]netip.Addr{{a.addr, b.addr}, {b.addr, a.addr}} {
			dns := &namedNetwork{Network: a.host, name: "weft.example", at: order}
			a.found(func(o *Options) { o.Network, o.Targets = dns, []string{"weft.example"} })
			time.Sleep(30 * time.Second)
			if x := a.mesh.Targets()[0]; x.State == stateSelf || x.Err == "" {
				t.Errorf("nobody else is up: %+v", x)
			}
			a.quit()
		}
		dns := &namedNetwork{Network: a.host, name: "weft.example", at: []netip.Addr{a.addr}}
		a.found(func(o *Options) { o.Network, o.Targets = dns, []string{"weft.example"} })
		w.within(5*time.Second, "that it is this host", func() bool { return a.mesh.Targets()[0].State == stateSelf })
	})
}
