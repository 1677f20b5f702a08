package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// crash is what a child of the tests does that is killed while it has a lab:
// it makes one, says what is in it, and waits.
func crash() {
	l, err := New(Options{Dir: os.Getenv("NETLAB_CRASH")})
	if err == nil {
		err = fillAndTell(l)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if os.Getenv("NETLAB_KEEP") != "" {
		if _, err := l.Keep(); err != nil {
			fmt.Println("error", err)
		}
		for _, h := range l.Hosts() {
			fmt.Println("enter", h.Enter())
		}
		fmt.Println("done")
		return
	}
	fmt.Println("done")
	select {}
}

func fillAndTell(l *Lab) error {
	fmt.Println("id", l.ID())
	a, err1 := l.Host("a", HostOptions{})
	b, err2 := l.Host("b", HostOptions{})
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	w, err := a.Workload("w")
	if err != nil {
		return err
	}
	if err := l.Impair(a, b, Impairment{Loss: 0.01}); err != nil {
		return err
	}
	if _, err := b.Capture(CaptureOptions{}); err != nil {
		return err
	}
	// The one in the background has lost the environment's mark, and its parent.
	if _, err := a.Start("one", "sh", "-c", "env -i setsid sleep 4242 & exec sleep 4242"); err != nil {
		return err
	}
	_, err = w.Start("two", "sleep", "4242")
	return err
}

// inChild runs crash in a child and returns what it told.
func inChild(t *testing.T, dir string, env ...string) (id string, enter []string, child *exec.Cmd) {
	t.Helper()
	child = exec.Command("/proc/self/exe")
	child.Env = append(append(os.Environ(), "NETLAB_CRASH="+dir), env...)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
		// Whatever went wrong, nothing stays.
		if err := errors.Join(Sweep(), End(id)); err != nil && !strings.Contains(err.Error(), "no lab of this ID") {
			t.Error(err)
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "id":
			id = rest
		case "enter":
			enter = append(enter, rest)
		case "error":
			t.Fatal(rest)
		case "done":
			return id, enter, child
		}
	}
	t.Fatal("the child ended early")
	return
}

func labProcesses(t *testing.T, id string) int {
	t.Helper()
	found, err := running(record{ID: id}.mark(""))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// checkNothingLeft looks for traces of a lab on the machine.
func checkNothingLeft(t *testing.T, id, dir string) {
	t.Helper()
	if n := labProcesses(t, id); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("files are left: %v, %v", entries, err)
	}
	if _, err := os.Stat((record{ID: id}).path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), id) {
		t.Errorf("mounts are left: %v", err)
	}
	if dirs := cgroupDirs("/weft-netlab-" + id); len(dirs) != 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(string(link.Attrs().HardwareAddr), "\x02wef") {
			t.Errorf("the link %s is left", link.Attrs().Name)
		}
	}
}

func TestSweepAfterCrash(t *testing.T) {
	Require(t, "root")
	dir := t.TempDir()
	id, _, child := inChild(t, dir)
	waitFor(t, "three processes", func() bool { return labProcesses(t, id) == 3 })
	// A living lab is not swept.
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := labProcesses(t, id); n != 3 {
		t.Errorf("after a sweep, the living lab has %d processes, want 3", n)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	if n := labProcesses(t, id); n != 3 {
		t.Errorf("the crashed lab has %d processes, want 3", n)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, id, dir)
}

func TestKeepAndEnd(t *testing.T) {
	Require(t, "root", "nsenter", "busybox")
	dir := t.TempDir()
	id, enter, child := inChild(t, dir, "NETLAB_KEEP=1")
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if ids, err := Kept(); err != nil || !strings.Contains(strings.Join(ids, " "), id) {
		t.Errorf("kept labs: %v, %v", ids, err)
	}
	out, err := exec.Command("sh", "-c", enter[0]+" busybox ping -c 1 -W 2 b").CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", enter[0], err, out)
	}
	if err := End(id); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, id, dir)
	if End(id) == nil {
		t.Error("a lab ended twice")
	}
}

func TestParseRecord(t *testing.T) {
	const id = "0123456789ab"
	good := `{"id":"` + id + `","dir":"/tmp/weft-netlab-` + id + `"}`
	for text, want := range map[string]bool{
		good: true,
		strings.Replace(good, id, "0123456789ac", 1):                 false,
		`{"id":"` + id + `","dir":"/home"}`:                          false,
		`{"id":"` + id + `","dir":"weft-netlab-` + id + `"}`:         false,
		`{"id":"` + id + `","dir":"/tmp/weft-netlab-` + id + `/.."}`: false,
		`{`: false,
	} {
		var r record
		if err := parseRecord([]byte(text), id, &r); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1234 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20")
	f.Add("1 (x")
	f.Fuzz(func(t *testing.T, s string) {
		if p, alive := parseStat(1, s); alive && p.pid != 1 {
			t.Errorf("%q is alive as %+v", s, p)
		}
	})
}

// A process whose first thread has ended may have others that still hold its sockets.
func TestZombiesWithThreads(t *testing.T) {
	for stat, want := range map[string]bool{
		"7 (weft) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 5 0 900 0 0": true,
		"7 (weft) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 5 0 900 0 0": true,
		"7 (weft) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 900 0 0": false,
		"7 (weft) X 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 0 0 900 0 0": false,
	} {
		if p, alive := parseStat(7, stat); alive != want || alive && p.start != 900 {
			t.Errorf("%s: %v, %+v", stat, alive, p)
		}
	}
}
