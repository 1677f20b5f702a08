package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/api"
	"weft/docker"
	"weft/host"
	"weft/internal/statedb"
	"weft/ipam"
)

// engine is a container engine that knows of containers by name and process. While questions may be under way, it is changed by set.
type engine struct {
	*httptest.Server
	mu     sync.Mutex
	pids   map[string]int    // by ID; 0: it does not run
	hosts  map[string]string // the paths of their hosts files
	away   bool
	silent string      // about this container it does not answer, as of one that it is starting
	waited atomic.Bool // and who asked has given up
}

func (e *engine) set(silent, id string, pid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.silent, e.pids[id] = silent, pid
}

func (e *engine) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Api-Version", "1.44")
	w.Header().Set("Content-Type", "application/json")
	_, path, _ := strings.Cut(q.URL.Path, "/containers/")
	id, _, _ := strings.Cut(path, "/")
	e.mu.Lock()
	pids, silent := maps.Clone(e.pids), e.silent
	e.mu.Unlock()
	if _, known := pids[dockerID(id)]; known {
		id = dockerID(id)
	}
	var answer any
	if id != "" && id == silent {
		<-q.Context().Done()
		e.waited.Store(true)
		return
	}
	switch _, known := pids[id]; {
	case e.away:
		http.Error(w, `{"message":"the engine is away"}`, 500)
		return
	case strings.HasSuffix(q.URL.Path, "/_ping"):
		return
	case id == "json":
		var list []map[string]string
		for id := range pids {
			list = append(list, map[string]string{"Id": id})
		}
		answer = list
	case known:
		answer = map[string]any{"Id": id, "Name": "/" + id[:2], "HostsPath": e.hosts[id], "State": map[string]any{"Running": pids[id] != 0, "Pid": pids[id]},
			"Config": map[string]any{"Hostname": id[:2]}, "HostConfig": map[string]any{"NetworkMode": "bridge"}, "NetworkSettings": map[string]any{}}
	default:
		http.Error(w, `{"message":"no such container"}`, 404)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// realHost is a router whose host is a network namespace of the test's own thread, with a bridge.
type realHost struct {
	*Router
	t      *testing.T
	f      *founder
	engine *engine
	ends   map[int]func() // ends a process
}

func newRealHost(t *testing.T) *realHost {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread() // for good: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "add", bridgeName, "type", "bridge").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h := &realHost{t: t, f: newFounder(t), engine: &engine{pids: map[string]int{}}, ends: map[int]func(){}}
	h.f.containers = true
	h.engine.Server = httptest.NewUnstartedServer(h.engine)
	h.engine.Listener.Close()
	var err error
	if h.engine.Listener, err = net.Listen("unix", filepath.Join(t.TempDir(), "docker.sock")); err != nil {
		t.Fatal(err)
	}
	h.engine.Start()
	t.Cleanup(h.engine.Close)
	h.start(h.f.start())
	return h
}

// start makes r, which has just begun, the host's router, up to its first pass.
func (h *realHost) start(r *Router) {
	h.t.Helper()
	h.load(r)
	h.begin()
}

// load is what New does.
func (h *realHost) load(r *Router) {
	h.t.Helper()
	h.Router = r
	r.o.Domain = DefaultDomain
	r.stopped = true // there is no tunnel: passes do nothing
	r.dirty, r.failing = map[string]bool{}, map[string]bool{}
	r.namePoke, r.logPoke = make(chan struct{}, 1), make(chan struct{}, 1)
	r.asks.order = r.donors
	var err error
	if r.attached, err = loadAttachments(r.db.Load); err != nil {
		h.t.Fatal(err)
	}
	if r.host, err = host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName}); err != nil {
		h.t.Fatal(err)
	}
	if r.docker, err = docker.New(docker.Options{Host: "unix://" + h.engine.Listener.Addr().String()}); err != nil {
		h.t.Fatal(err)
	}
}

// loseMark has the next router not know whether its state is the latest.
func (h *realHost) loseMark() {
	if err := os.Remove(filepath.Join(h.f.run, markFile)); err != nil {
		h.t.Error(err)
	}
}

// begin is what Run does first.
func (h *realHost) begin() {
	h.findLiving(h.t.Context())
	h.restoreAllocations(h.f.member.Founding)
	h.share()
}

// share gives it all of the range.
func (h *realHost) share() {
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := h.f.member.Founding.Range
	ring, err := ipam.NewRing(whole, []ipam.Grant{ipam.Seed(whole, ipam.Owner(h.id.ID()))})
	if err != nil {
		h.t.Fatal(err)
	}
	h.alloc.SetRing(ring)
}

// engineBack is engineConnected, on the test's thread.
func (h *realHost) engineBack() {
	h.engine.away = false
	h.mu.Lock()
	h.Router.engine = true
	keys := slices.Sorted(maps.Keys(h.attached))
	h.mu.Unlock()
	for _, k := range keys {
		h.lookAt(h.t.Context(), k)
	}
}

// process begins a process in a namespace of its own, and says which.
func (h *realHost) process() int {
	h.t.Helper()
	c := exec.Command("cat")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := c.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	end := sync.OnceFunc(func() { in.Close(); _ = c.Wait() })
	h.ends[c.Process.Pid] = end
	h.t.Cleanup(end)
	return c.Process.Pid
}

// wired gives a container what it really has.
func (h *realHost) wired(key string, pid int, addrs ...string) {
	h.t.Helper()
	p := host.Port{NetNS: pidNetNS(pid), Key: key}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, pfx(a))
	}
	if _, err := h.host.Attach(p); err != nil {
		h.t.Fatal(err)
	}
}

// really says what containers have, for the kernel.
func (h *realHost) really(want string) {
	h.t.Helper()
	real, err := h.host.Attached()
	if err != nil {
		h.t.Fatal(err)
	}
	h.same("really", real, want)
}

// says what containers have, for the state and, if it is to be the same, for the allocator.
func (h *realHost) says(want string) {
	h.t.Helper()
	stored, err := loadAttachments(h.db.Load)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for what, as := range map[string]map[string]*attachment{"on disk": stored, "in memory": h.attached} {
		addrs := map[string][]netip.Prefix{}
		for k, a := range as {
			addrs[k] = a.Addrs
		}
		h.same(what, addrs, want)
	}
	given := map[string][]netip.Prefix{}
	for _, al := range h.alloc.All() {
		given[al.Container] = append(given[al.Container], al.Addr)
	}
	h.same("for the allocator", given, want)
}

func (h *realHost) same(what string, have map[string][]netip.Prefix, want string) {
	h.t.Helper()
	var lines []string
	for k, as := range have {
		if len(as) > 0 {
			slices.SortFunc(as, comparePrefix)
			lines = append(lines, fmt.Sprint(strings.TrimRight(k, "a"), as))
		}
	}
	slices.Sort(lines)
	if got := strings.Join(lines, " "); got != want {
		h.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func dockerID(name string) string { return name + strings.Repeat("a", 62) }

// With an old state file, and an engine that does not answer, containers keep what they
// really have, and nobody else gets it.
func TestOldStateWithoutAnEngine(t *testing.T) {
	h := newRealHost(t)
	c1, c2, c3 := dockerID("c1"), dockerID("c2"), dockerID("c3")
	for _, k := range []string{c1, c2, c3} {
		h.engine.pids[k] = h.process()
	}
	nsid, err := host.NetNSID(pidNetNS(h.engine.pids[c3]))
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	err = h.putAttachmentLocked(&attachment{Key: c1, Name: "c1", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}},
		&attachment{Key: c3, Name: "c3", Default: "c3.weft.local.", NetNS: pidNetNS(h.engine.pids[c3]), NSID: nsid, Addrs: []netip.Prefix{pfx("10.32.0.2/12"), pfx("10.32.0.3/12")}})
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	h.wired(c2, h.engine.pids[c2], "10.32.0.1/12")
	h.wired(c3, h.engine.pids[c3], "10.32.0.2/12", "10.33.0.1/16")
	h.engine.away = true
	h.start(h.f.restart(h.Router, h.loseMark))
	const want = "c2[10.32.0.1/12] c3[10.32.0.2/12 10.33.0.1/16]"
	h.says(want)
	if a := h.attached[c3]; !a.running || len(a.Names) != 1 || a.Names[0].Addr != pfx("10.33.0.1/16").Addr() {
		t.Errorf("c3: %+v", a)
	}
	h.alone()
	if errs := h.wireAll(); len(errs) > 0 {
		t.Error(errs)
	}
	h.really(want)
	for _, subnet := range []string{"10.32.0.0/12", "10.33.0.0/16"} {
		if al, _, err := h.tryAllocate(c1, pfx(subnet)); err != nil || al.Addr == pfx("10.32.0.1/12") || al.Addr == pfx("10.33.0.1/16") {
			t.Errorf("c1 gets %v, %v", al, err)
		}
	}
	h.alloc.FreeAll(h.began, c1)
	h.engineBack()
	if a := h.attached[c2]; !a.running || a.Name != "c2" || len(a.Names) != 1 || a.Names[0].FQDN != "c2.weft.local." {
		t.Errorf("c2, when its engine is back: %+v", a)
	}
	h.really(want)
	// What has ended for its engine has nothing any more, although its process lives.
	delete(h.engine.pids, c2)
	h.engineBack()
	h.really("c3[10.32.0.2/12 10.33.0.1/16]")
	h.says("c3[10.32.0.2/12 10.33.0.1/16]")
}

// What running containers have and cannot be written down is given to nobody, neither they
// nor others are changed, and it is tried again.
func TestAdoptionThatCannotBeWritten(t *testing.T) {
	h := newRealHost(t)
	c1, c2 := dockerID("c1"), dockerID("c2")
	h.engine.pids[c1], h.engine.pids[c2] = h.process(), h.process()
	h.mu.Lock()
	err := h.putAttachmentLocked(&attachment{Key: c1, Name: "c1", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}})
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	h.wired(c2, h.engine.pids[c2], "10.32.0.1/12")
	h.load(h.f.restart(h.Router, h.loseMark))
	good := h.db.DB
	if h.db.DB, err = statedb.Open(filepath.Join(t.TempDir(), "state.db")); err != nil {
		t.Fatal(err)
	}
	if err := h.db.DB.Close(); err != nil {
		t.Fatal(err)
	}
	h.begin()
	if s := h.ipamReport(h.mesh.State(), nil).Status; !strings.HasPrefix(s, "waiting: what running containers have") {
		t.Errorf("status: %q", s) // and not that the state may be old, which waits for this
	}
	h.alone()
	waits := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, errUnadopted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	allocate := func(key string) error { _, _, err := h.tryAllocate(key, netip.Prefix{}); return err }
	waits("what c1 has for the state", allocate(c1))
	waits("a new one", allocate("other"))
	_, _, err = h.tryClaim("other", pfx("192.0.2.1/24"))
	waits("one out of the range, which may be in use too", err)
	waits("a container that starts", h.follow(t.Context(), c1))
	h.mu.Lock()
	waits("give", h.mayGiveLocked())
	h.mu.Unlock()
	h.really("c2[10.32.0.1/12]")
	h.adopt()
	waits("it failed again", h.unadopted)
	h.db.DB = good
	unlock, err := h.ops.lock(t.Context(), c2)
	if err != nil {
		t.Fatal(err)
	}
	h.adopt()
	waits("something is being done to c2", h.unadopted)
	unlock()
	h.adopt()
	h.share()
	h.says("c2[10.32.0.1/12]")
	for k := range h.dirty {
		h.lookAt(t.Context(), k)
	}
	if a := h.attached[c2]; a == nil || !a.running || a.Name != "c2" {
		t.Errorf("c2: %+v", a)
	}
	for _, key := range []string{c1, "other"} {
		if al, _, err := h.tryAllocate(key, netip.Prefix{}); err != nil || al.Addr == pfx("10.32.0.1/12") {
			t.Errorf("%s gets %v, %v", key, al, err)
		}
	}
}

// A process that was attached ends, and another lives on in its namespace: it has nothing
// any more when the address is free, and can be attached itself.
func TestProcessesShareANamespace(t *testing.T) {
	h := newRealHost(t)
	pid := h.process()
	ns, err := os.Open(pidNetNS(pid)) // as the other does
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	key := fmt.Sprint("pid:", pid)
	ctx := t.Context()
	if got, err := h.attach(ctx, attachRequest{Container: key}); err != nil || len(got.Addresses) != 1 {
		t.Fatal(got, err)
	}
	h.says(key + "[10.32.0.1/12]")
	h.really(key + "[10.32.0.1/12]")
	other := fmt.Sprintf("netns:/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	_, err = h.attach(ctx, attachRequest{Container: other})
	if hints := api.Hints(err); !slices.Contains(hints, "weft detach "+key) {
		t.Errorf("attached twice: %v, %v", err, hints)
	}
	h.ends[pid]()
	if err := h.checkUnwatched(key); err != nil {
		t.Fatal(err)
	}
	h.says("")
	h.really("")
	if _, err := h.attach(ctx, attachRequest{Container: other}); err != nil {
		t.Error(err)
	}
	h.says(other + "[10.32.0.2/12]")
	h.really(other + "[10.32.0.2/12]")
}

// A router that starts when such a process has ended takes away what it had.
func TestAProcessEndedMeanwhile(t *testing.T) {
	h := newRealHost(t)
	pid := h.process()
	ns, err := os.Open(pidNetNS(pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	key := fmt.Sprint("pid:", pid)
	h.wired(key, pid, "10.32.0.1/12") // and the state is lost
	h.ends[pid]()
	h.start(h.f.restart(h.Router, h.loseMark))
	h.says(key + "[10.32.0.1/12]")
	if err := h.checkUnwatched(key); err != nil {
		t.Fatal(err)
	}
	h.says("")
	h.really("")
}

// What a program holds without an interface is its own, too, whatever state file is put back;
// what it has freed is not.
func TestOldStateAndHeldAddresses(t *testing.T) {
	h := newRealHost(t)
	hold := func(id, want string) {
		t.Helper()
		if got, err := h.hold(t.Context(), id, ipam.AddrArg{Kind: ipam.ArgDefault}); err != nil || got != want+"\n" {
			t.Errorf("%s gets %q, %v; want %s", id, got, err, want)
		}
	}
	putBack := func(old []byte) {
		t.Helper()
		h.start(h.f.restart(h.Router, func() {
			if err := os.WriteFile(h.f.state, old, 0o600); err != nil {
				t.Error(err)
			}
		}))
		if !h.unproven {
			t.Error("the old state is not in doubt")
		}
		h.alone()
	}
	copied := func() []byte {
		b, err := os.ReadFile(h.f.state)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := copied()
	hold("x", "10.32.0.1/12")
	held := copied()
	putBack(before)
	hold("y", "10.32.0.2/12")
	hold("x", "10.32.0.1/12")
	if _, err := h.freeHeld(t.Context(), "x", netip.Addr{}); err != nil {
		t.Error(err)
	}
	hold("y", "10.32.0.2/12")
	putBack(held)
	h.says("held:x[10.32.0.1/12] held:y[10.32.0.2/12]") // what was freed is forgotten, and what was held is not
	// After a reboot the state is all there is, and it is so from then on.
	gone := func() {
		files, err := filepath.Glob(filepath.Join(h.f.run, "*"))
		if err != nil || len(files) == 0 {
			t.Errorf("%v, %v", files, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Error(err)
			}
		}
	}
	h.start(h.f.restart(h.Router, gone))
	h.alone()
	putBack(before)
	h.says("held:x[10.32.0.1/12] held:y[10.32.0.2/12]")
	if _, err := h.freeHeld(t.Context(), "x", netip.Addr{}); err != nil {
		t.Error(err)
	}
	h.start(h.f.restart(h.Router, func() {}))
	h.says("held:y[10.32.0.2/12]")
}

// What is detached from a container that only its engine could find is not free before it is gone.
func TestDetachWithoutAnEngine(t *testing.T) {
	h := newRealHost(t)
	c := dockerID("c1")
	h.wired(c, h.process(), "10.32.0.1/12", "10.33.0.1/16") // and the state is lost
	h.engine.away = true
	h.start(h.f.restart(h.Router, h.loseMark))
	const both = "c1[10.32.0.1/12 10.33.0.1/16]"
	if _, err := h.detach(t.Context(), c, []string{"10.33.0.1/16"}); err == nil || len(api.Hints(err)) == 0 {
		t.Errorf("one: %v", err)
	}
	h.really(both)
	h.says(both)
	if _, err := h.detach(t.Context(), c, []string{"10.32.0.1/12", "10.33.0.1/16"}); err != nil {
		t.Errorf("both: %v", err)
	}
	h.really("")
	h.says("")
}

// An attach whose host sleeps before the container gets its address waits again, and ends with its caller.
func TestSleepBeforeAContainerIsWired(t *testing.T) {
	h := newRealHost(t)
	h.alone()
	h.member.Targets = []string{"host2"} // it may have taken this one for dead
	var asleep atomic.Int64
	h.db.now = func() time.Duration { return sinceBoot() + time.Duration(asleep.Load()) }
	key := fmt.Sprint("pid:", h.process())
	unlock, err := h.ops.lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { // on another thread, not in this host: it must not come to making anything
		_, err := h.attach(ctx, attachRequest{Container: key})
		ended <- err
	}()
	until(t, "it has an address", func() bool { return len(h.holds(key)) == 1 })
	asleep.Store(int64(2 * markAge))
	unlock()
	until(t, "it gives it back, and waits", func() bool { return len(h.holds(key)) == 0 && h.waiting() == 1 })
	hangUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	h.says("")
	h.really("")
}
