package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// bufferSize is what each of a server's sockets gets, in bytes, as weft asks for itself. It holds thousands of questions; dnsperf
// has 400 out when servers are compared.
const bufferSize = 4 << 20

// setBuffers gives the sockets by which a process serves DNS over UDP buffers of bufferSize, whatever it has asked for
// itself. They are reached by pidfd_getfd(2).
func setBuffers(pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	found := 0
	for _, f := range files {
		number, err := strconv.Atoi(f.Name())
		if err != nil {
			return err
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			return fmt.Errorf("take file %d of process %d: %w", number, pid, err)
		}
		if isServing(fd) {
			found++
			for _, option := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
				if e := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bufferSize); e != nil {
					err = fmt.Errorf("set a socket's buffers: %w", e)
				}
			}
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	if found == 0 {
		return fmt.Errorf("process %d serves no UDP at port %s", pid, port)
	}
	return nil
}

// isServing: a UDP socket bound to the port.
func isServing(fd int) bool {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_DGRAM {
		return false
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	bound := 0
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		bound = at.Port
	case *unix.SockaddrInet6:
		bound = at.Port
	}
	return strconv.Itoa(bound) == port
}
