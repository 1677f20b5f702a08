package peer

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	if _, err := readProcess(dir); !os.IsNotExist(err) {
		t.Errorf("no pid file: %v", err)
	}
	cmd := exec.Command("cat") // reads until its input is closed
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	st, err := statOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := process{cmd.Process.Pid, st.start}
	if err := p.write(dir); err != nil {
		t.Fatal(err)
	}
	if back, err := readProcess(dir); err != nil || back != p {
		t.Errorf("read back %v, %v", back, err)
	}
	if !p.alive() || (process{p.pid, p.start + 1}).alive() {
		t.Error("alive must tell a process from another with its pid")
	}
	// Another one's pid is left alone.
	if err := (process{p.pid, p.start + 1}).stop(t.Context()); err != nil || !p.alive() {
		t.Errorf("stop of an old pid: %v", err)
	}
	if err := p.stop(t.Context()); err != nil || p.alive() {
		t.Errorf("stop: %v, alive %v", err, p.alive())
	}
	// It is a zombie now, since nobody waited.
	if err := cmd.Wait(); err == nil {
		t.Error("cat ended without a signal")
	}
}

func TestParseStat(t *testing.T) {
	line := "4711 (a) b) (c\n) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2 3"
	st, err := parseStat([]byte(line))
	if err != nil || st != (stat{'S', 3, 987654}) {
		t.Errorf("%+v, %v", st, err)
	}
}

func FuzzParseStat(f *testing.F) {
	own, _ := os.ReadFile("/proc/self/stat")
	f.Add(own)
	f.Add([]byte(") S"))
	f.Add([]byte("\x00 0 0 0 0 0 5 0 4 4 3 1 4 1 1 0 0 0 0 0 21434 159 0 0 0 17 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && st.state == 0 {
			t.Error("no state")
		}
	})
}

func FuzzParseProcess(f *testing.F) {
	f.Add([]byte("4711 987654\n"))
	f.Add([]byte("-1 0"))
	f.Add([]byte("1 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProcess(b)
		if err != nil {
			return
		}
		if p.pid <= 1 {
			t.Errorf("pid %d must never be signalled", p.pid)
		}
		if back, err := parseProcess(fmt.Appendf(nil, "%d %d\n", p.pid, p.start)); err != nil || back != p {
			t.Errorf("%v becomes %v, %v", p, back, err)
		}
	})
}

func TestDeviceEnvHasNoSecrets(t *testing.T) {
	t.Setenv("WEFT_PASSWORD", "hunter2")
	t.Setenv("WEFT_TOKEN", "weft1-secret")
	t.Setenv("WEFT_LOG_LEVEL", "debug")
	env := strings.Join(deviceEnv(), "\n")
	if strings.Contains(env, "hunter2") || strings.Contains(env, "weft1-") || !strings.Contains(env, "WEFT_LOG_LEVEL=debug") {
		t.Errorf("environment:\n%s", env)
	}
}

func TestOpenLogSetsLargeAside(t *testing.T) {
	path := logPath(t.TempDir())
	if err := os.WriteFile(path, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != 0 || st.Mode().Perm() != 0o600 {
		t.Errorf("new log: %v, %v", st, err)
	}
	if st, err := os.Stat(path + ".old"); err != nil || st.Size() != maxLog+1 {
		t.Errorf("old log: %v, %v", st, err)
	}
}

func TestWireGuardLog(t *testing.T) {
	var out bytes.Buffer
	log := wireguardLog(slog.New(slog.NewTextHandler(&out, nil)))
	log.Verbosef("%s", "chatter")
	log.Errorf("send to %s", "a")
	log.Errorf("send to %s", "b")
	if s := out.String(); strings.Contains(s, "chatter") || strings.Count(s, "level=WARN") != 1 || !strings.Contains(s, "send to a") {
		t.Errorf("logged:\n%s", s)
	}
	l := &limiter{last: make(map[string]seen)}
	for i, want := range []bool{true, false, false, true, false} {
		left, ok := l.allow(epoch.Add(time.Duration(i)*quiet/3+time.Millisecond), "x")
		if ok != want || ok && i == 3 && left != 2 {
			t.Errorf("line %d: %v, %d left out", i, ok, left)
		}
	}
}

func TestParseDatapath(t *testing.T) {
	for in, want := range map[string]Datapath{"": Auto, "auto": Auto, "kernel": Kernel, "userspace": Userspace} {
		if got, err := ParseDatapath(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := ParseDatapath("fast"); err == nil {
		t.Error("fast is no datapath")
	}
}
