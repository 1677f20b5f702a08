package docker

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestInspect(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	web := e.run(fakeContainer{Name: "web", ID: "ab12" + strings.Repeat("0", 60), Hostname: "web.weft.local"})
	e.run(fakeContainer{Name: "db", ID: "ab34" + strings.Repeat("0", 60)})
	want := Container{
		ID: web.ID, Name: "web", Hostname: "web", Domainname: "weft.local", PID: web.PID, Running: true, NetworkMode: "default",
		HostsPath: "/var/lib/docker/containers/" + web.ID + "/hosts", Labels: map[string]string{"role": "test"},
	}
	for _, name := range []string{"web", "/web", web.ID, "ab12", "ab12000"} {
		got, err := c.Inspect(t.Context(), name)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := want.FQDN(); got != "web.weft.local" {
		t.Error(got)
	}
	for _, name := range []string{"nobody", "abcd", "", " ", "a b", "../info", "web/../db", "web?x=1", "-web", "\x00"} {
		_, err := c.Inspect(t.Context(), name)
		if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, version := range []string{"1.41", "1.47"} { // 500 in the older, 400 in the newer
		e.set(func() { e.max = version })
		c := newClient(t, e.socket)
		if _, err := c.Inspect(t.Context(), "ab"); !errors.Is(err, ErrNotFound) || !errors.Is(err, ErrAmbiguous) {
			t.Errorf("ambiguous in %s: %v", version, err)
		}
	}
	e.die(web)
	if got, err := c.Inspect(t.Context(), "web"); err != nil || got.Running || got.PID != 0 {
		t.Errorf("stopped: %+v, %v", got, err)
	}
}

func TestHealthAndPorts(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	web := e.run(fakeContainer{Name: "web", Exposed: []string{"8080/tcp", "53/udp", "53/tcp"}})
	want := []Port{{53, "tcp"}, {53, "udp"}, {8080, "tcp"}}
	for health, unhealthy := range map[string]bool{"": false, "starting": false, "healthy": false, "unhealthy": true} {
		e.set(func() { web.Health = health })
		if got, err := c.Inspect(t.Context(), "web"); err != nil || got.Unhealthy != unhealthy || !slices.Equal(got.Exposed, want) {
			t.Errorf("health %q: %+v, %v", health, got, err)
		}
	}
}

func TestSplitHostname(t *testing.T) {
	for _, tc := range []struct{ hostname, domainname, host, domain, fqdn string }{
		{"a.weft.local", "", "a", "weft.local", "a.weft.local"}, // now
		{"a", "weft.local", "a", "weft.local", "a.weft.local"},  // then, or with --domainname
		{"a.b", "weft.local", "a", "b.weft.local", "a.b.weft.local"},
		{"a.weft.local.", "", "a", "weft.local", "a.weft.local"},
		{"a", "weft.local.", "a", "weft.local", "a.weft.local"},
		{"0123456789ab", "", "0123456789ab", "", ""},
		{"", "", "", "", ""},
		{".", ".", "", "", ""},
	} {
		host, domain := splitHostname(tc.hostname, tc.domainname)
		fqdn := Container{Hostname: host, Domainname: domain}.FQDN()
		if host != tc.host || domain != tc.domain || fqdn != tc.fqdn {
			t.Errorf("%q, %q: %q, %q, %q", tc.hostname, tc.domainname, host, domain, fqdn)
		}
	}
}

func TestTarget(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	web := e.run(fakeContainer{Name: "web"})
	e.run(fakeContainer{Name: "byid", NetworkMode: "container:" + web.ID})
	e.run(fakeContainer{Name: "byname", NetworkMode: "container:web"})
	e.run(fakeContainer{Name: "chain", NetworkMode: "container:byid"})
	e.run(fakeContainer{Name: "none", NetworkMode: "none"})
	e.run(fakeContainer{Name: "user", NetworkMode: "mynet"})
	e.run(fakeContainer{Name: "onhost", NetworkMode: "host"})
	e.run(fakeContainer{Name: "viahost", NetworkMode: "container:onhost"})
	e.run(fakeContainer{Name: "orphan", NetworkMode: "container:gone"})
	e.run(fakeContainer{Name: "loop", NetworkMode: "container:loop"})
	for name, want := range map[string]string{
		"web": "web", "byid": "web", "byname": "web", "chain": "web", "none": "none", "user": "user", "onhost": "onhost", "viahost": "onhost",
	} {
		got, err := c.Target(t.Context(), name)
		if err != nil || got.Name != want || got.HostNetwork() != (want == "onhost") {
			t.Errorf("%s uses the network of %+v, %v; want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"orphan", "nobody"} {
		if _, err := c.Target(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Target(t.Context(), "loop"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("loop: %v", err)
	}
}

func TestList(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	if got, err := c.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	e.run(fakeContainer{Name: "web"})
	e.die(e.run(fakeContainer{Name: "stopped"}))
	again := e.run(fakeContainer{Name: "again"})
	e.set(func() { again.Running, again.Restarting, again.PID = false, true, 0 })
	got, err := c.List(t.Context())
	if err != nil || len(got) != 1 || got[0].Name != "web" || got[0].PID == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A container that goes between the listing and its inspection is no error.
func TestListWhileContainersGo(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	web := e.run(fakeContainer{Name: "web"})
	e.set(func() {
		e.intercept = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/_ping"):
			case strings.HasSuffix(r.URL.Path, "/containers/json"):
				answer(w, []any{map[string]any{"Id": strings.Repeat("f", 64)}, map[string]any{"Id": web.ID}})
			default:
				e.serveInspect(w, strings.Split(r.URL.Path, "/")[3])
			}
		}
	})
	if got, err := c.List(t.Context()); err != nil || len(got) != 1 || got[0].ID != web.ID {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBridgeAddr(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	if got, err := c.BridgeAddr(t.Context()); err != nil || got != netip.MustParseAddr("172.17.0.1") {
		t.Errorf("%v, %v", got, err)
	}
	e.set(func() { // no gateway told: the interface knows
		e.bridge["Options"] = map[string]string{"com.docker.network.bridge.name": "lo"}
		e.bridge["IPAM"] = map[string]any{"Config": []any{map[string]any{"Subnet": "fd00:9::/64"}, map[string]any{"Subnet": "127.0.0.0/8"}}}
	})
	if got, err := c.BridgeAddr(t.Context()); err != nil || !got.IsLoopback() {
		t.Errorf("without a gateway: %v, %v", got, err)
	}
	e.set(func() { e.bridge["Options"] = nil })
	if got, err := c.BridgeAddr(t.Context()); err != nil || got.IsValid() {
		t.Errorf("without gateway and interface: %v, %v", got, err)
	}
	e.set(func() { e.bridge = nil })
	if got, err := c.BridgeAddr(t.Context()); err != nil || got.IsValid() {
		t.Errorf("without a bridge: %v, %v", got, err)
	}
}

func TestEngineDown(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	calls := map[string]func() error{
		"ping":    func() error { _, err := c.Ping(t.Context()); return err },
		"inspect": func() error { _, err := c.Inspect(t.Context(), "web"); return err },
		"target":  func() error { _, err := c.Target(t.Context(), "web"); return err },
		"list":    func() error { _, err := c.List(t.Context()); return err },
		"bridge":  func() error { _, err := c.BridgeAddr(t.Context()); return err },
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	starting := func(w http.ResponseWriter, _ *http.Request) { fail(w, 503, "starting") }
	broken := map[string]func(){
		"down":        e.stop,
		"breaks off":  func() { e.start(t); e.set(func() { e.intercept = abort }) },
		"half a body": func() { e.set(func() { e.intercept = halfABody }) },
		"503":         func() { e.set(func() { e.intercept = starting }) },
	}
	for _, name := range []string{"down", "breaks off", "half a body", "503"} {
		broken[name]()
		for call, f := range calls {
			if err := f(); !errors.Is(err, ErrUnavailable) && (name != "half a body" || call != "ping") {
				t.Errorf("engine %s, %s: %v", name, call, err)
			}
		}
	}
	e.set(func() { e.intercept = nil })
	e.run(fakeContainer{Name: "web"})
	for call, f := range calls {
		if err := f(); err != nil {
			t.Errorf("engine is back, %s: %v", call, err)
		}
	}
}

func halfABody(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "_ping") {
		return
	}
	w.Header().Set("Content-Length", "100")
	w.Write([]byte(`{"Id":`))
}

func TestHungEngine(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	e.set(func() { e.intercept = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Inspect(ctx, "web"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// The version is negotiated with each engine that comes, also when it is newer and refuses what was spoken with the older.
func TestVersions(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	e.run(fakeContainer{Name: "web"})
	speak := func(want string) {
		t.Helper()
		if _, err := c.Inspect(t.Context(), "web"); err != nil {
			t.Error(err)
		}
		if got, err := c.Ping(t.Context()); err != nil || got != want {
			t.Errorf("version %s, %v; want %s", got, err, want)
		}
	}
	speak("1.41")
	e.set(func() { e.min, e.max = "1.44", "1.52" })
	speak("1.52")
	e.stop()
	if _, err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	e.set(func() { e.min, e.max = "1.12", "1.41" })
	e.start(t)
	speak("1.41")
}

func TestNew(t *testing.T) {
	for _, host := range []string{"docker.sock", "/var/run/docker.sock", "ssh://somewhere", "unix://", "unix://" + strings.Repeat("/long", 50)} {
		if _, err := New(Options{Host: host}); err == nil || !strings.Contains(err.Error(), host) {
			t.Errorf("%s: %v", host, err)
		}
	}
	t.Setenv("DOCKER_HOST", "unix:///run/elsewhere.sock")
	if c, err := New(Options{}); err != nil || c.Host() != "unix:///run/elsewhere.sock" {
		t.Error(c, err)
	}
	if c, err := New(Options{Host: "tcp://127.0.0.1:2375"}); err != nil || c.Host() != "tcp://127.0.0.1:2375" {
		t.Error(c, err)
	}
	t.Setenv("DOCKER_HOST", "")
	if c, err := New(Options{}); err != nil || c.Host() != "unix:///var/run/docker.sock" {
		t.Error(c, err)
	}
	c := newClient(t, filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "none.sock") {
		t.Error(err)
	}
}
