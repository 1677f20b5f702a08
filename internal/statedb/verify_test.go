package statedb

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A file with a flipped bit or a missing end is either read as it was written, or
// as it was one change before, which it says, or refused; it never says something else, and never brings the program down.
func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for i := range 400 {
		want[fmt.Sprintf("key%03d", i)] = []byte(fmt.Sprintf("value %d of some length, so that there are several pages", i))
	}
	db.b.NoSync = true // this test is not about the disk
	for k, v := range want {
		if err := db.Apply("a", map[string][]byte{k: []byte("earlier")}, nil); err != nil {
			t.Fatal(err)
		}
		if err := db.Apply("a", map[string][]byte{k: v}, []string{"no such key"}); err != nil {
			t.Fatal(err)
		}
	}
	seq, err := db.Sequence()
	if err != nil || seq < 800 {
		t.Fatalf("sequence %d, %v", seq, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := range 2 { // each bit of the two pages that say which change was the last
		for bit := range 64 * 8 {
			at := page*os.Getpagesize() + 16 + bit/8
			bad := append([]byte(nil), good...)
			bad[at] ^= 1 << (bit % 8)
			p := filepath.Join(dir, "bad.db")
			if err := os.WriteFile(p, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := Open(p)
			if err != nil {
				if !IsDamaged(err) {
					t.Fatalf("byte %d: %v", at, err)
				}
				continue
			}
			if !db.MayLack() {
				t.Fatalf("byte %d: nothing is said", at)
			}
			if got, err := db.Sequence(); err != nil || got != seq && got != seq-1 {
				t.Fatalf("byte %d: sequence %d of %d, %v", at, got, seq, err)
			}
			db.Close()
		}
	}
	rng := rand.New(rand.NewPCG(4, 2))
	refused, read := 0, 0
	for i := range 300 {
		bad := append([]byte(nil), good...)
		if i%3 == 0 {
			bad = bad[:rng.IntN(len(bad))]
		} else {
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		}
		p := filepath.Join(dir, fmt.Sprintf("bad%d.db", i))
		if err := os.WriteFile(p, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(p)
		if err != nil {
			if !IsDamaged(err) {
				t.Errorf("damage %d: %v", i, err)
			}
			refused++
			continue
		}
		got, err := db.Load("a")
		if err != nil {
			t.Fatal(err)
		}
		if len(bad) > 0 && !db.MayLack() {
			read++
			for k, v := range want {
				if string(got[k]) != string(v) {
					t.Fatalf("damage %d: %s is %q", i, k, got[k])
				}
			}
			if err := db.Apply("b", map[string][]byte{"x": []byte("y")}, nil); err != nil {
				t.Fatal(err)
			}
		}
		db.Close()
	}
	t.Logf("%d refused, %d read as they were", refused, read)
	if refused == 0 || read == 0 {
		t.Error("the damage was not of both kinds")
	}
}
