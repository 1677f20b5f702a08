package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// systemdResolved is where `make test` unpacks it: installed, it would run on the machine itself.
const systemdResolved = "/var/cache/weft-test/systemd-resolved"

// startResolved runs systemd-resolved on a host, as its configuration says, until the test ends or stop is called.
// It wants a user of its own and nobody on D-Bus.
func startResolved(t *testing.T, h *netlab.Host, conf string) (stop func()) {
	t.Helper()
	for path, line := range map[string]string{
		"/etc/passwd": "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n",
		"/etc/group":  "systemd-resolve:x:991:\n",
	} {
		old, err := os.ReadFile(path)
		if err == nil {
			err = h.WriteFile("/run"+path[len("/etc"):], append(old, line...), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, stderr, err := h.Run("mount", "--bind", "/run"+path[len("/etc"):], path); err != nil {
			t.Fatalf("mount: %v\n%s%s", err, out, stderr)
		}
	}
	const setUp = "mkdir -p /etc/systemd /run/systemd/resolve && mount -t tmpfs resolved /etc/systemd && chown 991:991 /run/systemd/resolve"
	if out, stderr, err := h.Run("sh", "-c", setUp); err != nil {
		t.Fatalf("%s: %v\n%s%s", setUp, err, out, stderr)
	}
	if err := h.WriteFile("/etc/systemd/resolved.conf", []byte("[Resolve]\nFallbackDNS=\n"+conf), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := h.Start("systemd-resolved", "sh", "-c", fmt.Sprintf(
		"LD_LIBRARY_PATH=$(echo %[1]s/usr/lib/*/systemd) exec %[1]s/lib/systemd/systemd-resolved", systemdResolved))
	if err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = p.Kill(os.Interrupt) // it may have ended
		<-p.Done()
	}
	t.Cleanup(stop)
	eventually(t, 10*time.Second, "systemd-resolved answers", func() error {
		out, stderr, err := h.Run("dig", "+time=1", "+tries=1", "@127.0.0.53", "localhost")
		if err != nil || !strings.Contains(out, "NOERROR") {
			return fmt.Errorf("%w: %s%s\n%s", err, out, stderr, p.Log())
		}
		return nil
	})
	return stop
}

// TestSystemdResolved has it before the name server and behind it: it asks for names of the mesh on behalf of a
// host's own programs; and where resolv.conf names its stub, containers' other questions go to the servers that it asks itself.
func TestSystemdResolved(t *testing.T) {
	netlab.Require(t, "root", "dig", "busybox", systemdResolved+"/lib/systemd/systemd-resolved")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "before", "behind", "outside")
	startUpstream(t, hs[2])
	outside := hs[2].Addr().String()

	do(t, hs[0], "launch")
	a := attachWorkload(t, hs[0], "a")
	startResolved(t, hs[0], "DNS=169.254.53.1\nDomains=~weft.local ~32.10.in-addr.arpa\n")
	for question, want := range map[string]string{"a.weft.local": a.addr, "-x " + a.addr: "a.weft.local."} {
		out, stderr, err := hs[0].Run(append([]string{"dig", "+short", "+time=3", "+tries=2", "@127.0.0.53"}, strings.Fields(question)...)...)
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("dig %s by systemd-resolved: %v\n%s%s, want %s", question, err, out, stderr, want)
		}
	}
	if out, _, _ := hs[0].Run("dig", "+time=3", "+tries=1", "@127.0.0.53", "nobody.weft.local"); !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("a name that nobody has, by systemd-resolved:\n%s", out)
	}

	startResolved(t, hs[1], "DNS="+outside+"\n")
	if err := hs[1].WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.53\noptions edns0 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	do(t, hs[1], "launch")
	b := attachWorkload(t, hs[1], "b")
	if out, stderr, err := b.Run("busybox", "nslookup", "www.example.net"); err != nil || !strings.Contains(out, upstreamAnswer) {
		t.Errorf("a container asks for a name outside the domain: %v\n%s%s", err, out, stderr)
	}
	if out := do(t, hs[1], "status"); !strings.Contains(out, "Upstream: "+outside) {
		t.Errorf("weft status does not name the server behind the stub:\n%s", out)
	}
}
