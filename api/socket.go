package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// socketMode lets the owner and the group of the socket in, and nobody else.
const socketMode = 0o660

// maxSocketPath is what sockaddr_un takes, less the terminating zero (unix(7)).
const maxSocketPath = 107

// listenUnix makes the UNIX socket at path. A socket that nobody answers is
// replaced; one that somebody answers is an error. The socket gets its mode
// under a temporary name, so that there is no moment at which the umask decides
// who may connect.
func listenUnix(path string) (*unixSocket, error) {
	tmp := filepath.Join(filepath.Dir(path), ".s"+rand.Text()[:8])
	if n := max(len(path), len(tmp)); n > maxSocketPath {
		return nil, &Error{
			Tip: "give a shorter --run-dir",
			Err: fmt.Errorf("listen on %s: the path is %d bytes too long for a UNIX socket", path, n-maxSocketPath),
		}
	}
	if err := replaceable(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it knows the temporary name only
	u := &unixSocket{UnixListener: l, path: path}
	err = os.Chmod(tmp, socketMode)
	if err == nil {
		u.made, err = os.Lstat(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return u, nil
}

// replaceable tells whether a socket may be made at path.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: something that is not a socket is there", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil { // a full backlog, say: somebody is there
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	c.Close()
	return &Error{
		Tip: "weft status shows it; weft stop ends it",
		Err: fmt.Errorf("listen on %s: a router is running there already", path),
	}
}

// unixSocket is a listener that removes its own file, and no successor's.
type unixSocket struct {
	*net.UnixListener
	path   string
	made   fs.FileInfo
	remove sync.Once // a successor's socket may get the same inode number
}

func (u *unixSocket) Close() error {
	u.remove.Do(func() {
		if now, err := os.Lstat(u.path); err == nil && os.SameFile(now, u.made) {
			os.Remove(u.path)
		}
	})
	return u.UnixListener.Close()
}
