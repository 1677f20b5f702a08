package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/flynn/noise"

	"weft/peer"
)

// Session is an authenticated, encrypted connection that carries messages.
// One goroutine may read while another writes; more are served one after the
// other. After any error, a timeout included, that direction is dead and keeps
// returning the error: half a frame cannot be taken up again.
//
// Wire format after the handshake (session_handshake.go): frames of length u16
// and a Noise transport message of that length, of at least 17 bytes. Their
// plaintexts are joined; each message is length u32 and that many bytes, and
// begins with a frame of its own. Nothing is compressed.
type Session struct {
	conn   net.Conn
	remote peer.Key
	proto  uint8

	rmu  sync.Mutex // guards the fields below
	in   *noise.CipherState
	rbuf []byte
	rerr error

	wmu  sync.Mutex // guards the fields below
	out  *noise.CipherState
	wbuf []byte
	werr error
}

const (
	maxMsg     = 1 << 20           // bytes of a message
	frameTag   = 16                // Poly1305
	framePlain = 16<<10 - frameTag // plaintext bytes that we put in a frame
	msgHeader  = 4
)

// ErrTooBig is returned for a message above the limit.
var ErrTooBig = errors.New("message is too big")

// Format shows the other side's key for every verb, never a key of the session.
func (s *Session) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "session with %v", s.remote) }

// RemoteStatic is the other side's join key, proven by the handshake.
func (s *Session) RemoteStatic() peer.Key { return s.remote }

// Proto is the protocol version that both sides agreed on.
func (s *Session) Proto() uint8 { return s.proto }

// RemoteAddr is where the connection comes from or goes to; zero if it has no IP address.
func (s *Session) RemoteAddr() netip.AddrPort { return addrPortOf(s.conn.RemoteAddr()) }

// LocalAddr is this side's end of the connection; zero if it has no IP address.
func (s *Session) LocalAddr() netip.AddrPort { return addrPortOf(s.conn.LocalAddr()) }

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// SetDeadline bounds reads and writes; the zero time lifts it.
func (s *Session) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// Close ends the connection; reads and writes under way return an error.
func (s *Session) Close() error { return s.conn.Close() }

// WriteMsg sends one message of at most 1 MiB; a bigger one is refused with
// ErrTooBig and harms nothing. b is not kept.
func (s *Session) WriteMsg(b []byte) error {
	if len(b) > maxMsg {
		return fmt.Errorf("write message of %d bytes: %w", len(b), ErrTooBig)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.werr == nil {
		s.werr = s.writeLocked(b)
	}
	if s.werr != nil {
		return fmt.Errorf("write message: %w", s.werr)
	}
	return nil
}

func (s *Session) writeLocked(b []byte) error {
	n := min(len(b), framePlain-msgHeader)
	first := binary.BigEndian.AppendUint32(make([]byte, 0, msgHeader+n), uint32(len(b)))
	if err := s.writeFrameLocked(append(first, b[:n]...)); err != nil {
		return err
	}
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = min(len(b), framePlain)
		if err := s.writeFrameLocked(b[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) writeFrameLocked(plain []byte) error {
	s.wbuf = binary.BigEndian.AppendUint16(s.wbuf[:0], uint16(len(plain)+frameTag))
	frame, err := s.out.Encrypt(s.wbuf, nil, plain)
	if err != nil { // the nonces are used up: never send under one twice
		return err
	}
	s.wbuf = frame
	_, err = s.conn.Write(frame)
	return err
}

// ReadMsg returns the next message, of at most limit bytes (and never more than
// 1 MiB); a bigger one is ErrTooBig. io.EOF means that the other side closed between messages.
func (s *Session) ReadMsg(limit int) ([]byte, error) {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	if s.rerr != nil {
		return nil, s.rerr
	}
	msg, err := s.readLocked(limit)
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("read message: %w", err)
		}
		s.rerr = err
		return nil, err
	}
	return msg, nil
}

func (s *Session) readLocked(limit int) ([]byte, error) {
	plain, err := s.readFrameLocked()
	if err != nil {
		return nil, err
	}
	if len(plain) < msgHeader {
		return nil, fmt.Errorf("message header: %w", errShort)
	}
	size := int64(binary.BigEndian.Uint32(plain))
	if size > int64(min(limit, maxMsg)) {
		return nil, fmt.Errorf("%d bytes, more than %d: %w", size, min(limit, maxMsg), ErrTooBig)
	}
	// The buffer grows with what arrives, not with what was announced.
	msg := append(make([]byte, 0, min(int(size), 64<<10)), plain[msgHeader:]...)
	for int64(len(msg)) < size {
		plain, err := s.readFrameLocked()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		msg = append(msg, plain...)
	}
	if int64(len(msg)) > size {
		return nil, fmt.Errorf("frames hold %d bytes more than announced", int64(len(msg))-size)
	}
	return msg, nil
}

// readFrameLocked returns at least one byte of plaintext, valid until the next
// call: a frame without any would let a peer keep us reading for nothing.
func (s *Session) readFrameLocked() ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(s.conn, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n <= frameTag {
		return nil, fmt.Errorf("frame of %d bytes: %w", n, errShort)
	}
	if cap(s.rbuf) < n {
		s.rbuf = make([]byte, n)
	}
	s.rbuf = s.rbuf[:n]
	if _, err := io.ReadFull(s.conn, s.rbuf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return s.in.Decrypt(s.rbuf[:0], nil, s.rbuf)
}
