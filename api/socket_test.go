package api

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketMode(t *testing.T) {
	_, socket := start(t, Options{})
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if e, err := os.ReadDir(filepath.Dir(socket)); err != nil || len(e) != 1 {
		t.Errorf("beside the socket: %v, %v", e, err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "weft.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // as after kill -9: the file is there, nobody listens
	start(t, Options{Socket: socket, Routes: routes()})
	var text string
	if err := NewClient(socket).Do(t.Context(), "GET", "/both", nil, &text); err != nil {
		t.Error(err)
	}
}

func TestLiveSocketIsRefused(t *testing.T) {
	_, socket := start(t, Options{Routes: routes()})
	s, err := New(Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), "running there already") || e.Hint() == "" {
		t.Errorf("Run: %v", err)
	}
	var text string
	if err := NewClient(socket).Do(t.Context(), "GET", "/both", nil, &text); err != nil {
		t.Errorf("the first server is gone: %v", err)
	}
}

func TestSocketPathRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file: "not a socket",
		filepath.Join(dir, strings.Repeat("x", 120)): "too long",
		filepath.Join(dir, "none", "s"):              "no such file",
	} {
		s, err := New(Options{Socket: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was overwritten")
	}
}

func TestClientWithoutRouter(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "weft.sock")
	err := NewClient(socket).Do(t.Context(), "GET", "/report", nil, nil)
	if e, ok := errors.AsType[*Error](err); !errors.Is(err, ErrNotRunning) || !ok || !strings.Contains(e.Hint(), "weft launch") {
		t.Errorf("no socket: %v", err)
	}
	l, lerr := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if lerr != nil {
		t.Fatal(lerr)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := NewClient(socket).Do(t.Context(), "GET", "/report", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stale socket: %v", err)
	}
}

func TestClientOfDyingRouter(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	err = NewClient(l.Addr().String()).Do(t.Context(), "GET", "/report", nil, nil)
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), "hung up") {
		t.Errorf("got %v", err)
	}
}

func TestProcessWait(t *testing.T) {
	_, socket := start(t, Options{}) // in this process, which does not end
	p, err := NewClient(socket).Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p.fd < 0 {
		t.Fatal("this process was not found")
	}
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait for a live process: %v", err)
	}

	child := exec.Command("sh", "-c", "read x")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	q, err := openProcess(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	in.Close()
	if err := q.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	child.Wait()
}
