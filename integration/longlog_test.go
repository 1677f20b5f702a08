package integration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestLongLogBecomesShorter: one host has given another space two hundred times, and the other's log, which has the proofs as well,
// becomes too long. The two decide a base, and it has its log become shorter while it runs; who owns what stays the same, for a
// router that starts again and for a host that joins, too.
func TestLongLogBecomesShorter(t *testing.T) {
	netlab.Require(t, "busybox")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs[:2])
	waitPeers(t, hs[:2]...)
	says(t, hs[0], 30*time.Second, []string{"report", "-f", "{{range .IPAM.Electors}}{{.}} {{end}}"}, "host1", "host2")
	call := apiOf(hs[1])
	const gifts = 200 // which leave an entry in one log and some 1.7 in the other: more than 256 are too many
	for i := range gifts {
		if err := call("POST", fmt.Sprintf("/ip/x%d/10.%d.%d.0/24", i, 32+i/256, i%256), nil); err != nil { // of host1's half
			t.Fatal(err)
		}
	}
	owners := func(h *netlab.Host) string {
		t.Helper()
		has := strings.Fields(do(t, h, "report", "-f", "{{range .IPAM.Owners}}{{.Nickname}}:{{.IPs}} {{end}}"))
		slices.Sort(has) // each host names itself first
		return strings.Join(has, " ")
	}
	before := owners(hs[0])
	entries := func(h *netlab.Host) error {
		t.Helper()
		n, err := strconv.Atoi(do(t, h, "report", "-f", "{{.Router.Log.Entries}}"))
		if err != nil {
			t.Fatal(err)
		}
		if n >= 2*gifts {
			return fmt.Errorf("%s holds %d entries", h.Name(), n)
		}
		return nil
	}
	same := func(h *netlab.Host) {
		t.Helper()
		if got := owners(h); got != before {
			t.Errorf("%s says that the owners are %s, before they were %s", h.Name(), got, before)
		}
	}
	for _, h := range hs[:2] {
		eventually(t, 60*time.Second, "a log is shorter", func() error { return entries(h) })
		same(h)
	}
	killRouter(t, hs[1])
	do(t, hs[1], "launch")
	do(t, hs[1], "prime")
	joins(t, hs[2], do(t, hs[0], "token"), "--ipalloc-init", "observer", hs[0].Addr().String()) // it takes nothing yet
	waitPeers(t, hs...)
	for _, h := range hs[1:] {
		eventually(t, 20*time.Second, "it has the shorter log", func() error { return entries(h) })
		same(h)
	}

	// In one of the subnets: what host2 holds there, and what each gives out now.
	held, stderr, err := hs[1].Run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6784/ip/x7")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	held, _, _ = strings.Cut(held, "/")
	given := map[string]bool{held: true}
	var all []*workload
	for _, h := range hs {
		w, err := h.Workload("w")
		if err != nil {
			t.Fatal(err)
		}
		x := &workload{Workload: w, host: h, container: "netns:" + w.NetNSPath()}
		x.addr = do(t, h, "attach", "net:10.32.7.0/24", x.container)
		if given[x.addr] || !strings.HasPrefix(x.addr, "10.32.7.") || !strings.HasPrefix(held, "10.32.7.") {
			t.Errorf("%s gives out %s; held and given before: %v", h.Name(), x.addr, given)
		}
		given[x.addr] = true
		all = append(all, x)
	}
	for _, to := range all[1:] {
		crosses(t, all[0], to, 20*time.Second)
	}
}
