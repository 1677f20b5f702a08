package router

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/statedb"
)

func TestHostsFile(t *testing.T) {
	old := "127.0.0.1\tlocalhost\n172.17.0.2\tweb web.weft.local\n# a comment\n10.1.1.1\tother\n"
	got := hostsWith(old, "web", "weft.local", []netip.Addr{netip.MustParseAddr("10.32.0.1")})
	want := "10.32.0.1\tweb web.weft.local # weft\n127.0.0.1\tlocalhost\n# weft, while attached: 172.17.0.2\tweb web.weft.local\n# a comment\n10.1.1.1\tother\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again := hostsWith(got, "web", "weft.local", []netip.Addr{netip.MustParseAddr("10.32.0.1")}); again != want {
		t.Errorf("again\n%s", again)
	}
	if back := hostsWith(got, "web", "weft.local", nil); back != old {
		t.Errorf("detached, got\n%s\nwant\n%s", back, old)
	}
}

// Comments name nobody.
func TestHostsFileComments(t *testing.T) {
	old := "10.1.1.1\tdb # backend of web\n# the web server\n127.0.0.1 localhost #web web\n"
	got := hostsWith(old+"172.17.0.2\tweb # as web was\n", "web", "", []netip.Addr{netip.MustParseAddr("10.32.0.1")})
	if want := "10.32.0.1\tweb # weft\n" + old + "# weft, while attached: 172.17.0.2\tweb # as web was\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Whoever is root in a container makes its hosts file what he likes, at no cost: what is no file of usual size is left alone, at once.
func TestHostsFileThatIsNone(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.32.0.1")}
	for _, c := range []struct {
		what string
		at   func(path string) error
		want string // of the error
	}{
		{"as large as may be", func(path string) error { return os.Truncate(path, maxHosts) }, ""},
		{"larger", func(path string) error { return os.Truncate(path, maxHosts+1) }, "more than"},
		{"a directory", func(path string) error { os.Remove(path); return os.Mkdir(path, 0o755) }, "not a regular file"},
		{"a pipe", func(path string) error { os.Remove(path); return unix.Mkfifo(path, 0o644) }, "not a regular file"},
		{"a device without an end", func(path string) error { os.Remove(path); return os.Symlink("/dev/zero", path) }, "is a symbolic link"},
		{"a link to a file", func(path string) error {
			os.Rename(path, path+"2")
			return os.Symlink(path+"2", path)
		}, "is a symbolic link"},
	} {
		path := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(path, []byte("172.17.0.2\tweb\n127.0.0.1\tlocalhost\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := c.at(path); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		before, _ := os.Stat(path)
		done := make(chan error, 1)
		go func() { done <- rewriteHosts(path, "web", "", addrs) }()
		var err error
		select {
		case err = <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it waits", c.what)
		}
		if c.want != "" {
			after, _ := os.Stat(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || after.Size() != before.Size() {
				t.Errorf("%s: %v; %d bytes, and %d afterwards", c.what, err, before.Size(), after.Size())
			}
			continue
		}
		b, _ := os.ReadFile(path)
		if text := "10.32.0.1\tweb # weft\n" + hostsWas + "172.17.0.2\tweb\n127.0.0.1\tlocalhost\n"; err != nil || !strings.HasPrefix(string(b), text) {
			t.Errorf("%s: %.100q, %v", c.what, b, err)
		}
	}
}

// A file without an end is not read to its end.
func TestHostsFileIsReadToALimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, make([]byte, 2*maxHosts), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := openHosts(path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = hostsIn(f)
	if read, _ := f.Seek(0, io.SeekCurrent); err == nil || read > maxHosts+1 {
		t.Errorf("%d bytes are read, %v", read, err)
	}
}

// hostsModel is a file on a disk that may be full. Whoever reads it may do so after any of its steps.
type hostsModel struct {
	text string
	room int // bytes that the file may have
	read func(text string)
}

func (m *hostsModel) WriteAt(b []byte, off int64) (n int, err error) {
	if n = min(len(b), m.room-int(off)); n < len(b) {
		err = unix.ENOSPC
	}
	end := min(len(m.text), int(off)+n)
	m.text = m.text[:off] + string(b[:n]) + m.text[end:]
	if err == nil {
		m.read(m.text)
	}
	return n, err
}

func (m *hostsModel) Truncate(size int64) error {
	m.text = m.text[:size]
	m.read(m.text)
	return nil
}

// A hosts file is the one or the other at every moment, but for empty lines, and stays as it was where the disk is full.
func TestHostsFileIsNeverEmpty(t *testing.T) {
	engines := "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n"
	ours := hostsWith(engines, "web", "", []netip.Addr{netip.MustParseAddr("10.32.0.1")})
	for _, c := range []struct {
		old, text string
		room      int
		want      error
	}{
		{engines, ours, 1 << 20, nil},
		{ours, engines, 1 << 20, nil},
		{ours, engines, len(ours), nil},
		{engines, ours, len(engines) + 8, unix.ENOSPC},
	} {
		f := &hostsModel{text: c.old, room: c.room, read: func(text string) {
			if short := strings.TrimRight(text, "\n") + "\n"; short != engines && short != ours {
				t.Errorf("from %q to %q, somebody reads %q", c.old, c.text, text)
			}
		}}
		end := c.text
		if c.want != nil {
			end = c.old
		}
		if err := overwrite(f, c.old, c.text); !errors.Is(err, c.want) || f.text != end {
			t.Errorf("from %q to %q: %v, in the end %q", c.old, c.text, err, f.text)
		}
	}
}

// A hosts file is given back with the last address, whatever takes it and whether the engine can be asked or not.
func TestHostsFileIsGivenBack(t *testing.T) {
	h := newRealHost(t)
	c := dockerID("c1")
	h.engine.pids[c] = h.process()
	const old = "127.0.0.1\tlocalhost\n172.17.0.2\tc1\n"
	for what, end := range map[string]func() error{
		"detach": func() error {
			got, err := h.detach(t.Context(), c, nil)
			return errors.Join(err, warned(got.Warnings))
		},
		"reset": func() error {
			_, warn, errs := h.detachAll(t.Context())
			return errors.Join(append(errs, warned(warn))...)
		},
		"reset without a router": func() error {
			path := filepath.Join(t.TempDir(), "state.db")
			stored, err := h.db.Load(bucketAttach)
			if err != nil {
				return err
			}
			db, err := statedb.Open(path)
			if err != nil {
				return err
			}
			if err := errors.Join(db.Apply(bucketAttach, stored, nil), db.Close()); err != nil {
				return err
			}
			return errors.Join(giveHostsBack(path)...)
		},
	} {
		for _, gone := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "hosts")
			if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
				t.Fatal(err)
			}
			h.engine.hosts = map[string]string{c: path}
			if got, err := h.attach(t.Context(), attachRequest{Container: c, Addrs: []string{"ip:10.32.0.1/12"}, RewriteHosts: true}); err != nil || len(got.Warnings) > 0 {
				t.Fatal(got, err)
			}
			if b, _ := os.ReadFile(path); !strings.HasPrefix(string(b), "10.32.0.1\tc1 # weft\n") {
				t.Fatalf("attached, it is %q", b)
			}
			if gone {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			h.engine.away = true
			if err := end(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			h.engine.away = false
			if b, _ := os.ReadFile(path); string(b) != old && !gone {
				t.Errorf("%s: %q", what, b)
			}
		}
	}
	none := filepath.Join(t.TempDir(), "state.db")
	if errs := giveHostsBack(none); errs != nil {
		t.Error(errs)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a state file is made")
	}
}

func warned(warn []string) error {
	if len(warn) == 0 {
		return nil
	}
	return errors.New(strings.Join(warn, "; "))
}
