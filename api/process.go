package api

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Process is the process that answers on a socket, held so that its end can be
// waited for.
type Process struct {
	fd int // a pidfd; -1 where the process cannot be seen from here
}

// Process finds the process behind the socket. Between this call and
// [Process.Wait] it may end, and its number be used again, without harm. Close it.
func (c *Client) Process(ctx context.Context) (*Process, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find the router's process: %w", err)
	}
	var pid int
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = err
			return
		}
		pid = int(cred.Pid)
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("find the router's process: %w", err)
	}
	return openProcess(pid)
}

// openProcess holds the process with a number. 0 is what the kernel reports for
// one in another pid namespace, as when this runs in a container.
func openProcess(pid int) (*Process, error) {
	if pid <= 0 {
		return &Process{fd: -1}, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOSYS) { // ended already; Linux before 5.3
		return &Process{fd: -1}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the router's process: %w", err)
	}
	return &Process{fd: fd}, nil
}

// Wait blocks until the process has ended or ctx ends. A process that cannot be
// seen from here counts as ended.
func (p *Process) Wait(ctx context.Context) error {
	if p.fd < 0 {
		return nil
	}
	for ctx.Err() == nil {
		// pidfd_open(2): readable once the process has ended. The time-out is for
		// looking at ctx.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the router's process: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// Close releases what [Client.Process] holds.
func (p *Process) Close() error {
	if p.fd < 0 {
		return nil
	}
	err := unix.Close(p.fd)
	p.fd = -1
	return err
}
