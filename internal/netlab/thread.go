package netlab

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on an OS thread that nothing else will use afterwards, so
// that f may change the thread's namespaces. Goroutines started by f run on
// other threads, outside.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away, and /proc/self shows its
			// namespaces. It is kept busy here while another one does the work.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("function ended its goroutine")
		defer func() { done <- err }()
		err = f()
		// Returning while locked makes the runtime end the thread.
	}()
	return <-done
}
