package integration

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

const marker = "weft-integration-marker-that-must-never-be-seen-in-clear"

// container is a Docker container on the mesh.
type container struct {
	host *netlab.Host
	name string
	addr string
}

func (c *container) fqdn() string { return c.name + ".weft.local" }

// runContainer starts a container as the README says, and attaches it. It
// serves /www over HTTP.
func runContainer(t *testing.T, h *netlab.Host, name string) *container {
	t.Helper()
	args := append([]string{"run", "-d", "--stop-timeout", "1", "--name", name}, strings.Fields(do(t, h, "dns-args"))...)
	args = append(args, "-h", name+".weft.local", "busybox", "sh", "-c",
		"mkdir -p /www && echo "+marker+" "+name+" >/www/index.html && exec httpd -f -h /www")
	if out, err := h.Docker(args...); err != nil {
		t.Fatalf("%s: docker run: %v\n%s", h.Name(), err, out)
	}
	return &container{host: h, name: name, addr: do(t, h, "attach", name)}
}

// id is what the name table calls it.
func (c *container) id(t *testing.T) string {
	t.Helper()
	id, err := c.host.Docker("inspect", "-f", "{{slice .Id 0 12}}", c.name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(id)
}

func (c *container) exec(args ...string) (string, error) {
	return c.host.Docker(append([]string{"exec", c.name}, args...)...)
}

// reaches pings and fetches from another container by name and by address.
func (c *container) reaches(t *testing.T, to *container) {
	t.Helper()
	for _, at := range []string{to.fqdn(), to.name, to.addr} {
		if out, err := c.exec("ping", "-c", "1", "-W", "2", at); err != nil || lossOf(out) != "0" {
			t.Errorf("%s pings %s as %s: %v\n%s\n%s", c.name, to.name, at, err, out, tunnels(c.host, to.host))
		}
		out, err := c.exec("wget", "-q", "-O", "-", "http://"+at+"/index.html")
		if err != nil || strings.TrimSpace(out) != marker+" "+to.name {
			t.Errorf("%s fetches from %s as %s: %v\n%q", c.name, to.name, at, err, out)
		}
	}
}

// watch starts a capture on the cable of each host.
func watch(t *testing.T, hs []*netlab.Host) []*netlab.Capture {
	t.Helper()
	var caps []*netlab.Capture
	for _, h := range hs {
		c, err := h.Capture(netlab.CaptureOptions{Markers: [][]byte{[]byte(marker)}})
		if err != nil {
			t.Fatal(err)
		}
		caps = append(caps, c)
	}
	return caps
}

// nothingElse ends captures, which must have seen that many frames of WireGuard
// each, the join, and no payload nor any other protocol.
func nothingElse(t *testing.T, hs []*netlab.Host, caps []*netlab.Capture, least int) {
	t.Helper()
	for i, c := range caps {
		s := c.Stop()
		seen, err := c.Contains([]byte(marker))
		switch {
		case err != nil:
			t.Error(err)
		case seen:
			t.Errorf("the payload was seen in clear on the cable of %s", hs[i].Name())
		}
		if len(s.Other) > 0 {
			t.Errorf("unexpected frames on the cable of %s: %v", hs[i].Name(), s.Other)
		}
		if s.Lost > 0 || s.Err != nil {
			t.Errorf("the capture on %s is not whole: %d frames lost, %v", hs[i].Name(), s.Lost, s.Err)
		}
		if s.Frames[netlab.WireGuard] < least || s.Frames[netlab.Join] == 0 {
			t.Errorf("the capture on %s saw too little to prove anything: %v", hs[i].Name(), s.Frames)
		}
		t.Logf("%s: %d bytes, frames %v", hs[i].Name(), s.Bytes, s.Frames)
	}
}

// TestThreeHosts is the main story of weft: three hosts with a Docker engine
// each, containers that reach one another by name and by address, and nothing
// but WireGuard on the wire.
func TestThreeHosts(t *testing.T) {
	netlab.Require(t, "root", "docker", "dig")
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{Docker: true}, "host1", "host2", "host3")
	for _, h := range hs {
		if err := h.ImportImage("busybox"); err != nil {
			t.Fatal(err)
		}
		out, stderr, err := h.Run("iptables", "-S", "FORWARD")
		if err != nil || !strings.Contains(out, "-P FORWARD DROP") {
			t.Fatalf("Docker's FORWARD policy is expected to be DROP: %v\n%s%s", err, out, stderr)
		}
	}
	// A host whose operator has IPv6 rules too; weft's go among them.
	if _, stderr, err := hs[1].Run("ip6tables", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"); err != nil {
		t.Fatal(stderr)
	}
	caps := watch(t, hs)
	launchMesh(t, hs[:2])
	var cs []*container
	for i, name := range []string{"ant", "bee"} {
		cs = append(cs, runContainer(t, hs[i], name))
	}
	cs[0].reaches(t, cs[1])
	join(t, hs[2], do(t, hs[0], "token"), hs[0].Addr().String()) // a host that is added later
	cs = append(cs, runContainer(t, hs[2], "cat"))
	for _, h := range hs {
		for _, c := range cs {
			resolves(t, h, 5*time.Second, c.fqdn(), c.addr)
		}
	}

	t.Run("everybody reaches everybody", func(t *testing.T) {
		for _, from := range cs {
			for _, to := range cs {
				if from != to {
					from.reaches(t, to)
				}
			}
		}
	})

	t.Run("the ring is shared 50/25/25", func(t *testing.T) {
		r, err := reportOf(hs[2])
		if err != nil {
			t.Fatal(err)
		}
		var parts []float64
		for _, o := range r.IPAM.Owners {
			parts = append(parts, o.Percent)
		}
		slices.Sort(parts)
		near := func(got, want float64) bool { return math.Abs(got-want) <= 1 }
		if !slices.EqualFunc(parts, []float64{25, 25, 50}, near) {
			t.Errorf("shares %v, want 25, 25 and 50: %+v", parts, r.IPAM.Owners)
		}
	})

	t.Run("100 MB arrive whole", func(t *testing.T) {
		// The file repeats the marker, so that any part of it in clear is seen.
		make := fmt.Sprintf("yes %s | head -c 100000000 >/www/big && sha256sum </www/big", marker)
		want, err := cs[0].exec("sh", "-c", make)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cs[1].exec("sh", "-c", "wget -q -O - http://ant.weft.local/big | sha256sum")
		if err != nil || got != want {
			t.Errorf("checksum %q, want %q (%v)", got, want, err)
		}
	})

	t.Run("wg reads the device", func(t *testing.T) {
		out, stderr, err := hs[0].Run("wg", "show", "weftwg")
		if err != nil || strings.Count(out, "latest handshake") != 2 || strings.Count(out, "preshared key") != 2 {
			t.Errorf("wg show weftwg: %v\n%s%s", err, out, stderr)
		}
	})

	t.Run("only WireGuard is on the wire", func(t *testing.T) {
		nothingElse(t, hs, caps, 200)
	})
	caps = watch(t, hs) // all that comes and goes from here on

	t.Run("a stopped container's name goes, and comes back with it", func(t *testing.T) {
		if out, err := hs[1].Docker("stop", "-t", "0", "bee"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, h := range hs {
			resolves(t, h, 5*time.Second, cs[1].fqdn())
		}
		if out, err := hs[1].Docker("start", "bee"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, h := range hs {
			resolves(t, h, 5*time.Second, cs[1].fqdn(), cs[1].addr)
		}
		cs[0].reaches(t, cs[1])
		if again := do(t, hs[1], "attach", "bee"); again != cs[1].addr {
			t.Errorf("attach again gave %s, was %s", again, cs[1].addr)
		}
	})

	t.Run("an engine restart", func(t *testing.T) {
		if err := hs[2].RestartDocker(); err != nil {
			t.Fatal(err)
		}
		for _, h := range hs {
			resolves(t, h, 10*time.Second, cs[2].fqdn())
		}
		if out, err := hs[2].Docker("start", "cat"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, h := range hs {
			resolves(t, h, 10*time.Second, cs[2].fqdn(), cs[2].addr)
		}
		cs[0].reaches(t, cs[2])
		cs[2].reaches(t, cs[1])
	})

	t.Run("a host is stopped and started", func(t *testing.T) {
		do(t, hs[1], "stop")
		for _, h := range []*netlab.Host{hs[0], hs[2]} {
			resolves(t, h, 10*time.Second, cs[1].fqdn())
		}
		if out, err := cs[1].exec("ping", "-c", "1", "-W", "1", cs[0].addr); err == nil {
			t.Errorf("a stopped host still reaches the mesh:\n%s", out)
		}
		do(t, hs[1], "launch")
		for _, h := range hs {
			resolves(t, h, 20*time.Second, cs[1].fqdn(), cs[1].addr)
		}
		cs[0].reaches(t, cs[1])
		cs[1].reaches(t, cs[2])
	})

	t.Run("a container restarts while the router is away", func(t *testing.T) {
		killed(t, routerPID(t, hs[2]))
		if out, err := hs[2].Docker("restart", "-t", "0", "cat"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		do(t, hs[2], "launch")
		for _, h := range hs {
			resolves(t, h, 20*time.Second, cs[2].fqdn(), cs[2].addr)
		}
		cs[0].reaches(t, cs[2])
		// The next router cannot ask the engine, and knows the container all the same.
		killed(t, routerPID(t, hs[2]))
		do(t, hs[2], "launch", "--docker-api", "unix:///run/no-engine.sock")
		for _, h := range hs {
			resolves(t, h, 20*time.Second, cs[2].fqdn(), cs[2].addr)
		}
		cs[0].reaches(t, cs[2])
		killed(t, routerPID(t, hs[2]))
		do(t, hs[2], "launch")
		cs[2].reaches(t, cs[1])
	})

	t.Run("a host is killed and started", func(t *testing.T) {
		if err := hs[1].Kill(); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*netlab.Host{hs[0], hs[2]} {
			took := resolves(t, h, 30*time.Second, cs[1].fqdn()) // promise 4 of the design says 16 s, on a machine that is not busy
			t.Logf("%s hides the names of the killed host after %v", h.Name(), took.Round(time.Millisecond))
		}
		if err := hs[1].StartDocker(); err != nil {
			t.Fatal(err)
		}
		do(t, hs[1], "launch")
		if out, err := hs[1].Docker("start", "bee"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, h := range hs {
			resolves(t, h, 30*time.Second, cs[1].fqdn(), cs[1].addr)
		}
		cs[0].reaches(t, cs[1])
		cs[1].reaches(t, cs[2])
	})

	t.Run("removing a container releases it", func(t *testing.T) {
		if out, err := hs[0].Docker("rm", "-f", "ant"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		eventually(t, 5*time.Second, "weft ps forgets it", func() error {
			if out := do(t, hs[0], "ps"); strings.Contains(out, cs[0].addr) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	})

	t.Run("a container that is not attached", func(t *testing.T) { unattached(t, hs[2], cs[2], cs[1]) })
	t.Run("flags of attach", func(t *testing.T) { attachFlags(t, hs[2], cs[2], cs[1]) })
	t.Run("modes of Docker's network", func(t *testing.T) { networkModes(t, hs[0], cs[2]) })
	t.Run("image", func(t *testing.T) { imageRuns(t, hs[0]) })
	t.Run("reset beside Docker", func(t *testing.T) { resetBesideDocker(t, hs[1]) })
	t.Run("only WireGuard was on the wire while hosts and containers came and went", func(t *testing.T) {
		nothingElse(t, hs, caps, 20)
	})
}
