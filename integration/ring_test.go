package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// joins gives a host the mesh's token and launches it, without waiting for
// addresses.
func joins(t *testing.T, h *netlab.Host, token string, args ...string) {
	t.Helper()
	if err := h.WriteFile("/run/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, h, append([]string{"launch", "--token-file", "/run/token"}, args...)...)
}

// says waits until the output of a verb has each of the texts.
func says(t *testing.T, h *netlab.Host, within time.Duration, verb []string, texts ...string) string {
	t.Helper()
	var out string
	eventually(t, within, fmt.Sprintf("%s: weft %s says %q", h.Name(), strings.Join(verb, " "), texts), func() error {
		o, stderr, err := h.Run(append([]string{weft}, verb...)...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		out = o
		for _, text := range texts {
			if !strings.Contains(out, text) {
				return fmt.Errorf("%q is missing in:\n%s", text, out)
			}
		}
		return nil
	})
	return out
}

// TestConsensus: the ring begins when the hosts agree, until then attach waits
// and says what for.
func TestConsensus(t *testing.T) {
	netlab.Require(t, "busybox")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3", "host4")
	do(t, hs[0], "launch", "--ipalloc-init", "consensus=3")
	says(t, hs[0], 10*time.Second, []string{"status"}, "awaiting consensus (quorum: 2, known: 1)")
	w, err := hs[0].Workload("early")
	if err != nil {
		t.Fatal(err)
	}
	early, err := hs[0].Start("early", weft, "attach", "netns:"+w.NetNSPath())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "attach says what it waits for", func() error {
		if log := early.Log(); !strings.Contains(log, "weft: waiting for address space: awaiting consensus (quorum: 2, known: 1)") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
	// A majority is there, and somebody waits: the ring begins without the third.
	token := do(t, hs[0], "token")
	joins(t, hs[1], token, hs[0].Addr().String())
	do(t, hs[1], "prime")
	ended(t, "attach", early)
	if log := early.Log(); !strings.Contains(log, "\n10.") {
		t.Errorf("attach ended with %q", log)
	}
	says(t, hs[0], 20*time.Second, []string{"status", "ipam"}, "IPs (50.0% of total) (1 active)")
	// Later ones ask for a part; a majority is not needed for that.
	joins(t, hs[2], token, hs[0].Addr().String(), "--ipalloc-init", "consensus=5")
	do(t, hs[2], "prime")
	says(t, hs[2], 20*time.Second, []string{"status"}, "another --ipalloc-init than the founder of the mesh, consensus=3", "Status: ready")
	// An observer has no part before a container needs one.
	joins(t, hs[3], token, hs[1].Addr().String(), "--ipalloc-init", "observer")
	waitPeers(t, hs...)
	if out := do(t, hs[3], "status", "ipam"); strings.Contains(out, "host4") {
		t.Errorf("an observer has a part of the ring:\n%s", out)
	}
	d := attachWorkload(t, hs[3], "d")
	if !strings.HasPrefix(d.addr, "10.") {
		t.Errorf("an observer's container has %q", d.addr)
	}
}

// TestConsensusOfThree: the three first hosts share the range 6/5/5, and so do
// those that are named.
func TestConsensusOfThree(t *testing.T) {
	for _, how := range []string{"consensus=3", "seed=host1,host2,host3"} {
		t.Run(how, func(t *testing.T) {
			lab := newLab(t)
			hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
			do(t, hs[0], "launch", "--ipalloc-init", how)
			if how != "consensus=3" {
				await := func() {
					says(t, hs[0], 10*time.Second, []string{"status"}, "awaiting the hosts that are to seed the range: host2, host3")
				}
				await()
				if err := hs[0].Kill(); err != nil {
					t.Fatal(err)
				}
				do(t, hs[0], "launch", "--resume") // without the flag, as a unit does it
				await()
			}
			token := do(t, hs[0], "token")
			for _, h := range hs[1:] {
				joins(t, h, token, hs[0].Addr().String())
			}
			for _, h := range hs {
				do(t, h, "prime")
				out := says(t, h, 20*time.Second, []string{"status", "ipam"}, "393216 IPs (37.5% of total)")
				if strings.Count(out, "327680 IPs (31.2% of total)") != 2 {
					t.Errorf("the range is not shared 6/5/5:\n%s", out)
				}
			}
			refused(t, hs[0], []string{"launch", "--ipalloc-init", "observer"}, "already running")
		})
	}
	t.Run("the founder dies", func(t *testing.T) {
		lab := newLab(t)
		hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
		do(t, hs[0], "launch", "--ipalloc-init", "consensus=3")
		token := do(t, hs[0], "token")
		joins(t, hs[1], token, hs[0].Addr().String())
		says(t, hs[1], 20*time.Second, []string{"status"}, "awaiting consensus (quorum: 2, known: 2)")
		if err := hs[0].Kill(); err != nil {
			t.Fatal(err)
		}
		joins(t, hs[2], token, hs[1].Addr().String())
		says(t, hs[1], 40*time.Second, []string{"status"}, "host1) began it, and is out of reach - 'rmpeer --force' if it is dead")
		out := do(t, hs[1], "rmpeer", "--force", "host1")
		if !strings.HasPrefix(out, "0 IPs taken over from ") {
			t.Errorf("rmpeer says %q", out)
		}
		for _, h := range hs[1:] {
			do(t, h, "prime")
			says(t, h, 20*time.Second, []string{"status", "ipam"}, "IPs (50.0% of total)")
		}
	})
	t.Run("observer", func(t *testing.T) {
		lab := newLab(t)
		h := newHosts(t, lab, netlab.HostOptions{}, "host1")[0]
		refused(t, h, []string{"launch", "--ipalloc-init", "observer"}, "an observer cannot found a mesh")
	})
}

// TestTakeover: the space of a dead host is taken over by a majority, once, and
// the host finds out when it comes back.
func TestTakeover(t *testing.T) {
	netlab.Require(t, "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	c := attachWorkload(t, hs[2], "c")
	// All three may decide: the founder alone could not without the others.
	says(t, hs[0], 30*time.Second, []string{"report", "-f", "{{range .IPAM.Electors}}{{.}} {{end}}"}, "host1", "host2", "host3")
	refused(t, hs[0], []string{"rmpeer", "host3"}, "host3", "is alive")
	refused(t, hs[0], []string{"rmpeer", "nobody"}, `no host "nobody" is known`)
	refused(t, hs[0], []string{"rmpeer", "host1"}, "this is the host itself")
	if err := hs[2].Kill(); err != nil {
		t.Fatal(err)
	}
	for _, h := range hs[:2] {
		says(t, h, 30*time.Second, []string{"status", "ipam"}, "host3)", "- unreachable!")
	}
	refused(t, hs[0], []string{"rmpeer", "host3"}, "is taken for dead after 1m0s")
	// Two operators at once, as soon as it is possible.
	type outcome struct {
		out string
		err error
	}
	results := make(chan outcome, 2)
	for _, h := range hs[:2] {
		go func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				out, stderr, err := h.Run(weft, "rmpeer", "host3")
				if err == nil || !strings.Contains(stderr, "is taken for dead after") || t.Context().Err() != nil {
					results <- outcome{out + stderr, err}
					return
				}
				<-tick.C
			}
		}()
	}
	won := 0
	for range 2 {
		r := <-results
		switch {
		case r.err == nil && strings.Contains(r.out, " IPs taken over from "):
			won++
			if !strings.HasPrefix(r.out, "262144 IPs") {
				t.Errorf("not a quarter was taken over: %s", r.out)
			}
		case !strings.Contains(r.out, "took over from"):
			t.Errorf("the second operator was told: %v %s", r.err, r.out)
		}
	}
	if won != 1 {
		t.Errorf("%d operators took the space over", won)
	}
	for _, h := range hs[:2] {
		eventually(t, 20*time.Second, "host3 owns nothing", func() error {
			if out := do(t, h, "status", "ipam"); strings.Contains(out, "host3") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	// It comes back: its container's address is another's now.
	do(t, hs[2], "launch")
	says(t, hs[2], 30*time.Second, []string{"status"}, "its address "+c.addr+" is ", "took over while this host was away; detach and attach it again")
	for _, h := range hs {
		resolves(t, h, 20*time.Second, "c.weft.local")
	}
	do(t, hs[2], "detach", c.container)
	again := do(t, hs[2], "attach", c.container) // of a new part that others gave it
	a := attachWorkload(t, hs[0], "a")
	a.pings(t, again, 2)
	says(t, hs[2], 20*time.Second, []string{"status", "ipam"}, "host3)")
}

// TestTakeoverByForce: two hosts are no majority without each other; --force is, at
// the operator's risk.
func TestTakeoverByForce(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	launchMesh(t, hs)
	waitPeers(t, hs...)
	says(t, hs[0], 30*time.Second, []string{"report", "-f", "{{range .IPAM.Electors}}{{.}} {{end}}"}, "host1", "host2")
	if err := hs[0].Kill(); err != nil { // the founder
		t.Fatal(err)
	}
	says(t, hs[1], 30*time.Second, []string{"status", "ipam"}, "host1)", "- unreachable!")
	refused(t, hs[1], []string{"rmpeer", "host1"}, "host1) was seen ", "is taken for dead after 1m0s")
	// A router that was launched since has not seen it, and knows of no minute without it.
	killRouter(t, hs[1])
	do(t, hs[1], "launch")
	const tooSoon = "host1) is not known to have been out of reach for 1m0s: the router of this host has run for "
	refused(t, hs[1], []string{"rmpeer", "host1"}, tooSoon)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	eventually(t, 120*time.Second, "the minute is over", func() error {
		<-tick.C
		if _, stderr, err := hs[1].Run(weft, "rmpeer", "host1"); err == nil || strings.Contains(stderr, tooSoon) {
			return fmt.Errorf("%v: %s", err, stderr)
		}
		return nil
	})
	refused(t, hs[1], []string{"rmpeer", "host1"}, "no majority of those that own addresses has confirmed that ", ": 2 of 2 are needed, and 1 are in reach (not: ", "host1)")
	out, stderr, err := hs[1].Run(weft, "rmpeer", "--force", "host1")
	if err != nil || !strings.Contains(out, "524288 IPs taken over from ") || !strings.Contains(stderr, "its addresses are given to others as well") {
		t.Fatalf("rmpeer --force: %v\n%s%s", err, out, stderr)
	}
	says(t, hs[1], 10*time.Second, []string{"status"}, "by force, without a majority")
	says(t, hs[1], 10*time.Second, []string{"status", "ipam"}, "1048576 IPs (100.0% of total)")
	do(t, hs[0], "launch")
	do(t, hs[0], "prime")
	says(t, hs[0], 20*time.Second, []string{"status", "ipam"}, "host1)", "host2)")
}

// TestFullRange: in a range that is used up attach waits and says so. Whatever is freed,
// on any host, can be had on any other: also where a host has no more than one address.
func TestFullRange(t *testing.T) {
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2", "host3", "host4")
	do(t, hs[0], "launch", "--ipalloc-range", "10.40.0.0/29")
	for _, h := range hs[1:] {
		join(t, h, do(t, hs[0], "token"), hs[0].Addr().String())
	}
	var all []*workload
	seen := map[string]bool{}
	for i := range 6 {
		w := attachWorkload(t, hs[i%len(hs)], fmt.Sprint("w", i))
		if seen[w.addr] {
			t.Errorf("%s is given twice", w.addr)
		}
		seen[w.addr] = true
		all = append(all, w)
	}
	var late []*netlab.Proc
	for i := range all {
		name := fmt.Sprint("late", i)
		w, err := hs[0].Workload(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := hs[0].Start(name, weft, "attach", "netns:"+w.NetNSPath())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "attach says what it waits for", func() error {
			if log := p.Log(); !strings.Contains(log, "waiting for IP(s) to become available") {
				return fmt.Errorf("it says %q", log)
			}
			return nil
		})
		late = append(late, p)
	}
	for i, w := range all {
		do(t, hs[i%len(hs)], "detach", w.container)
	}
	for i, p := range late {
		eventually(t, 90*time.Second, fmt.Sprint("attach ", i, " ends"), func() error {
			select {
			case <-p.Done():
				return nil
			default:
				return fmt.Errorf("%q", p.Log())
			}
		})
		lines := strings.Fields(p.Log())
		if addr := lines[len(lines)-1]; p.Wait() != nil || !seen[addr] {
			t.Errorf("who waited has %q, or it was given twice", p.Log())
		} else {
			delete(seen, addr)
		}
	}
}
