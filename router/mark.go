package router

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/statedb"
)

// The mark is a file in the run directory, which does not survive a reboot. It
// says up to which change the state file has been written, and when this host was
// last running. At a start, a state file that has all of that is the latest: nobody
// has put an old copy in its place. In all other cases this host may have
// granted and given out what it has forgotten, or may have been taken for dead.
//
// Content: the state file's own random name, the number of its last change, and
// the seconds since boot, as text of a fixed width.
const (
	markFile  = "mark"
	keyName   = "name" // of the state file, in the bucket "router"
	markEvery = 5 * time.Second
	// markAge is how old a mark may be. It is well below deadAfter: a host that
	// was away for longer may have lost its space meanwhile.
	markAge = 30 * time.Second
)

// markedDB is the state file, whose changes move the mark.
type markedDB struct {
	*statedb.DB
	path string
	name string

	mu  sync.Mutex // guards on and f
	on  bool       // the state is known to be the latest
	f   *os.File
	err error
}

// openMarked looks at the mark, and says why the state can not be proven to be
// the latest: "" if it can.
func openMarked(db *statedb.DB, runDir string) (*markedDB, string, error) {
	m := &markedDB{DB: db, path: filepath.Join(runDir, markFile)}
	kept, err := db.Load(bucketRouter)
	if err != nil {
		return nil, "", err
	}
	m.name = string(kept[keyName])
	why := "the state file is new"
	if m.name != "" {
		why = m.compare()
	} else {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, "", fmt.Errorf("name the state file: %w", err)
		}
		m.name = hex.EncodeToString(b[:])
		if err := db.Apply(bucketRouter, map[string][]byte{keyName: []byte(m.name)}, nil); err != nil {
			return nil, "", unwritten(err)
		}
	}
	// From here on the state may change without the mark: an old one must not vouch for it.
	if err := os.Remove(m.path); err != nil && !os.IsNotExist(err) {
		return nil, "", fmt.Errorf("remove mark: %w", err)
	}
	return m, why, nil
}

func (m *markedDB) compare() string {
	b, err := os.ReadFile(m.path)
	switch {
	case os.IsNotExist(err):
		return "the host was rebooted since"
	case err != nil:
		return err.Error()
	}
	f := strings.Fields(string(b))
	if len(f) != 3 || f[0] != m.name {
		return "the mark in the run directory is of another state file"
	}
	seq, err1 := strconv.ParseUint(f[1], 10, 64)
	at, err2 := strconv.ParseInt(f[2], 10, 64)
	now, err3 := m.Sequence()
	switch age := sinceBoot() - time.Duration(at)*time.Second; {
	case err1 != nil || err2 != nil || err3 != nil:
		return "the mark in the run directory cannot be read"
	case now < seq:
		return "the state file is an older copy: it lacks changes that were made to it"
	case age < 0 || age > markAge:
		return "the router was not running for a while"
	}
	return ""
}

func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // never fails with this clock; if it did, no mark would count
	}
	return time.Duration(t.Nano())
}

// Apply changes the state, then the mark.
func (m *markedDB) Apply(bucket string, put map[string][]byte, del []string) error {
	if err := m.DB.Apply(bucket, put, del); err != nil {
		return unwritten(err)
	}
	m.touch()
	return nil
}

// unwritten says what to do about a disk that takes nothing more.
func unwritten(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Error{Err: err, Code: 507, Tip: "make room there and try again: nothing is given out that cannot be written down"}
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EIO):
		return &Error{Err: err, Code: 507, Tip: "the kernel's log (`dmesg`) says what ails the disk: nothing is given out that cannot be written down"}
	}
	return err
}

// vouch begins to write the mark: this state is the latest from here on.
func (m *markedDB) vouch() {
	m.mu.Lock()
	m.on = true
	m.mu.Unlock()
	m.touch()
}

// touch writes the mark. If that fails, the next start has no proof, which is
// safe; the error is told by Close.
func (m *markedDB) touch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on {
		return
	}
	seq, err := m.Sequence()
	if err == nil && m.f == nil {
		m.f, err = os.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err == nil {
		_, err = m.f.WriteAt(fmt.Appendf(nil, "%s %020d %020d\n", m.name, seq, int64(sinceBoot()/time.Second)), 0)
	}
	if err != nil {
		m.err = fmt.Errorf("write mark: %w", err)
		_ = os.Remove(m.path)
	}
}

// Close closes both.
func (m *markedDB) Close() error {
	m.mu.Lock()
	m.on = false
	err := m.err
	if m.f != nil {
		_ = m.f.Close()
		m.f = nil
	}
	m.mu.Unlock()
	if err != nil && !os.IsNotExist(err) {
		return joinClose(err, m.DB)
	}
	return m.DB.Close()
}

func joinClose(err error, db *statedb.DB) error {
	if cerr := db.Close(); cerr != nil {
		return fmt.Errorf("%w; %w", err, cerr)
	}
	return err
}

// openState opens the state file. One that is damaged is set aside, and the host
// starts from nothing: the others have its log. said is what to tell the operator.
func openState(path string) (db *statedb.DB, said string, err error) {
	db, err = statedb.Open(path)
	if err == nil || !statedb.IsDamaged(err) {
		return db, "", err
	}
	aside := path + ".damaged-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if rerr := os.Rename(path, aside); rerr != nil && !os.IsNotExist(rerr) {
		return nil, "", fmt.Errorf("%w; set it aside: %w", err, rerr)
	}
	said = fmt.Sprintf("the state file was damaged (%v) and is set aside as %s: this host learns from the others what it owns, and its containers keep what they have", err, filepath.Base(aside))
	if db, err = statedb.Open(path); err != nil {
		return nil, said, err
	}
	return db, said, nil
}

// checkBeginning refuses what --ipalloc-init cannot mean here.
func (r *Router) checkBeginning() error {
	b := r.beginning
	if r.member.Founded && b.observer {
		return &Error{Msg: "an observer cannot found a mesh: nobody would own its addresses", Code: 400,
			Tip: "name the hosts to join; or launch this one without --ipalloc-init observer"}
	}
	if r.damaged != "" && r.member.Founded && !r.fresh {
		return &Error{Msg: r.damaged, Code: 409, Tip: "launch it with another host of its mesh, which knows what this one has forgotten: weft launch HOST"}
	}
	return nil
}

var errUnproven = &Error{Msg: "this host's state may not be the latest, and no other host of the mesh has told it what it may have forgotten", Code: 503,
	Tip: "bring another host of the mesh into reach; or, if this host's state is certain to be the latest: weft prime --alone"}

// judgeState decides whether this host may give out addresses from the start.
func (r *Router) judgeState() {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.mesh.State()
	others := false
	for _, h := range st.Hosts {
		others = others || !h.Self
	}
	switch {
	case r.unprovenBy == "":
	case r.fresh: // nobody has ever heard of this identity
		r.unprovenBy = ""
	case !others && !st.Founding.IsZero() && st.Founding.Founder == r.id.ID() && len(r.member.Targets) == 0 && r.damaged == "":
		r.unprovenBy = "" // a mesh of one host: nobody could know better
	}
	if r.unproven = r.unprovenBy != ""; !r.unproven {
		r.db.vouch()
		return
	}
	r.log.Warn("this host's state may not be the latest: it gives out nothing before it has heard from another host", "why", r.unprovenBy)
	if r.damaged != "" {
		r.log.Error(r.damaged)
	}
}

func (r *Router) isUnproven() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unproven
}

// prove says that the state is the latest, as far as anybody in reach knows.
func (r *Router) prove(how string) {
	r.mu.Lock()
	was := r.unproven
	r.unproven = false
	if r.alloc != nil {
		r.alloc.Suspend(false)
	}
	r.mu.Unlock()
	if !was {
		return
	}
	r.db.vouch()
	r.log.Info("this host's state is the latest", "how", how)
	r.rewire.Store(true)
	r.Poke()
}

// proveState waits until another host has told what it knows of this one, and
// then keeps the mark young.
func (r *Router) proveState(ctx context.Context) error {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		again := r.passes.next()
		if r.isUnproven() && r.mesh.State().Heard {
			r.prove("another host was heard")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-tick.C:
			r.db.touch()
		}
	}
}

// alone is the operator's word that the state is the latest.
func (r *Router) alone() { r.prove("the operator says so") }
