package router

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/docker"
	"weft/host"
	"weft/internal/statedb"
)

// needRoot skips a developer without root, and fails in CI.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// A launch that fails removes what it wrote itself, and nothing that was there.
func TestAFailedLaunchRemovesOnlyItsOwn(t *testing.T) {
	needRoot(t)
	left := func(before ...string) []string {
		t.Helper()
		state, run := t.TempDir(), t.TempDir()
		for _, f := range before {
			if err := os.WriteFile(filepath.Join(state, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(Options{StateDir: state, RunDir: run, Token: "weft1-nonsense"}); err == nil {
			t.Fatal("a launch with a token that is none was a success")
		}
		var names []string
		found, err := os.ReadDir(state)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, f.Name())
		}
		return names
	}
	if got := left(); len(got) > 0 {
		t.Errorf("the first launch of a host left %q", got)
	}
	for _, f := range []string{"state.db", "token"} {
		if got := left(f); !slices.Contains(got, f) {
			t.Errorf("a failed launch removed a %s that it had found: %q are left", f, got)
		}
	}
}

// The API may still be answering when the router has ended.
func TestTheStateFileClosesUnderTheAPI(t *testing.T) {
	db, err := statedb.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	r := &Router{attached: map[string]*attachment{}}
	if r.db, _, err = openMarked(db, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := r.putAttachmentLocked(&attachment{Key: "c"}); err == nil || r.attached["c"] != nil {
		t.Errorf("an attachment that could not be stored: %v, %v", err, r.attached)
	}
}

// A container's own name follows `docker rename`; names that were given to it stay.
func TestRenamedContainer(t *testing.T) {
	r := &Router{o: Options{Domain: DefaultDomain}}
	addr := pfx("10.32.0.1/12").Addr()
	a := &attachment{Key: "c", Name: "old", Default: "old.weft.local.", NetNS: "/proc/0/ns/net", NSID: "1",
		Names: []attachedName{{FQDN: "old.weft.local.", Addr: addr}, {FQDN: "alias.weft.local.", Addr: addr}}}
	b, err := r.renewed(a, docker.Container{ID: "c", Name: "new", PID: os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if want := []attachedName{{FQDN: "new.weft.local.", Addr: addr}, {FQDN: "alias.weft.local.", Addr: addr}}; !slices.Equal(b.Names, want) || b.Default != "new.weft.local." || b.Name != "new" {
		t.Errorf("%+v", b)
	}
	if b.sameContainer(a) || a.Names[0].FQDN != "old.weft.local." {
		t.Errorf("the attachment before was changed: %+v", a)
	}
	// One that has its name from -h keeps it, and one without gets none.
	a.Default, a.Names = "host.weft.local.", []attachedName{{FQDN: "host.weft.local.", Addr: addr}}
	if b, err = r.renewed(a, docker.Container{ID: "c", Name: "new", Hostname: "host", Domainname: "weft.local", PID: os.Getpid()}); err != nil || !slices.Equal(b.Names, a.Names) {
		t.Errorf("%+v %v", b, err)
	}
	a.Default, a.Names = "", nil
	if b, err = r.renewed(a, docker.Container{ID: "c", Name: "new", PID: os.Getpid()}); err != nil || len(b.Names) != 0 || b.Default != "" {
		t.Errorf("%+v %v", b, err)
	}
}

// What a container's health check said is known to a router that can not ask the engine.
func TestHealthOutlivesTheRouter(t *testing.T) {
	f := newFounder(t)
	engine := docker.Container{ID: "web", Name: "web", PID: os.Getpid()}
	begin := func(r *Router) *Router {
		t.Helper()
		var err error
		if r.docker, err = docker.New(docker.Options{Host: "unix://" + filepath.Join(t.TempDir(), "no-engine")}); err != nil {
			t.Fatal(err)
		}
		if r.host, err = host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName}); err != nil {
			t.Fatal(err)
		}
		if r.attached, err = loadAttachments(r.db.Load); err != nil {
			t.Fatal(err)
		}
		r.findLiving(t.Context())
		return r
	}
	sick := func(r *Router, want bool) {
		t.Helper()
		names := r.announce().Names
		if got := names[nameKey{Container: "web", Type: typeUnhealthy}]; got != want || len(names) == 0 {
			t.Errorf("announced %v, and that it is sick is to be %v", names, want)
		}
	}
	r := begin(f.start())
	a, err := r.renewed(&attachment{Key: "web", Name: "web", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}, Names: []attachedName{{FQDN: "web.weft.local.", Addr: pfx("10.32.0.1/12").Addr()}}}, engine)
	if err != nil {
		t.Fatal(err)
	}
	a.running = true
	if err := r.putAttachmentLocked(a); err != nil {
		t.Fatal(err)
	}
	// While the router runs it hears it from the engine; at a start it asks.
	hears := map[string]func(r *Router){
		"an event": func(r *Router) {
			b, err := r.renewed(r.attached["web"], engine)
			if err == nil {
				err = r.updateNames(b)
			}
			if err != nil {
				t.Error(err)
			}
		},
		"a start": func(r *Router) { r.foundLocked(r.attached["web"], engine) },
	}
	for what, hear := range hears {
		for _, engine.Unhealthy = range []bool{true, false} {
			t.Run(what, func(t *testing.T) {
				hear(r)
				sick(r, engine.Unhealthy)
				r = begin(f.restart(r, func() {}))
				sick(r, engine.Unhealthy)
			})
		}
	}
}
