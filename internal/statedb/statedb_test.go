package statedb

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatWasAppliedIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Apply("a", map[string][]byte{"x": []byte("1"), "y": []byte("2")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Apply("a", map[string][]byte{"z": []byte("3")}, []string{"x", "never"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	got, err := db.Load("a")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || string(got["y"]) != "2" || string(got["z"]) != "3" {
		t.Fatalf("got %q", got)
	}
	if got, err := db.Load("never written"); err != nil || len(got) != 0 {
		t.Fatalf("unknown bucket: %v, %v", got, err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", fi.Mode())
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
}

func TestALooseFileModeIsTightened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	db, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", fi.Mode())
	}
}
