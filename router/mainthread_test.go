package router

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"weft/host"
)

const mainThreadEnds = "WEFT_TEST_MAIN_THREAD_ENDS"

// init is all of the process that TestMainThreadEnds starts: its main thread ends, others wait for the end of its input.
func init() {
	if os.Getenv(mainThreadEnds) == "" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

// A process lives, and its namespace with it, when its main thread has ended and others go on; /proc/PID/ns has nothing then.
func TestMainThreadEnds(t *testing.T) {
	needRoot(t)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), mainThreadEnds+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Wait() }()
	defer in.Close()
	a := &attachment{NetNS: pidNetNS(c.Process.Pid)}
	until(t, "the main thread has ended", func() bool {
		_, err := host.NetNSID(a.NetNS)
		return errors.Is(err, fs.ErrNotExist)
	})
	threads, err := filepath.Glob(filepath.Dir(filepath.Dir(a.NetNS)) + "/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range threads {
		if a.NSID, err = host.NetNSID(path); err == nil {
			break
		}
	}
	if !sameNamespace(a) {
		t.Errorf("it is taken for dead; threads %v", threads)
	}
	other := *a
	if other.NSID, err = host.NetNSID("/proc/self/ns/net"); err != nil || sameNamespace(&other) {
		t.Errorf("it is taken for another (%v)", err)
	}
	in.Close()
	until(t, "its end is seen", func() bool { return !sameNamespace(a) })
}
