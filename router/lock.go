package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// takeLock makes sure that this is the only router of the run directory. The
// lock file stays, with the router's process ID in it, until the router ends by
// itself: finding one unlocked means that the last router crashed.
func (r *Router) takeLock() (crashed bool, err error) {
	path := filepath.Join(r.o.RunDir, "weft.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	if err := waitLock(f); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, &Error{Msg: fmt.Sprintf("a router is already running here (pid %s)", strings.TrimSpace(string(pid))), Code: 409,
				Tip: "`weft connect PEER` adds peers to it, `weft stop` stops it"}
		}
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	r.lock, r.orderly = f, true
	before := make([]byte, 16)
	n, _ := f.ReadAt(before, 0)
	if err := f.Truncate(0); err != nil {
		return false, fmt.Errorf("write lock: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return false, fmt.Errorf("write lock: %w", err)
	}
	r.orderly = n == 0 // until this one runs, a crash of the last one counts
	return n > 0, nil
}

// waitLock locks the file. A router that was killed holds its lock for a moment
// longer, until the kernel has let go of all its threads, so a held lock is
// tried again for a second.
func waitLock(f *os.File) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(time.Second); ; <-tick.C {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(give) {
			return err
		}
	}
}
