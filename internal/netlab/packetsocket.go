package netlab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetSocket reads and writes whole frames on one link (packet(7)). It stays
// in the network namespace that it was opened in.
type packetSocket struct {
	f  *os.File
	mu sync.Mutex // guards the field below
	// lost counts frames that came while the socket's buffer was full.
	lost uint64
}

// socketBuffer must hold what arrives while the reader is not scheduled, here
// on a busy machine of two cores; the kernel takes it only as it fills.
const socketBuffer = 256 << 20

// maxFrame is a frame as large as veth makes it: 64 KiB of segments not yet cut.
const maxFrame = 64<<10 + 256

const (
	bothDirections = false
	ignoreOutgoing = true
)

// openPacketSocket opens a socket on the link of the calling thread's network
// namespace that has the index. incomingOnly leaves out what the namespace
// itself sends by the link.
func openPacketSocket(index int, incomingOnly bool) (*packetSocket, error) {
	// Protocol 0 receives nothing: no frame of another link slips in before bind.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	if err == nil && incomingOnly {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up packet socket: %w", err)
	}
	return &packetSocket{f: os.NewFile(uintptr(fd), "packet")}, nil
}

// networkOrder turns a 16-bit number around where the machine is little-endian.
func networkOrder(n uint16) uint16 {
	b := [2]byte{byte(n >> 8), byte(n)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// each calls f for every frame until the socket is closed. The frame is only
// valid during the call.
func (s *packetSocket) each(f func(frame []byte)) {
	buf := make([]byte, maxFrame)
	for {
		n, err := s.f.Read(buf)
		if n > 0 {
			f(buf[:n])
		}
		// A link that went down once gives frames again when it is up.
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			return
		}
	}
}

// interrupt ends each without losing what waits to be read.
func (s *packetSocket) interrupt() { _ = s.f.SetReadDeadline(time.Unix(1, 0)) }

// drain calls f for the frames that are waiting, without waiting for more.
func (s *packetSocket) drain(f func(frame []byte)) {
	raw, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, maxFrame)
	_ = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if n > 0 {
				f(buf[:n])
				continue
			}
			if err != unix.EINTR && err != unix.ENETDOWN {
				return
			}
		}
	})
}

// send sends a frame. A frame that the link does not take is lost, as on a
// real cable.
func (s *packetSocket) send(frame []byte) { _, _ = s.f.Write(frame) }

// losses counts the frames lost so far because the reader was too slow.
func (s *packetSocket) losses() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := s.f.SyscallConn()
	if err != nil {
		return s.lost
	}
	_ = raw.Control(func(fd uintptr) {
		// Reading the counters sets them to zero.
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			s.lost += uint64(st.Drops)
		}
	})
	return s.lost
}

func (s *packetSocket) close() { s.f.Close() }
