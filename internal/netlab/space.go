package netlab

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// space holds namespaces by open files, so that they end with this process
// unless a process runs in them.
type space struct {
	mu    sync.RWMutex
	files []nsFile // in the order to enter them; empty once closed
}

type nsFile struct {
	kind string // as in /proc/PID/ns
	flag int    // CLONE_NEW…
	f    *os.File
}

var nsKinds = []nsFile{
	// The mount namespace goes first: it sets the thread's root and directory.
	{kind: "mnt", flag: unix.CLONE_NEWNS},
	{kind: "net", flag: unix.CLONE_NEWNET},
	{kind: "uts", flag: unix.CLONE_NEWUTS},
}

// newSpace makes the namespaces that flags (CLONE_NEW…) name, as a child of
// parent (nil: the machine), and runs setup inside them.
func newSpace(parent *space, flags int, setup func() error) (*space, error) {
	s := new(space)
	err := onThread(func() error {
		if parent != nil {
			if err := parent.enter(); err != nil {
				return err
			}
		}
		if err := unix.Unshare(flags | unix.CLONE_FS); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		for _, k := range nsKinds {
			if flags&k.flag == 0 {
				continue
			}
			f, err := os.Open("/proc/thread-self/ns/" + k.kind)
			if err != nil {
				return fmt.Errorf("hold namespace: %w", err)
			}
			k.f = f
			s.files = append(s.files, k)
		}
		return setup()
	})
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// enter moves the calling thread, which must be one of onThread's, into s.
func (s *space) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // else setns refuses mount namespaces
		return fmt.Errorf("unshare thread's root: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.files) == 0 {
		return os.ErrClosed
	}
	for _, ns := range s.files {
		if err := unix.Setns(int(ns.f.Fd()), ns.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", ns.kind, err)
		}
	}
	return nil
}

// do runs f on a thread inside s.
func (s *space) do(f func() error) error {
	return onThread(func() error {
		if err := s.enter(); err != nil {
			return err
		}
		return f()
	})
}

// fd returns the descriptor of one namespace, valid until close, or -1.
func (s *space) fd(kind string) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, ns := range s.files {
		if ns.kind == kind {
			return int(ns.f.Fd())
		}
	}
	return -1
}

// netID is the network namespace's identity, which is its own while s is open.
func (s *space) netID() (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd("net"), &st); err != nil {
		return fileID{}, fmt.Errorf("identify network namespace: %w", err)
	}
	return fileID{st.Dev, st.Ino}, nil
}

// take moves what from holds to s, which holds nothing.
func (s *space) take(from *space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, from.files = from.files, nil
}

func (s *space) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, ns := range s.files {
		errs = append(errs, ns.f.Close())
	}
	s.files = nil
	return errors.Join(errs...)
}
