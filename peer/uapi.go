package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// socketDir is where userspace devices have their control sockets
// (https://www.wireguard.com/xplatform/). wg(8), wgctrl and wireguard-go have
// it built in.
const socketDir = "/var/run/wireguard"

func socketPath(name string) string { return filepath.Join(socketDir, name+".sock") }

// answerTimeout is for a local process that has nothing else to do. It is long
// since a host may be starved for seconds while its packets still flow.
const answerTimeout = 3 * time.Second

// probe asks the userspace device for a sign of life: an empty "set" operation,
// which needs the device's configuration lock and changes nothing. ErrGone: no
// process has the socket.
func probe(name string) error {
	path := socketPath(name)
	c, err := net.DialTimeout("unix", path, answerTimeout)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrGone
	case err != nil:
		return fmt.Errorf("ask WireGuard device %s: %w", name, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(answerTimeout))
	answer := make([]byte, 64)
	_, err = c.Write([]byte("set=1\n\n"))
	n := 0
	if err == nil {
		n, err = c.Read(answer)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return notAnswering(name)
	case err != nil && isGone(err):
		return ErrGone
	case err != nil:
		return fmt.Errorf("ask WireGuard device %s: %w", name, err)
	case string(answer[:n]) != "errno=0\n\n":
		return fmt.Errorf("ask WireGuard device %s: unexpected answer %q", name, answer[:n])
	}
	return nil
}

func notAnswering(name string) error {
	path := socketPath(name)
	return withHint(fmt.Errorf("ask WireGuard device %s: the process behind %s has not answered for %s", name, path, answerTimeout),
		"end that process and launch again: fuser -k "+path)
}
