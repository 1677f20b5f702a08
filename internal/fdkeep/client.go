package fdkeep

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Client asks a holder. Its methods may be used by several goroutines; their errors
// wrap fs.ErrNotExist or ECONNREFUSED when there is no holder.
type Client struct {
	Path string // of the holder's socket
}

// Take gives duplicates of all that is held, by name. The holder goes on holding. The caller closes them.
func (c Client) Take() (map[string]*os.File, error) {
	held := map[string]*os.File{}
	err := c.do("T", nil, func(text string, fds []int) (done bool, err error) {
		if text == "." {
			return true, nil
		}
		if !strings.HasPrefix(text, "F") || len(fds) != 1 {
			return true, errUnknown
		}
		held[text[1:]] = os.NewFile(uintptr(fds[0]), text[1:])
		return false, nil
	})
	if err != nil {
		for _, f := range held {
			f.Close()
		}
		return nil, fmt.Errorf("take held sockets: %w", err)
	}
	return held, nil
}

// Names lists what is held.
func (c Client) Names() (names []string, err error) {
	err = c.do("L", nil, func(text string, _ []int) (bool, error) {
		list, ok := strings.CutPrefix(text, ".")
		if !ok {
			return true, errUnknown
		}
		names = strings.FieldsFunc(list, func(r rune) bool { return r == '\n' })
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list held sockets: %w", err)
	}
	return names, nil
}

// Keep has a socket held under a name, in place of one that was. The caller's stays
// open.
func (c Client) Keep(name string, s syscall.RawConn) error {
	var err error
	if ctl := s.Control(func(fd uintptr) { err = c.do("K"+name, []int{int(fd)}, onlyDone) }); ctl != nil {
		err = ctl
	}
	if err != nil {
		return fmt.Errorf("have socket %s held: %w", name, err)
	}
	return nil
}

// Drop has the holder close what it holds under a name. Nothing held is no error.
func (c Client) Drop(name string) error {
	if err := c.do("D"+name, nil, onlyDone); err != nil {
		return fmt.Errorf("drop held socket %s: %w", name, err)
	}
	return nil
}

var errUnknown = errors.New("the holder did not do it")

func onlyDone(text string, _ []int) (bool, error) {
	if text != "." {
		return true, errUnknown
	}
	return true, nil
}

// do asks and hands the answers to f until it is done.
func (c Client) do(text string, fds []int, f func(text string, fds []int) (done bool, err error)) error {
	conn, err := net.DialTimeout("unixpacket", c.Path, opTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(opTimeout))
	u := conn.(*net.UnixConn)
	fd := -1
	if len(fds) > 0 {
		fd = fds[0]
	}
	if err := send(u, text, fd); err != nil {
		return err
	}
	for {
		text, fds, err := receive(u)
		if err != nil {
			return err
		}
		done, err := f(text, fds)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
		if done || err != nil {
			return err
		}
	}
}
