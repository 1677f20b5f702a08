package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"weft/api"
	"weft/mesh"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata expect")

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// Scripts run in parallel, each with a run directory of its own.
			e.Setenv("WEFT_RUN_DIR", filepath.Join(e.WorkDir, "run"))
			e.Setenv("WEFT_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("WEFT_HTTP_ADDR", "")
			e.Setenv("WEFT_METRICS_ADDR", "")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else every program takes a second to end under -race
			s := mesh.NewSecret()
			e.Setenv("MESH", s.MeshID().String()) // that of the fake router, and of TOKEN
			e.Setenv("TOKEN", mesh.Token{Secret: s, Endpoints: []string{"host1:6783", "192.0.2.1:7000"}}.Encode())
			e.Setenv("BARETOKEN", mesh.Token{Secret: s}.Encode())
			e.Setenv("OTHERTOKEN", mesh.Token{Secret: mesh.NewSecret(), Endpoints: []string{"host9"}}.Encode())
			e.Defer(func() { endRouter(e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus, "await": scriptAwait, "gone": scriptGone, "mode": scriptMode,
			"asked": scriptAsked, "told": scriptTold, "hidden": scriptHidden, "hangup": scriptHangup,
		},
		UpdateScripts: *update,
	})
}

// scriptStatus runs a program that must end with an exit code: `status 2 weft`.
func scriptStatus(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// scriptAwait waits until a file exists: `await run/pid`.
func scriptAwait(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, args[0]+" to appear", func() bool {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	})
}

// scriptGone waits until the process whose number a file holds has ended.
func scriptGone(ts *testscript.TestScript, _ bool, args []string) {
	pid := strings.TrimSpace(ts.ReadFile(args[0]))
	poll(ts, "process "+pid+" to end", func() bool {
		// An orphan that nobody reaps stays as a zombie.
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

// scriptHangup sends SIGHUP, which kill does not know: `hangup run/pid`.
func scriptHangup(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGHUP))
}

// scriptMode checks the permissions of a file: `mode 600 run/router.log`.
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// scriptAsked checks what the router was last asked.
func scriptAsked(ts *testscript.TestScript, _ bool, args []string) {
	if got := ts.ReadFile("run/asked"); got != args[0] {
		ts.Fatalf("asked %s, want %s", got, args[0])
	}
}

// scriptTold checks an option that the router was launched with: `told Port 6783`.
func scriptTold(ts *testscript.TestScript, _ bool, args []string) {
	var o map[string]any
	c := api.NewClient(socketPath(ts.Getenv("WEFT_RUN_DIR")))
	ts.Check(c.Do(context.Background(), "GET", "/options", nil, &o))
	if got := fmt.Sprint(o[args[0]]); got != args[1] {
		ts.Fatalf("%s is %q, want %q", args[0], got, args[1])
	}
}

// scriptHidden checks that the running router shows a text neither in its
// arguments nor in its environment nor in any file that it wrote.
func scriptHidden(ts *testscript.TestScript, _ bool, args []string) {
	proc := "/proc/" + strings.TrimSpace(ts.ReadFile("run/pid"))
	files := []string{proc + "/cmdline", proc + "/environ"}
	ts.Check(filepath.WalkDir(ts.MkAbs("run"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		if f == proc+"/environ" {
			if !strings.Contains(string(b), "WEFT_RUN_DIR=") {
				ts.Fatalf("%s is not that of the router", f)
			}
			// The script's own variables are in there too.
			b = []byte(strings.ReplaceAll(string(b), "\x00TOKEN=", "\x00"))
			b = []byte(strings.Replace(string(b), "\x00"+ts.Getenv("TOKEN")+"\x00", "\x00", 1))
		}
		if strings.Contains(string(b), args[0]) {
			ts.Fatalf("%s shows the secret", f)
		}
	}
}

func poll(ts *testscript.TestScript, what string, done func() bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(15 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("waited 15 s for %s", what)
		}
	}
}

// endRouter kills a router that a failed script has left.
func endRouter(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "run", "pid"))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && strings.Contains(string(env), dir) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}
