package integration

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/netlab"
)

// upstream is a name server on a host that knows one answer. It keeps silent
// about names that begin with "silent".
type upstream struct {
	conn net.PacketConn

	mu    sync.Mutex // guards asked
	asked []string
}

const upstreamAnswer = "192.0.2.53"

// startUpstream serves port 53 of a host's address until the test ends.
func startUpstream(t *testing.T, h *netlab.Host) *upstream {
	t.Helper()
	u := &upstream{}
	err := h.Do(func() (err error) { u.conn, err = net.ListenPacket("udp4", h.Addr().String()+":53"); return err })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(u.serve)
	t.Cleanup(func() { u.conn.Close(); wg.Wait() })
	return u
}

func (u *upstream) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := u.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		reply, name := answer(buf[:n])
		u.mu.Lock()
		u.asked = append(u.asked, name)
		u.mu.Unlock()
		if reply != nil && !strings.HasPrefix(name, "silent") {
			_, _ = u.conn.WriteTo(reply, from) // who asked will ask again
		}
	}
}

// answer makes the reply to a question for an address (RFC 1035, section 4.1):
// a header of 12 bytes, the question, and one A record that points to its name.
func answer(q []byte) (reply []byte, name string) {
	if len(q) < 17 {
		return nil, ""
	}
	end := 12
	var labels []string
	for end < len(q) && q[end] != 0 {
		next := end + 1 + int(q[end])
		if next > len(q) {
			return nil, ""
		}
		labels = append(labels, string(q[end+1:next]))
		end = next
	}
	if end += 5; end > len(q) {
		return nil, ""
	}
	reply = append(reply, q[:end]...)
	copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}) // a recursive answer, one question, one answer
	reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	return binary.BigEndian.AppendUint32(reply, 0xc0000235), strings.ToLower(strings.Join(labels, "."))
}

func (u *upstream) wasAsked(part string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Contains(strings.Join(u.asked, "\n"), part)
}

// What launch is told about names holds: servers of single domains, protection from rebinding, and the order of a name's addresses.
func TestNameServerFlags(t *testing.T) {
	netlab.Require(t, "root", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	startUpstream(t, hs[1])
	upstream := hs[1].Addr().String()
	do(t, hs[0], "launch", "--dns-order", "shuffle", "--dns-upstream", upstream)
	joins(t, hs[1], do(t, hs[0], "token"), "--dns-upstream", upstream, "--dns-forward", "corp.example="+upstream, "--dns-rebind-protect", hs[0].Addr().String())
	waitPeers(t, hs...)
	ask := func(h *netlab.Host, args ...string) string {
		t.Helper()
		out, stderr, err := h.Run(append([]string{"dig", "+time=5", "+tries=1", "@169.254.53.1"}, args...)...)
		if err != nil {
			t.Fatalf("dig %v: %v\n%s%s", args, err, out, stderr)
		}
		return out
	}
	// All that this upstream server tells is not global.
	for _, c := range []struct {
		host   *netlab.Host
		name   string
		answer bool
	}{{hs[0], "www.example.net", true}, {hs[1], "www.example.net", false}, {hs[1], "www.corp.example", true}} {
		out := ask(c.host, c.name)
		if c.answer != strings.Contains(out, upstreamAnswer) || !c.answer && !strings.Contains(out, "status: REFUSED") {
			t.Errorf("%s asks for %s:\n%s", c.host.Name(), c.name, out)
		}
	}
	addrs := []string{"192.0.2.1", "192.0.2.2"}
	for i, h := range hs {
		do(t, h, "dns-add", addrs[i], "-h", "both.weft.local")
	}
	for i, h := range hs {
		resolves(t, h, 10*time.Second, "both.weft.local", addrs...)
		own := 0
		for range 40 {
			if strings.HasPrefix(ask(h, "+short", "both.weft.local"), addrs[i]) {
				own++
			}
		}
		if shuffle := i == 0; shuffle == (own == 40) { // by chance once in 10^12
			t.Errorf("%s answers with its own address first %d times of 40", h.Name(), own)
		}
	}
}

// Names outside the domain are asked of the upstream server, those inside never.
func TestForwarding(t *testing.T) {
	lab := newLab(t)
	netlab.Require(t, "busybox", "dig")
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "outside")
	u := startUpstream(t, hs[1])
	const limit = 2 * time.Second
	do(t, hs[0], "launch", "--dns-upstream", hs[1].Addr().String(), "--dns-fallback-timeout", limit.String())
	a := attachWorkload(t, hs[0], "a")

	ask := func(args ...string) (string, time.Duration) {
		t.Helper()
		began := time.Now()
		out, stderr, err := hs[0].Run(append([]string{"dig", "+time=5", "+tries=1", "@169.254.53.1"}, args...)...)
		if err != nil {
			t.Fatalf("dig %v: %v\n%s%s", args, err, out, stderr)
		}
		return out, time.Since(began)
	}
	out, _ := ask("www.example.net")
	if !strings.Contains(out, "status: NOERROR") || !strings.Contains(out, upstreamAnswer) || strings.Contains(out, "flags: qr aa") {
		t.Errorf("a name outside the domain:\n%s", out)
	}
	if out, stderr, err := a.Run("busybox", "nslookup", "ftp.example.net"); err != nil || !strings.Contains(out, upstreamAnswer) {
		t.Errorf("a container asks for a name outside the domain: %v\n%s%s", err, out, stderr)
	}
	if out := do(t, hs[0], "status"); !strings.Contains(out, "Upstream: "+hs[1].Addr().String()) {
		t.Errorf("weft status does not name the upstream server:\n%s", out)
	}

	out, took := ask("silent.example.net")
	if !strings.Contains(out, "status: SERVFAIL") {
		t.Errorf("a name that upstream is silent about:\n%s", out)
	}
	if took > limit+2*time.Second || took < limit/2 {
		t.Errorf("SERVFAIL after %v, the limit is %v", took, limit)
	}
	if out, took := ask("nobody.weft.local"); !strings.Contains(out, "status: NXDOMAIN") || took >= limit {
		t.Errorf("a name of the domain, after %v:\n%s", took, out)
	}
	if !u.wasAsked("silent.example.net") || u.wasAsked("weft.local") {
		t.Errorf("upstream was asked for %q", u.asked)
	}
	// It dies: an error still comes in time.
	if err := u.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if out, took := ask("later.example.net"); !strings.Contains(out, "status: SERVFAIL") || took > limit+2*time.Second {
		t.Errorf("a name that nobody can be asked for, after %v:\n%s", took, out)
	}
}
