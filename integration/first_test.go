package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// As soon as a name resolves, its container is reached: also between two hosts
// that have never spoken, and heard of each other from a third.
func TestFirstPackets(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs)
	var ws []*workload
	for i, h := range hs {
		ws = append(ws, attachWorkload(t, h, string(rune('a'+i))))
	}
	for _, h := range hs {
		for _, w := range ws {
			resolves(t, h, 5*time.Second, w.Name()+".weft.local", w.addr)
		}
	}
	for _, from := range ws {
		for _, to := range ws {
			if from == to {
				continue
			}
			if out, _, err := from.Run("busybox", "ping", "-c", "1", "-W", "8", to.addr); err != nil {
				t.Errorf("%s pings %s: %v\n%s\n%s", from.Name(), to.Name(), err, out, tunnels(from.host, to.host))
			}
		}
	}
}

// tunnels shows what hosts know of theirs, for messages.
func tunnels(hs ...*netlab.Host) string {
	var b strings.Builder
	for _, h := range hs {
		conns, _, _ := h.Run(weft, "status", "connections")
		wg, _, _ := h.Run("wg", "show", "weftwg")
		fmt.Fprintf(&b, "---- %s at %s\n%s", h.Name(), time.Now().UTC().Format("15:04:05.000"), conns)
		for l := range strings.Lines(wg) {
			if !strings.Contains(l, " key:") {
				b.WriteString(l)
			}
		}
	}
	return b.String()
}
