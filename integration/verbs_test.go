package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// TestVerbs goes through the command line on a mesh of two hosts.
func TestVerbs(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1", "host2")
	refused(t, hs[0], []string{"status"}, "not running")
	launchMesh(t, hs)
	refused(t, hs[0], []string{"launch"}, "already running")
	a, b := attachWorkload(t, hs[0], "a"), attachWorkload(t, hs[1], "b")
	waitPeers(t, hs...)
	resolves(t, hs[0], 5*time.Second, "b.weft.local", b.addr)

	contains := func(what, text string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q:\n%s", what, w, text)
			}
		}
	}
	contains("status", do(t, hs[0], "status"), "Service: router", "(host1)", "Encryption: WireGuard (", "Service: ipam", "Status: ready", "10.32.0.0/12", "Service: dns", "Domain: weft.local.", "Entries: 2")
	eventually(t, 10*time.Second, "the connection is established", func() error {
		if out := do(t, hs[0], "status", "connections"); !strings.Contains(out, "established encrypted") || !strings.Contains(out, "(host2)") || !strings.Contains(out, "mtu=1420") {
			return errText(out)
		}
		return nil
	})
	contains("status peers", do(t, hs[0], "status", "peers"), "(host1)", "(host2)")
	contains("status ipam", do(t, hs[0], "status", "ipam"), "(host1)", "524288 IPs (50.0% of total)")
	contains("status dns", do(t, hs[0], "status", "dns"), "a ", a.addr, "b ", b.addr)
	contains("status targets", do(t, hs[1], "status", "targets"), hs[0].Addr().String())
	contains("ps", do(t, hs[0], "ps"), a.container, a.addr+"/12")
	contains("report -f", do(t, hs[0], "report", "-f", "{{.Router.Nickname}} {{json .DNS.Domain}}"), `host1 "weft.local."`)
	t.Run("JSON", func(t *testing.T) { jsonOfVerbs(t, hs[0], a) })
	if got := do(t, hs[0], "dns-args"); got != "--dns=169.254.53.1 --dns-search=weft.local" {
		t.Errorf("dns-args without Docker: %q", got)
	}
	if got := do(t, hs[0], "dns-lookup", "b"); got != b.addr {
		t.Errorf("dns-lookup b: %q", got)
	}
	refused(t, hs[0], []string{"dns-lookup", "nobody"}, "nobody")

	// Attaching again changes nothing.
	if got := do(t, hs[0], "attach", a.container); got != a.addr {
		t.Errorf("attach again: %s, was %s", got, a.addr)
	}
	// Claims: in the own part, in the other's, in use, and outside the range.
	refused(t, hs[0], []string{"attach", "ip:" + b.addr + "/12", a.container}, b.addr)
	for _, bad := range []string{"10.32.0.999", "127.0.0.1", "224.0.0.1"} {
		if _, stderr, err := hs[0].Run(weft, "attach", "ip:"+bad+"/12", a.container); exitCode(err) != 2 || !strings.Contains(stderr, bad) {
			t.Errorf("an address that cannot be one: %v\n%s", err, stderr)
		}
	}
	refused(t, hs[0], []string{"attach", "ip:192.168.48.77/24", a.container}, "192.168.48.0/24")
	do(t, hs[0], "attach", "ip:172.30.5.1/24", a.container)
	do(t, hs[1], "attach", "172.30.5.2/24", b.container)
	eventually(t, 10*time.Second, "claimed addresses outside the range reach each other", func() error {
		_, _, err := a.Run("busybox", "ping", "-c", "1", "-W", "1", "172.30.5.2")
		return err
	})
	do(t, hs[1], "detach", "172.30.5.2/24", b.container)
	if out, _, err := a.Run("busybox", "ping", "-c", "1", "-W", "1", "172.30.5.2"); err == nil {
		t.Errorf("a detached address still answers:\n%s", out)
	}

	// Names.
	do(t, hs[0], "dns-add", a.container, "-h", "alias.weft.local")
	resolves(t, hs[1], 5*time.Second, "alias.weft.local", a.addr, "172.30.5.1")
	do(t, hs[0], "dns-remove", a.container, "-h", "alias.weft.local")
	resolves(t, hs[1], 5*time.Second, "alias.weft.local")
	do(t, hs[0], "dns-add", "192.0.2.7", "-h", "printer.weft.local")
	resolves(t, hs[1], 5*time.Second, "printer.weft.local", "192.0.2.7")
	do(t, hs[0], "stop")
	do(t, hs[0], "launch")
	resolves(t, hs[1], 10*time.Second, "printer.weft.local", "192.0.2.7")
	do(t, hs[0], "dns-remove", "192.0.2.7", "-h", "printer.weft.local")
	resolves(t, hs[1], 5*time.Second, "printer.weft.local")
	refused(t, hs[0], []string{"dns-remove", "192.0.2.7", "-h", "printer.weft.local"}, "no such name")
	refused(t, hs[0], []string{"dns-remove", a.container, "-h", "nobody.weft.local"}, "no such name")
	refused(t, hs[0], []string{"detach", "ip:172.30.5.9/24", a.container}, "172.30.5.9/24", "has no address")
	refused(t, hs[0], []string{"detach", "net:10.41.9.0/24", a.container}, "10.41.9.0/24", "has no address")
	refused(t, hs[0], []string{"detach", "netns:/run/nobody"}, "is not attached")
	refused(t, hs[0], []string{"dns-add", "192.0.2.7", "-h", "printer.example.com"}, "printer.example.com")

	resolves(t, hs[0], 10*time.Second, "b.weft.local", b.addr)
	t.Run("the name server's protocol", func(t *testing.T) { protocol(t, hs[0], b) })
	t.Run("secrets stay secret", func(t *testing.T) { secrets(t, hs[0]) })
}

// jsonOfVerbs asks every verb that prints for JSON.
func jsonOfVerbs(t *testing.T, h *netlab.Host, a *workload) {
	for _, c := range []struct {
		verb string // and its arguments
		want string // in the output
	}{
		{"status", `"Mesh"`},
		{"status targets", ``},
		{"status connections", `"established"`},
		{"status peers", `"host2"`},
		{"status dns", `"b"`},
		{"status ipam", `"10.32.0.0/12"`},
		{"report", `"Mesh"`},
		{"ps", a.addr},
		{"ps " + a.container, a.addr},
		{"attach " + a.container, a.addr},
		{"attach net:10.41.0.0/24 " + a.container, `"10.41.0.`},
		{"detach net:10.41.0.0/24 " + a.container, `"10.41.0.`},
		{"dns-args", "169.254.53.1"},
		{"dns-add 192.0.2.8 -h json.weft.local", `"192.0.2.8"`},
		{"dns-lookup b", `"10.`},
		{"dns-remove 192.0.2.8 -h json.weft.local", `"192.0.2.8"`},
		{"token", `"weft1-`},
		{"token show", `"weft1-`},
		{"version", `"version"`},
	} {
		out := do(t, h, append(strings.Fields(c.verb), "--json")...)
		if !json.Valid([]byte(out)) || !strings.Contains(out, c.want) {
			t.Errorf("weft %s --json is not JSON with %s:\n%s", c.verb, c.want, out)
		}
		if strings.HasPrefix(c.verb, "detach ") || strings.HasPrefix(c.verb, "dns-remove ") {
			refused(t, h, strings.Fields(c.verb)) // a second time there is nothing to take away
			continue
		}
		if text := do(t, h, strings.Fields(c.verb)...); c.verb != "report" && json.Valid([]byte(text)) {
			t.Errorf("weft %s prints JSON unasked:\n%s", c.verb, text)
		}
	}
}

type errText string

func (e errText) Error() string { return string(e) }

func protocol(t *testing.T, h *netlab.Host, b *workload) {
	ask := func(args ...string) string {
		t.Helper()
		out, stderr, err := h.Run(append([]string{"dig", "+time=2", "+tries=1", "@169.254.53.1"}, args...)...)
		if err != nil {
			t.Fatalf("dig %v: %v\n%s%s", args, err, out, stderr)
		}
		return out
	}
	for _, c := range []struct {
		args  []string
		wants []string
	}{
		{[]string{"B.wEft.local", "A"}, []string{"status: NOERROR", "B.wEft.local.", b.addr, "flags: qr aa"}},
		{[]string{"b.weft.local", "A", "+tcp"}, []string{"status: NOERROR", b.addr, "(TCP)"}},
		{[]string{"b.weft.local", "AAAA"}, []string{"status: NOERROR", "ANSWER: 0", "SOA"}},
		{[]string{"nobody.weft.local", "A"}, []string{"status: NXDOMAIN", "SOA"}},
		{[]string{"-x", b.addr}, []string{"status: NOERROR", "b.weft.local."}},
		{[]string{"-x", "10.47.255.254"}, []string{"status: NXDOMAIN"}},
		{[]string{"b.weft.local", "+edns=1", "+noednsneg"}, []string{"status: BADVERS"}},
		{[]string{"b.weft.local", "A", "CH"}, []string{"status: REFUSED"}},
	} {
		out := ask(c.args...)
		for _, w := range c.wants {
			if !strings.Contains(out, w) {
				t.Errorf("dig %v lacks %q:\n%s", c.args, w, out)
			}
		}
	}
}

// secrets looks for the mesh's secret where other users could see it.
func secrets(t *testing.T, h *netlab.Host) {
	token := do(t, h, "token")
	if !strings.HasPrefix(token, "weft1-") {
		t.Fatalf("weft token printed %d characters without the prefix", len(token))
	}
	secret := token[6:40]
	out, _, err := h.Run("sh", "-c", "cat /run/weft/*.log; for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done 2>/dev/null")
	if err != nil && out == "" {
		t.Fatal(err)
	}
	if strings.Contains(out, secret) {
		t.Error("the secret is in a log or in an argument list")
	}
	out, _, err = h.Run("sh", "-c", "stat -c '%a %n' /var/lib/weft /var/lib/weft/* /run/weft/*.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		if !strings.HasPrefix(l, "600 ") && !strings.HasPrefix(l, "700 ") {
			t.Errorf("mode of %s", l)
		}
	}
}
