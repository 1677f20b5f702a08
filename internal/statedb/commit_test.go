package statedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/netlab"
)

// writes is how many changes the child process makes.
const writes = 4

// TestMain is also the child process whose syncs fail: it says what each change came to.
func TestMain(m *testing.M) {
	path := os.Getenv("STATEDB_CHILD")
	if path == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts the calls of each thread apart
	db, err := Open(path)
	if err != nil {
		fmt.Println("not opened:", strings.Contains(err.Error(), "sync the last change"))
		os.Exit(0)
	}
	lost := make(chan error, 1)
	go func() { lost <- db.Watch(context.Background()) }()
	for i := range writes {
		err := db.Apply("a", map[string][]byte{fmt.Sprintf("k%d", i): []byte("v")}, nil)
		switch {
		case err == nil:
			fmt.Println("made")
		case errors.Is(err, ErrUncertain):
			fmt.Println("uncertain")
		default:
			fmt.Println("failed")
		}
		if i == writes-1 && errors.Is(err, ErrUncertain) {
			fmt.Println("given up:", errors.Is(<-lost, syscall.EIO))
		}
	}
}

// What a change came to holds when the file is read again, whichever sync fails.
func TestFailingSyncs(t *testing.T) {
	netlab.Require(t, "strace")
	const made, failed, uncertain, given = "made\n", "failed\n", "uncertain\n", "given up: true\n"
	for _, c := range []struct{ name, inject, want string }{
		{"none", "fdatasync:error=EIO:when=100", made + made + made + made},
		{"data", "fdatasync:error=EIO:when=3", made + failed + made + made},
		{"meta", "fdatasync:error=EIO:when=4", made + made + made + made},
		{"meta, each time", "fdatasync:error=EIO:when=2+2", made + made + made + made},
		{"all", "fdatasync:error=EIO", failed + failed + failed + failed},
		// The third fsync is that of a meta page that is written again.
		{"meta, and again", "fdatasync:error=EIO:when=4 fsync:error=EIO:when=3", made + uncertain + uncertain + uncertain + given},
		{"data, and nothing is written again", "fdatasync:error=EIO:when=3 fsync:error=EIO:when=3+", made + failed + made + made},
		{"meta, and it cannot be written again", "fdatasync:error=EIO:when=2 pwrite64:error=EIO:when=5", uncertain + uncertain + uncertain + uncertain + given},
		{"at the opening", "fsync:error=EIO:when=1", "not opened: true\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			db, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := db.Apply("a", map[string][]byte{"before": []byte("v")}, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			args := []string{"-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,pwrite64"}
			for _, i := range strings.Fields(c.inject) {
				args = append(args, "-e", "inject="+i)
			}
			child := exec.CommandContext(t.Context(), "strace", append(args, os.Args[0])...)
			child.Env = append(os.Environ(), "STATEDB_CHILD="+path)
			var stderr bytes.Buffer
			child.Stderr = &stderr
			out, err := child.Output()
			if err != nil || string(out) != c.want {
				t.Fatalf("%v, it says\n%sand not\n%s%s", err, out, c.want, stderr.String())
			}
			if db, err = Open(path); err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			got, err := db.Load("a")
			if err != nil {
				t.Fatal(err)
			}
			if got["before"] == nil {
				t.Error("what was there before is lost")
			}
			first := true
			for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
				there := got[fmt.Sprintf("k%d", i)] != nil
				switch line + "\n" {
				case made:
					if !there {
						t.Errorf("change %d was made and is not there", i)
					}
				case uncertain: // the first one may be there or not
					if there && !first {
						t.Errorf("change %d was made after the file was given up", i)
					}
					first = false
				default:
					if there {
						t.Errorf("change %d has failed and is there", i)
					}
				}
			}
			if err := db.Apply("a", map[string][]byte{"after": []byte("v")}, nil); err != nil {
				t.Errorf("it takes no change any more: %v", err)
			}
		})
	}
}

// A file that is opened is written once, as it is: what is seen in it may not be on disk.
func TestAnOpeningWritesWhatItFinds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	for range 2 {
		db, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Apply("a", map[string][]byte{"x": []byte("1")}, nil); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
		if db, err = Open(path); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().After(then.Add(time.Minute)) {
			t.Error("nothing was written")
		}
		if !bytes.Equal(before, after) {
			t.Error("the file is another")
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
