package integration

import (
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
			began := time.Now()
			if out, _, err := from.Run("busybox", "ping", "-c", "1", "-W", "2", to.addr); err != nil {
				conns := do(t, from.host, "status", "connections")
				wg, _, _ := from.host.Run("wg", "show", "weftwg")
				t.Errorf("%s pings %s: nothing within %v\n%s%s\n%s", from.Name(), to.Name(), time.Since(began), out, conns, hidden(wg))
			}
		}
	}
}

// hidden leaves out lines that hold keys.
func hidden(wg string) string {
	var b strings.Builder
	for l := range strings.Lines(wg) {
		if !strings.Contains(l, "key:") {
			b.WriteString(l)
		}
	}
	return b.String()
}
