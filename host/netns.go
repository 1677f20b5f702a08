package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NetNSID identifies the network namespace at path (as /proc/PID/ns/net, or a bind
// mount of it) while it lives: "dev:inode" of stat(2). Two paths with one ID are
// one namespace; an ID may be used again after its namespace has ended.
func NetNSID(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at network namespace: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// sandbox is an open network namespace of a container.
type sandbox struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

// openSandbox refuses the namespace of the calling thread: an interface there
// would be the host's.
func openSandbox(path string) (*sandbox, error) {
	id, err := NetNSID(path)
	if err != nil {
		return nil, err
	}
	if own, err := NetNSID("/proc/thread-self/ns/net"); err == nil && own == id {
		return nil, fmt.Errorf("network namespace %s is the host's own: a container with the host's network can't be attached", path)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open netlink socket in %s: %w", path, err)
	}
	return &sandbox{ns: ns, nl: nl}, nil
}

func (s *sandbox) close() {
	s.nl.Close()
	s.ns.Close()
}

// run calls f on a thread in the sandbox. Sysctls of a namespace can only be
// reached by a thread that is in it.
func (s *sandbox) run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open own network namespace: %w", err)
			return // locked: the runtime ends the thread
		}
		defer back.Close()
		if err := netns.Set(s.ns); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		if back := netns.Set(back); back == nil {
			runtime.UnlockOSThread()
		} // else stay locked, so that the thread ends with this goroutine
		done <- err
	}()
	return <-done
}

// isGone: the container ended while it was worked on.
func isGone(err error) bool {
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT)
}
