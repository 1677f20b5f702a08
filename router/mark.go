package router

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/statedb"
	"weft/mesh"
)

// The mark is a file in the run directory, which does not survive a reboot. It
// says up to which change the state file has been written, and when this host was
// last running. At a start, a state file that has all of that is the latest: nobody
// has put an old copy in its place. In all other cases this host may have
// granted and given out what it has forgotten, or may have been taken for dead.
//
// Content: the state file's own random name, the number of its last change, the
// seconds since boot, and which boot that was, as text of a fixed width.
const (
	markFile  = "mark"
	keyName   = "name"  // of the state file, in the bucket "router"
	keyDoubt  = "doubt" // what contradicts that the state is the latest, until somebody vouches for it
	markEvery = 5 * time.Second
	// markAge is how old a mark may be. It is well below deadAfter: a host that
	// was away for longer may have lost its space meanwhile.
	markAge = 30 * time.Second
	// dialIn is how long a host that knows no other waits after a reboot for one to
	// meet it: its state may be from before the others came. They dial every 5 s.
	dialIn = 10 * time.Second
)

// Why a state cannot be proven to be the latest, where nothing contradicts that it is.
const (
	stateNew  = "the state file is new"
	wasBooted = "the host was rebooted since"
	wasAway   = "the router was not running for a while"
	wasAsleep = "the router did not run for a while, as when a host is suspended"
)

// mayLack contradicts: a page of the file is damaged.
const mayLack = "a page of the state file was damaged, and its last change may be missing"

// markedDB is the state file, whose changes move the mark.
type markedDB struct {
	*statedb.DB
	path string
	name string

	boot string
	now  func() time.Duration // since the boot, time in suspend included

	mu           sync.Mutex    // guards the fields below
	on           bool          // the state is known to be the latest
	contradicted bool          // the state file tells of a doubt
	settled      bool          // it says all that was given to containers: it is no older copy, or that was adopted since
	at           time.Duration // when this host last looked at the clock, and had not slept
	f            *os.File
	err          error
}

// openMarked looks at the mark, and says why the state can not be proven to be
// the latest: "" if it can. What contradicts that it is goes into the state file, and the
// mark stays: it must contradict at the next start, too, and if the same copy is put back again.
func openMarked(db *statedb.DB, runDir string) (*markedDB, string, error) {
	m := &markedDB{DB: db, path: filepath.Join(runDir, markFile), boot: bootID(), now: sinceBoot, at: sinceBoot()}
	kept, err := db.Load(bucketRouter)
	if err != nil {
		return nil, "", err
	}
	m.name = string(kept[keyName])
	why := stateNew
	if doubt := string(kept[keyDoubt]); doubt != "" {
		m.contradicted = true
		return m, doubt, nil
	}
	if m.name != "" {
		if why = m.compare(); db.MayLack() {
			why = mayLack
		}
		if m.contradicted = !slices.Contains([]string{"", wasBooted, wasAway}, why); m.contradicted {
			if err := db.Apply(bucketRouter, map[string][]byte{keyDoubt: []byte(why)}, nil); err != nil {
				return nil, "", unwritten(err)
			}
			return m, why, nil
		}
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
	m.settled = why == "" || why == wasAway
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
		return wasBooted
	case err != nil:
		return err.Error()
	}
	f := strings.Fields(string(b))
	switch {
	case len(f) < 3 || f[0] != m.name:
		return "the mark in the run directory is of another state file"
	case len(f) != 4 || f[3] != m.boot:
		return wasBooted // of a release before this one, or kept over a reboot
	}
	seq, err1 := strconv.ParseUint(f[1], 10, 64)
	at, err2 := strconv.ParseInt(f[2], 10, 64)
	now, err3 := m.Sequence()
	switch age := m.now() - time.Duration(at)*time.Second; {
	case err1 != nil || err2 != nil || err3 != nil:
		return "the mark in the run directory cannot be read"
	case now < seq:
		return "the state file is an older copy: it lacks changes that were made to it"
	case age < 0 || age > markAge:
		return wasAway
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

// bootID is the kernel's name for this boot; "-" if it has none.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "-"
	}
	return strings.TrimSpace(string(b))
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

// vouch begins to write the mark: this state is the latest from here on, as far as was known
// when the host last looked at the clock. If it has slept since, slept will say so.
func (m *markedDB) vouch() {
	m.mu.Lock()
	m.on = true
	m.forgetDoubtLocked()
	m.mu.Unlock()
	m.touch()
}

// settle says that what containers have is in the state now. A mark from before would
// have the next start take it from them.
func (m *markedDB) settle() {
	m.mu.Lock()
	m.settled = true
	m.forgetDoubtLocked()
	m.mu.Unlock()
	m.touch()
}

func (m *markedDB) isSettled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled
}

// vouchedLocked says that the mark is to be written.
func (m *markedDB) vouchedLocked() bool { return m.on && m.settled }

func (m *markedDB) forgetDoubtLocked() {
	if !m.vouchedLocked() || !m.contradicted {
		return
	}
	if err := m.DB.Apply(bucketRouter, nil, []string{keyDoubt}); err != nil {
		m.err = fmt.Errorf("forget the doubt: %w", err) // the next start has it still
		return
	}
	m.contradicted = false
}

// touch looks at the clock and, once somebody has vouched, writes the mark. If that fails, the next
// start has no proof, which is safe; the error is told by Close.
func (m *markedDB) touch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sleptLocked() {
		return
	}
	m.at = m.now()
	if !m.vouchedLocked() {
		return
	}
	seq, err := m.Sequence()
	if err == nil && m.f == nil {
		m.f, err = os.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err == nil {
		_, err = m.f.WriteAt(fmt.Appendf(nil, "%s %020d %020d %s\n", m.name, seq, int64(m.at/time.Second), m.boot), 0)
	}
	if err != nil {
		m.err = fmt.Errorf("write mark: %w", err)
		_ = os.Remove(m.path)
	}
}

// slept says whether this host has stood still, since this was asked last, for so long that its
// space may be somebody else's. Then the mark is taken back until vouch.
func (m *markedDB) slept() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.sleptLocked() {
		return false
	}
	m.at = m.now()
	vouched := m.vouchedLocked()
	m.on = false
	if !vouched { // a mark that is there contradicts
		return true
	}
	if m.f != nil {
		_ = m.f.Close()
		m.f = nil
	}
	if err := os.Remove(m.path); err != nil && !os.IsNotExist(err) {
		m.err = fmt.Errorf("remove mark: %w", err)
	}
	return true
}

func (m *markedDB) sleptLocked() bool { return m.now()-m.at > markAge }

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
	switch why := r.unprovenBy; {
	case r.fresh: // nobody has ever heard of this identity
		r.unprovenBy = ""
	case r.lone() && (why == stateNew || why == wasAway): // nothing contradicts, and nobody could know better
		r.unprovenBy = ""
	}
	if r.unproven = r.unprovenBy != ""; !r.unproven {
		r.db.vouch()
		return
	}
	r.doubtedLocked()
	if r.damaged != "" {
		r.log.Error(r.damaged)
	}
}

func (r *Router) doubtedLocked() {
	r.doubted = time.Now()
	time.AfterFunc(holdBack+10*time.Millisecond, r.pokeBoth)
	r.log.Warn("this host's state may not be the latest: it gives out nothing before it has heard from another host", "why", r.unprovenBy)
}

// lone says that this host is its whole mesh, as far as its state says.
func (r *Router) lone() bool {
	st := r.mesh.State()
	return !slices.ContainsFunc(st.Hosts, func(h mesh.Host) bool { return !h.Self }) &&
		!st.Founding.IsZero() && st.Founding.Founder == r.id.ID() && len(r.member.Targets) == 0 && r.damaged == ""
}

// noticeSleepLocked has a host that stood still for a while, suspended or stopped, hear
// what has become of its space before it gives anything out: the others may have
// taken it for dead. Nothing tells a process that it was stopped, so whoever is about
// to give something out looks; and whoever takes another's word, for that may be from
// before. mu is held.
func (r *Router) noticeSleepLocked() {
	switch {
	case r.db == nil || !r.db.slept():
		return
	case r.unproven: // for the reason that it had
	case r.lone():
		r.db.vouch()
		return
	default:
		r.unproven, r.unprovenBy = true, wasAsleep
		r.suspendLocked()
	}
	r.mesh.Doubt()
	r.doubtedLocked()
}

// suspendLocked tells the allocator whether it may give out addresses anew. mu is held.
func (r *Router) suspendLocked() {
	if r.alloc != nil {
		r.alloc.Suspend(r.unproven)
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
	r.suspendLocked()
	r.mu.Unlock()
	if !was {
		return
	}
	r.db.vouch()
	r.log.Info("this host's state is the latest", "how", how)
	r.rewire.Store(true)
	r.pokeBoth()
}

// proveState waits until another host has told what it knows of this one, and
// then keeps the mark young.
func (r *Router) proveState(ctx context.Context) error {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		again := r.passes.next()
		r.mu.Lock()
		r.noticeSleepLocked()
		unproven, why, awake := r.unproven, r.unprovenBy, min(time.Since(r.began), time.Since(r.doubted))
		r.mu.Unlock()
		switch {
		case !unproven:
		case r.mesh.State().Heard:
			r.prove("another host was heard")
		case why == wasBooted && awake >= dialIn && r.lone():
			r.prove("no other host has met it since the reboot")
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

// alone is the operator's word that the state is the latest, given after any sleep until now.
func (r *Router) alone() {
	r.mu.Lock()
	r.noticeSleepLocked()
	r.mu.Unlock()
	r.prove("the operator says so")
}
