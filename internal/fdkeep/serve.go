package fdkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxHeld   = 256 // descriptors
	maxPacket = 64 << 10
	opTimeout = 5 * time.Second
)

// Serve holds descriptors for whoever may open the socket at path, until ctx ends.
func Serve(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hold sockets: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("hold sockets: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("hold sockets: %w", err)
	}
	h := &holder{held: map[string]int{}}
	defer h.closeAll()
	var conns sync.WaitGroup
	defer conns.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			l.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("hold sockets: %w", err)
		}
		conns.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(opTimeout))
			h.answer(c)
		})
	}
}

type holder struct {
	mu   sync.Mutex // guards held
	held map[string]int
}

func (h *holder) answer(c *net.UnixConn) {
	text, fds, err := receive(c)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err != nil || text == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	name := text[1:]
	reply := "."
	switch {
	case text == "T":
		for name, fd := range h.held {
			if send(c, "F"+name, fd) != nil {
				return
			}
		}
	case text == "L":
		reply += strings.Join(slices.Sorted(maps.Keys(h.held)), "\n")
	case text[0] == 'K' && len(fds) == 1 && (len(h.held) < maxHeld || h.held[name] != 0) && !strings.Contains(name, "\n"):
		if old, ok := h.held[name]; ok {
			unix.Close(old)
		}
		h.held[name], fds = fds[0], nil
	case text[0] == 'D':
		if fd, ok := h.held[name]; ok {
			unix.Close(fd)
			delete(h.held, name)
		}
	default:
		reply = "?"
	}
	send(c, reply, -1)
}

func (h *holder) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.held {
		unix.Close(fd)
	}
	clear(h.held)
}

// send writes one packet, with a descriptor unless that is negative.
func send(c *net.UnixConn, text string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err := c.WriteMsgUnix([]byte(text), rights, nil)
	return err
}

// receive reads one packet and the descriptors that came with it, which the caller closes.
func receive(c *net.UnixConn) (text string, fds []int, err error) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*4))
	n, on, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil {
		return "", nil, err
	}
	for _, m := range msgs {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return string(buf[:n]), fds, nil
}
