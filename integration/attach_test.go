package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// networkModes checks which containers can be attached.
func networkModes(t *testing.T, h *netlab.Host, to *container) {
	docker := func(args ...string) {
		t.Helper()
		if out, err := h.Docker(args...); err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
	}
	sleep := []string{"busybox", "sleep", "1000"}
	args := strings.Fields(do(t, h, "dns-args"))
	run := func(name string, flags ...string) {
		t.Helper()
		docker(append(append(append([]string{"run", "-d", "--name", name}, flags...), args...), sleep...)...)
	}
	run("hostmode", "--network", "host")
	refused(t, h, []string{"attach", "hostmode"}, "host's network")

	docker("network", "create", "mine")
	run("usernet", "--network", "mine")
	run("nonet", "--network", "none")
	for _, name := range []string{"usernet", "nonet"} {
		c := &container{host: h, name: name, addr: do(t, h, "attach", name)}
		for _, at := range []string{to.addr, to.fqdn()} {
			if out, err := c.exec("ping", "-c", "1", "-W", "8", at); err != nil {
				t.Errorf("%s pings %s: %v\n%s", name, at, err, out)
			}
		}
		resolves(t, h, 5*time.Second, name+".weft.local", c.addr) // Docker's name, without -h
	}
	docker("rename", "usernet", "renamed")
	resolves(t, h, 10*time.Second, "renamed.weft.local", do(t, h, "attach", "renamed")) // whether the event has come or not
	resolves(t, h, 10*time.Second, "usernet.weft.local")
	docker("run", "-d", "--name", "shared", "--network", "container:nonet", "busybox", "sleep", "1000")
	if got, want := do(t, h, "attach", "shared"), do(t, h, "attach", "nonet"); got != want {
		t.Errorf("container mode: %s, its target has %s", got, want)
	}
	docker("create", "--name", "created", "busybox")
	refused(t, h, []string{"attach", "created"}, "not running")
	refused(t, h, []string{"attach", "nobody"}, "no container nobody")
}

// imageRuns builds the container image without a registry and runs it.
func imageRuns(t *testing.T, h *netlab.Host) {
	b, err := os.ReadFile(weft)
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Run("mkdir", "-p", "/run/image/bin"); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"/run/image/bin/weft": b, "/run/image/Dockerfile": dockerfile} {
		if err := h.WriteFile(name, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := h.Docker("build", "--target", "binary", "-t", "weft:latest", "/run/image"); err != nil {
		t.Fatalf("docker build: %v\n%s", err, out)
	}
	out, err := h.Docker("run", "--rm", "weft:latest", "version")
	if err != nil || out == "" || !strings.Contains(do(t, h, "version"), strings.TrimSpace(out)) {
		t.Errorf("the image's version: %v\n%s", err, out)
	}
}

// unattached: a container that is only in Docker's network asks weft's name
// server, at the bridge, and reaches nobody on the mesh.
func unattached(t *testing.T, h *netlab.Host, local, remote *container) {
	const bridge = "172.17.0.1" // Docker's default
	args := do(t, h, "dns-args")
	if !strings.Contains(args, "--dns="+bridge) {
		t.Errorf("dns-args %q does not name Docker's bridge %s", args, bridge)
	}
	loner := startContainer(t, h, "loner", strings.Fields(args)...)
	for _, to := range []*container{local, remote} {
		for _, server := range []string{bridge, ""} {
			out, err := loner.exec(strings.Fields("nslookup " + to.fqdn() + " " + server)...)
			if err != nil || !strings.Contains(out, to.addr) || !strings.Contains(out, bridge) {
				t.Errorf("nslookup %s %s in a container that is not attached: %v\n%s", to.fqdn(), server, err, out)
			}
		}
		if out, err := loner.exec("ping", "-c", "2", "-i", "0.3", "-W", "1", to.addr); exitCode(err) != 1 || lossOf(out) != "100" {
			t.Errorf("a container that is not attached reaches %s on %s: %v\n%s", to.name, to.host.Name(), err, out)
		}
	}
	// What was closed opens when it is attached.
	loner.addr = do(t, h, "attach", "loner")
	for _, to := range []*container{local, remote} {
		if out, err := loner.exec("ping", "-c", "1", "-W", "2", to.addr); err != nil {
			t.Errorf("loner, attached, pings %s: %v\n%s", to.name, err, out)
		}
	}
}

// startContainer starts a container that sleeps, and does not attach it.
func startContainer(t *testing.T, h *netlab.Host, name string, flags ...string) *container {
	t.Helper()
	args := append([]string{"run", "-d", "--stop-timeout", "0", "--name", name, "-h", name + ".weft.local"}, flags...)
	if out, err := h.Docker(append(args, "busybox", "sleep", "1000")...); err != nil {
		t.Fatalf("%s: docker run: %v\n%s", h.Name(), err, out)
	}
	return &container{host: h, name: name}
}

// attachFlags compares a container attached with flags to one without.
func attachFlags(t *testing.T, h *netlab.Host, plain, remote *container) {
	exec := func(c *container, args ...string) string {
		t.Helper()
		out, err := c.exec(args...)
		if err != nil {
			t.Fatalf("%s: %v: %v\n%s", c.name, args, err, out)
		}
		return out
	}
	const multicast = "224.0.0.0/4"
	if out := exec(plain, "ip", "route"); !strings.Contains(out, multicast+" dev ethwe") {
		t.Errorf("a container has no route for multicast:\n%s", out)
	}
	if out := exec(plain, "cat", "/etc/hosts"); strings.Contains(out, plain.addr) {
		t.Errorf("/etc/hosts was rewritten unasked:\n%s", out)
	}
	c := startContainer(t, h, "quiet")
	c.addr = do(t, h, "attach", "--without-dns", "--rewrite-hosts", "--no-multicast-route", "quiet")
	if out := exec(c, "ping", "-c", "1", "-W", "2", remote.addr); lossOf(out) != "0" {
		t.Errorf("quiet pings %s:\n%s", remote.name, out)
	}
	if out := exec(c, "ip", "route"); strings.Contains(out, "224.") || !strings.Contains(out, "ethwe") {
		t.Errorf("routes with --no-multicast-route:\n%s", out)
	}
	rewritten := func() error {
		if out := exec(c, "cat", "/etc/hosts"); !strings.Contains(out, c.addr+"\t") && !strings.Contains(out, c.addr+" ") || !strings.Contains(out, "quiet.weft.local") {
			return errText(out)
		}
		return nil
	}
	if err := rewritten(); err != nil {
		t.Errorf("/etc/hosts with --rewrite-hosts lacks %s:\n%v", c.addr, err)
	}
	// The engine writes the file anew at each start.
	if out, err := h.Docker("restart", "quiet"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, 20*time.Second, "/etc/hosts is rewritten again", rewritten)
	if out := do(t, h, "status", "dns"); strings.Contains(out, c.addr) || !strings.Contains(out, plain.addr) {
		t.Errorf("names with --without-dns:\n%s", out)
	}
	if got, err := dig(h, c.fqdn()); err != nil || len(got) != 0 {
		t.Errorf("--without-dns: %s is %v (%v)", c.fqdn(), got, err)
	}
	do(t, h, "dns-add", "quiet")
	resolves(t, h, 5*time.Second, c.fqdn(), c.addr)
}

// resetBesideDocker: weft's rules are among Docker's, and all of them go.
func resetBesideDocker(t *testing.T, h *netlab.Host) {
	look := func() (found string) {
		for _, c := range []string{"iptables -S", "ip6tables -S", "iptables -t nat -S", "nft list tables", "ip -br link", "ip route show table all"} {
			out, stderr, err := h.Run(strings.Fields(c)...)
			if err != nil {
				t.Fatalf("%s: %v\n%s", c, err, stderr)
			}
			for l := range strings.Lines(out) {
				if strings.Contains(l, "weft") {
					found += c + ": " + l
				}
			}
		}
		return found
	}
	for _, want := range []string{"iptables -S: ", "ip6tables -S: ", "nft list tables: ", "ip -br link: weftwg", "ip -br link: weft "} {
		if found := look(); !strings.Contains(found, want) {
			t.Errorf("a running router has nothing of %q, so its absence will prove nothing:\n%s", want, found)
		}
	}
	do(t, h, "reset")
	if found := look(); found != "" {
		t.Errorf("reset left:\n%s", found)
	}
	for _, c := range []string{"iptables -C FORWARD -j DOCKER-USER", "ip6tables -C INPUT -i lo -j ACCEPT"} {
		if _, stderr, err := h.Run(strings.Fields(c)...); err != nil {
			t.Errorf("rules of others went too: %s: %v\n%s", c, err, stderr)
		}
	}
}
