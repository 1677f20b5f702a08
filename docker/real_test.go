package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// realEngine is a dockerd of its own, in a network and mount namespace with its own /run.
type realEngine struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	born   string // start time of cmd's process
	stdin  interface{ Close() error }
	output bytes.Buffer
	exited chan error
}

// needEngine skips without root or dockerd, which on CI is a failure.
func needEngine(t *testing.T) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "needs root"
	}
	for _, program := range []string{"dockerd", "docker", "containerd", "unshare", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			why = "needs " + program
		}
	}
	switch {
	case why == "":
	case os.Getenv("CI") == "true":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// start runs dockerd under a shell that ends it when the test has closed the shell's input, or is no more. The engine then stops its
// containers and its containerd.
func (e *realEngine) start() {
	e.t.Helper()
	const script = `mount -t tmpfs tmpfs /run && ip link set lo up || exit 1
dockerd "$@" & pid=$!
read _
kill $pid; wait $pid`
	cmd := exec.Command("unshare", "-n", "-m", "sh", "-c", script, "dockerd",
		"--host", e.host(), "--data-root", filepath.Join(e.dir, "data"), "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
		"--storage-driver", "vfs", "--shutdown-timeout", "1", "--cgroup-parent", e.cgroup())
	cmd.Stdout, cmd.Stderr = &e.output, &e.output
	in, err := cmd.StdinPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.born = startTime(cmd.Process.Pid)
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	e.cmd, e.stdin, e.exited = cmd, in, exited
}

func (e *realEngine) host() string   { return "unix://" + filepath.Join(e.dir, "docker.sock") }
func (e *realEngine) cgroup() string { return "/" + filepath.Base(e.dir) }

// stop ends the engine and whatever is left of it.
func (e *realEngine) stop() {
	if e.cmd == nil {
		return
	}
	left := processesIn(e.cmd.Process.Pid, e.born)
	e.stdin.Close()
	select {
	case <-e.exited:
	case <-time.After(15 * time.Second):
		e.t.Error("dockerd does not end; killed")
		e.cmd.Process.Kill()
		<-e.exited
	}
	for pid, start := range left {
		if startTime(pid) == start {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	e.cmd = nil
}

// processesIn returns pid and start time of all processes in the mount namespace of one, and of all their descendants: the engine, its
// containerd, the shims and the containers. It returns none if that process is not the one that was started, or has no namespace of its
// own yet.
func processesIn(of int, born string) map[int]string {
	found := map[int]string{}
	mine, _ := os.Readlink("/proc/self/ns/mnt")
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", of))
	if ns == mine || startTime(of) != born {
		return found
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for grew := true; grew && ns != ""; {
		grew = false
		for _, stat := range stats {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			its, _ := os.Readlink(filepath.Join(filepath.Dir(stat), "ns/mnt"))
			f := statFields(pid)
			if found[pid] != "" || len(f) < 20 {
				continue
			}
			parent, _ := strconv.Atoi(f[1])
			if its == ns || found[parent] != "" {
				found[pid], grew = f[19], true
			}
		}
	}
	return found
}

// statFields returns the fields of /proc/PID/stat from the third, the state, on: the name before it may contain anything.
func statFields(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

func startTime(pid int) string {
	if f := statFields(pid); len(f) >= 20 {
		return f[19]
	}
	return ""
}

// docker runs the command line tool and returns what it prints.
func (e *realEngine) docker(args ...string) string {
	e.t.Helper()
	out, err := e.tryDocker(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func (e *realEngine) tryDocker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", e.host()}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// importBusybox makes an image of one static binary, since no registry is at hand.
func (e *realEngine) importBusybox() {
	e.t.Helper()
	path, _ := exec.LookPath("busybox")
	binary, err := os.ReadFile(path)
	if err != nil {
		e.t.Fatal(err)
	}
	var image bytes.Buffer
	tw := tar.NewWriter(&image)
	for _, name := range []string{"bin/busybox", "bin/sleep"} {
		tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(binary))})
		tw.Write(binary)
	}
	tw.Close()
	cmd := exec.Command("docker", "-H", e.host(), "import", "-", "busybox")
	cmd.Stdin = &image
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("docker import: %v: %s", err, out)
	}
}

func TestRealEngine(t *testing.T) {
	needEngine(t)
	dir, err := os.MkdirTemp("", "weft-docker-test-")
	if err != nil {
		t.Fatal(err)
	}
	e := &realEngine{t: t, dir: dir}
	t.Cleanup(func() {
		e.stop()
		if t.Failed() {
			t.Logf("dockerd:\n%s", e.output.String())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		groups, _ := filepath.Glob("/sys/fs/cgroup/*" + e.cgroup())
		for _, g := range append(groups, "/sys/fs/cgroup"+e.cgroup()) {
			syscall.Rmdir(g) // left behind by the engine, empty
		}
	})
	c := newClient(t, filepath.Join(dir, "docker.sock"))
	w := watch(t, c)
	w.next(Event{Kind: Lost})
	e.start()
	w.next(Event{Kind: Connected})
	e.importBusybox()

	run := func(args ...string) string {
		t.Helper()
		return e.docker(append([]string{"run", "-d", "--stop-timeout", "1"}, append(args, "busybox", "/bin/sleep", "1000")...)...)
	}
	web := run("--name", "web", "-h", "a.weft.local", "--label", "role=web")
	w.next(Event{Started, web})
	t.Run("inspect", func(t *testing.T) { realInspect(t, c, web) })
	for _, args := range [][]string{{"shared", "--net", "container:web"}, {"chain", "--net", "container:shared"}, {"none", "--net", "none"}, {"onhost", "--net", "host"}} {
		id := run(append([]string{"--name"}, args...)...)
		w.next(Event{Started, id})
	}
	t.Run("target", func(t *testing.T) { realTarget(t, c) })
	t.Run("list", func(t *testing.T) {
		if got, err := c.List(t.Context()); err != nil || len(got) != 5 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("bridge", func(t *testing.T) { realBridge(t, e, c) })
	t.Run("ambiguous", func(t *testing.T) { realAmbiguous(t, e, c) })

	e.docker("rename", "web", "www")
	w.next(Event{Renamed, web})
	e.docker("rm", "-f", "www")
	w.next(Event{Died, web}, Event{Removed, web})
	e.docker("rm", "-f", "shared")
	for range 2 {
		<-w.events
	}
	e.stop()
	for ev := range w.events { // the other containers end with their engine
		if ev.Kind == Lost {
			break
		}
	}
	e.start()
	w.next(Event{Kind: Connected})
	if got, err := c.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after the restart: %+v, %v", got, err)
	}
}

func realInspect(t *testing.T, c *Client, id string) {
	got, err := c.Inspect(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != id || got.Name != "web" || got.FQDN() != "a.weft.local" || got.Hostname != "a" || !got.Running || got.Labels["role"] != "web" || got.HostNetwork() {
		t.Errorf("%+v", got)
	}
	mine, _ := os.Readlink("/proc/self/ns/net")
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", got.PID)); err != nil || its == mine {
		t.Errorf("network namespace of process %d: %s, %v", got.PID, its, err)
	}
	if hosts, err := os.ReadFile(got.HostsPath); err != nil || !bytes.Contains(hosts, []byte("a.weft.local")) {
		t.Errorf("%s: %s, %v", got.HostsPath, hosts, err)
	}
	if again, err := c.Inspect(t.Context(), id[:12]); err != nil || again.ID != id {
		t.Errorf("by ID: %+v, %v", again, err)
	}
	if _, err := c.Inspect(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if version, err := c.Ping(t.Context()); err != nil || !strings.HasPrefix(version, "1.") {
		t.Errorf("version %s, %v", version, err)
	}
}

func realTarget(t *testing.T, c *Client) {
	for name, want := range map[string]string{"web": "web", "shared": "web", "chain": "web", "none": "none", "onhost": "onhost"} {
		got, err := c.Target(t.Context(), name)
		if err != nil || got.Name != want || got.HostNetwork() != (want == "onhost") || !got.Running {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// realBridge asks from the engine's network namespace, as a router does, which has just made its bridge.
func realBridge(t *testing.T, e *realEngine, c *Client) {
	runtime.LockOSThread() // and end the thread with the goroutine: it stays in the other namespace
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", e.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if got, err := c.BridgeAddr(t.Context()); err != nil || !got.Is4() || !got.IsPrivate() {
		t.Errorf("%v, %v", got, err)
	}
}

// realAmbiguous makes containers until the first digit of two IDs is the same; with 17 it must be.
func realAmbiguous(t *testing.T, e *realEngine, c *Client) {
	seen := map[byte]bool{}
	for range 17 {
		id := e.docker("create", "busybox", "/bin/sleep", "1")
		if !seen[id[0]] {
			seen[id[0]] = true
			continue
		}
		if _, err := c.Inspect(t.Context(), id[:1]); !errors.Is(err, ErrAmbiguous) || !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return
	}
	t.Error("17 IDs with 17 first digits")
}
