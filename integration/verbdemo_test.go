package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/internal/netlab"
)

// registry is where labs of this machine are recorded.
const registry = "/run/weft-netlab"

// demonstration is a `weft demo` that runs.
type demonstration struct {
	cmd   *exec.Cmd
	out   bytes.Buffer // read it after the end only
	links []string     // of the machine, before
	lab   string       // ID
}

// startDemo starts `weft demo` and finds the ID of its lab.
func startDemo(t *testing.T, env []string, args ...string) *demonstration {
	t.Helper()
	netlab.Require(t, "root")
	t.Parallel()
	return startAgain(t, env, args...)
}

func startAgain(t *testing.T, env []string, args ...string) *demonstration {
	t.Helper()
	d := &demonstration{links: links(t)}
	d.cmd = exec.CommandContext(t.Context(), weft, append([]string{"demo"}, args...)...)
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	d.cmd.WaitDelay = 10 * time.Second
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the demo's lab is recorded", func() error {
		files, err := filepath.Glob(registry + "/*.json")
		if err != nil {
			return err
		}
		for _, f := range files {
			var record struct {
				ID    string
				Owner int
			}
			if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &record) == nil && record.Owner == d.cmd.Process.Pid {
				d.lab = record.ID
				return nil
			}
		}
		return fmt.Errorf("none of %q has owner %d", files, d.cmd.Process.Pid)
	})
	return d
}

func links(t *testing.T) []string {
	t.Helper()
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	return names
}

// processes lists those of the demo's lab, by the mark that they inherit.
func (d *demonstration) processes(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range dirs {
		env, _ := os.ReadFile(p + "/environ") // unreadable: it has gone
		if bytes.Contains(env, []byte("WEFT_NETLAB="+d.lab+"/")) {
			cmd, _ := os.ReadFile(p + "/cmdline")
			found = append(found, strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return found
}

// gone fails if the machine has anything that it did not have before the demo.
func (d *demonstration) gone(t *testing.T) {
	t.Helper()
	if left := d.processes(t); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	before := strings.Join(d.links, " ") + " "
	for _, l := range links(t) {
		if !strings.Contains(before, l+" ") {
			t.Errorf("link %s is left", l)
		}
	}
	for _, pattern := range []string{registry + "/" + d.lab + "*", filepath.Join(os.TempDir(), "*"+d.lab+"*"), "/sys/fs/cgroup/*/weft-netlab-" + d.lab, "/sys/fs/cgroup/weft-netlab-" + d.lab} {
		if files, err := filepath.Glob(pattern); err != nil || len(files) > 0 {
			t.Errorf("files are left: %q (%v)", files, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), d.lab) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}

// TestDemo runs the demonstration as the README does, on a machine where it finds
// no tools and no Docker.
func TestDemo(t *testing.T) {
	d := startDemo(t, []string{"PATH=/nonexistent", "DOCKER_HOST=unix:///nonexistent"})
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, d.out.String())
	}
	out := d.out.String()
	for _, want := range []string{"founded the mesh", "24 pages", "WireGuard", "no page in clear", "taken down"} {
		if !strings.Contains(out, want) {
			t.Errorf("weft demo lacks %q:\n%s", want, out)
		}
	}
	d.gone(t)
	t.Logf("\n%s", out)
}

// TestDemoOfTheREADME runs `make demo` in a copy of the sources, and compares what
// it prints with what the README shows.
func TestDemoOfTheREADME(t *testing.T) {
	netlab.Require(t, "root", "make")
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(t.TempDir(), "weft")
	files, err := filepath.Glob("../*") // without .git
	if err != nil || os.Mkdir(src, 0o755) != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Base(f) == "bin" {
			continue
		}
		if out, err := exec.Command("cp", "-r", f, src).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "demo")
	cmd.Dir = src
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make demo: %v\n%s", err, out)
	}
	if want, got := steps(string(readme)), steps(string(out)); want != got || strings.Count(got, "\n") < 15 {
		t.Errorf("the README shows\n%s\nmake demo prints\n%s", want, got)
	}
}

var (
	stepLine = regexp.MustCompile(`^\[ *\d+\.\ds\] `)
	varying  = regexp.MustCompile(`\d+(\.\d+)*`)
)

// steps are the progress lines of a demonstration, without what differs from run to
// run: times, addresses and amounts.
func steps(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		if stepLine.MatchString(l) {
			l = strings.Join(strings.Fields(l[strings.Index(l, "]")+1:]), " ")
			b.WriteString(varying.ReplaceAllString(l, "N") + "\n")
		}
	}
	return b.String()
}

// TestDemoInterrupted: Ctrl-C takes everything down.
func TestDemoInterrupted(t *testing.T) {
	interrupted := func(d *demonstration) error {
		t.Helper()
		eventually(t, 20*time.Second, "a router of the demo runs", func() error {
			ps := strings.Join(d.processes(t), "\n")
			if !strings.Contains(ps, weft+" router") {
				return errText(ps)
			}
			return nil
		})
		if err := d.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		return d.cmd.Wait()
	}
	d := startDemo(t, nil)
	err := interrupted(d)
	if err == nil { // it was at its end already
		d = startAgain(t, nil)
		err = interrupted(d)
	}
	if code := exitCode(err); code != 1 {
		t.Errorf("an interrupted demo ends with %v", err)
	}
	if out := d.out.String(); !strings.Contains(out, "taken down") || !strings.Contains(out, "interrupted") {
		t.Errorf("an interrupted demo does not say so, or does not clean up:\n%s", out)
	}
	d.gone(t)
}

var (
	enterLine = regexp.MustCompile(`(?m)^\s+(nsenter .*)$`)
	endLine   = regexp.MustCompile(`(?m)^\s+(\S+ demo --end (\S+))$`)
)

// TestDemoKept: what --keep prints works.
func TestDemoKept(t *testing.T) {
	d := startDemo(t, nil, "--keep")
	t.Cleanup(func() { _ = exec.Command(weft, "demo", "--end", d.lab).Run() }) // an error: the test has ended it
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, d.out.String())
	}
	out := d.out.String()
	enter, end := enterLine.FindStringSubmatch(out), endLine.FindStringSubmatch(out)
	if enter == nil || end == nil || end[2] != d.lab {
		t.Fatalf("--keep does not print how to enter lab %s and how to end it:\n%s", d.lab, out)
	}
	sh := func(line string) string {
		t.Helper()
		b, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, b)
		}
		return string(b)
	}
	if out := sh(enter[1] + " " + weft + " status"); !strings.Contains(out, "(host1)") || !strings.Contains(out, "Peers: 3") {
		t.Errorf("weft status inside:\n%s", out)
	}
	if out := sh(enter[1] + " " + weft + " status dns"); !strings.Contains(out, "shop") {
		t.Errorf("weft status dns inside:\n%s", out)
	}
	if out := sh("echo hostname | " + enter[1]); strings.TrimSpace(out) != "host1" { // a shell, as a person uses it
		t.Errorf("the shell inside is on %q", out)
	}
	if len(d.processes(t)) == 0 {
		t.Error("no process of a kept demo is seen, so none would be missed")
	}
	if out := sh(end[1]); !strings.Contains(out, "taken down") {
		t.Errorf("demo --end:\n%s", out)
	}
	d.gone(t)
}
