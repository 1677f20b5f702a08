package router

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/statedb"
)

// A mark proves the state that it was written for, and no other.
func TestMark(t *testing.T) {
	state, run := t.TempDir(), t.TempDir()
	path := filepath.Join(state, "state.db")
	open := func() (*markedDB, string) {
		t.Helper()
		db, _, err := openState(path)
		if err != nil {
			t.Fatal(err)
		}
		m, why, err := openMarked(db, run)
		if err != nil {
			t.Fatal(err)
		}
		return m, why
	}
	change := func(m *markedDB, v string) {
		t.Helper()
		if err := m.Apply("x", map[string][]byte{"k": []byte(v)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, why, text string) {
		t.Helper()
		if text == "" && why != "" || !strings.Contains(why, text) {
			t.Errorf("%s: %q, want %q", what, why, text)
		}
	}
	mark := filepath.Join(run, markFile)

	m, why := open()
	want("a new state", why, "new")
	change(m, "1")
	m.Close()
	m, why = open()
	want("nobody has vouched", why, "rebooted")
	m.vouch()
	m.Close()
	m, why = open()
	want("it may not say what containers have", why, "rebooted")
	m.vouch()
	m.settle()
	change(m, "2")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	m, why = open()
	want("the state of a moment ago", why, "")
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark of the last start vouches on")
	}
	m.vouch()
	change(m, "3")
	m.Close()
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	m, why = open()
	want("an older copy", why, "older copy")
	m.vouch()
	m.settle()
	m.Close()
	b, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	if err := os.WriteFile(mark, []byte(f[0]+" "+f[1]+"  0000000001 "+f[3]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, why = open()
	want("long ago", why, "not running for a while")
	m.vouch()
	m.Close()
	if err := os.WriteFile(mark, []byte(strings.Join(f[:3], " ")+" another-boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, why = open()
	want("a run directory that outlives a reboot", why, "rebooted")
	m.vouch()
	m.Close()
	if err := os.WriteFile(mark, []byte("0123 "+f[1]+" "+f[2]+" "+f[3]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, why = open()
	want("another file's mark", why, "another state file")
	m.vouch()
	m.Close()

	// Of a damaged first page, nobody can tell whether it had the last change.
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	b[os.Getpagesize()+20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, why = open()
		want("a damaged first page", why, mayLack)
		m.Close()
	}

	// A damaged file is set aside.
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)/3], 0o600); err != nil {
		t.Fatal(err)
	}
	db, said, err := openState(path)
	if err != nil || !strings.Contains(said, "was damaged") {
		t.Fatalf("%q, %v", said, err)
	}
	defer db.Close()
	if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	var _ *statedb.DB = db
}

// A sleep is noticed once, whoever vouches meanwhile; a host that is awake has not slept, proven or not.
func TestSleepIsNoticedOnce(t *testing.T) {
	f := newFounder(t)
	f.member.Targets = []string{"host2"} // there is somebody
	r := f.start()
	clock := sinceBoot()
	r.db.now = func() time.Duration { return clock }
	for range 3 {
		clock += markAge - time.Second
		r.db.touch()
	}
	if r.db.on || r.db.slept() {
		t.Error("awake and unproven, it has slept")
	}
	clock += 2 * markAge
	r.db.vouch() // for what was heard before
	if !r.db.slept() || r.db.slept() {
		t.Error("the sleep is not noticed, or twice")
	}
	r.alone()
	clock += 2 * markAge
	r.alone() // knowing of the sleep
	if r.isUnproven() || r.db.slept() {
		t.Errorf("the operator's word does not count: unproven by %q", r.unprovenBy)
	}
}

func TestParseBeginning(t *testing.T) {
	for in, want := range map[string]beginning{
		"": {}, "consensus": {}, "consensus=3": {first: 3}, "observer": {observer: true}, "seed=a,b": {first: 2, seeds: []string{"a", "b"}},
	} {
		if got, err := parseBeginning(in); err != nil || got.first != want.first || got.observer != want.observer || len(got.seeds) != len(want.seeds) {
			t.Errorf("%q is %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"consensus=", "consensus=x", "consensus=33", "seed", "seed=", "seed=a,a", "Observer", "observer=1"} {
		if b, err := parseBeginning(in); err == nil {
			t.Errorf("%q is %+v", in, b)
		}
	}
}
