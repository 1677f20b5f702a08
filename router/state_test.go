package router

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/docker"
	"weft/internal/statedb"
)

// A launch that fails removes what it wrote itself, and nothing that was there.
func TestAFailedLaunchRemovesOnlyItsOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
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
	r := &Router{db: db, attached: map[string]*attachment{}}
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
