package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/flynn/noise"

	"weft/peer"
)

// The handshake, Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s (noiseprotocol.org, rev. 34):
//
//	client: preamble 6 | message 1, 48 bytes          -> e
//	server: preamble 6 | message 2, 96 bytes          <- e, ee, s, es
//	client:              message 3, 64 bytes          -> s, se, psk
//	server: the first frame of the session: its preamble again
//
// A preamble is "weft" | lowest u8 | highest u8 protocol version. It is the only
// thing that is read before the secret is proven, and only to say that the
// versions do not meet. The client's is part of the Noise prologue and the
// server's comes again in its first frame, so nobody between can lower the version.
// The first 54 bytes keep their size in all versions, so that a server can read
// them whole before it answers.
//
// Message 3 proves the secret to the server, the server's first frame proves it
// to the client; Client returns only after that.
const (
	protoMin = 1
	protoMax = 1

	sessionMagic    = "weft"
	sessionPrologue = "weft join v1"
	preambleLen     = len(sessionMagic) + 2
	message1Len     = 32 + frameTag
	message2Len     = 32 + 32 + frameTag + frameTag
	message3Len     = 32 + frameTag + frameTag

	// handshakeTimeout bounds all of it, for each side.
	handshakeTimeout = 5 * time.Second
)

var (
	// ErrWrongSecret says that the two sides have different secrets. On the
	// client: the target closed after our proof, or its proof did not decrypt. On
	// the server: the client's proof did not decrypt. The wire tells neither more.
	ErrWrongSecret = errors.New("wrong secret")

	// ErrNotWeft says that the other side does not speak weft's join protocol.
	ErrNotWeft = errors.New("not a weft host")

	// ErrVersion is what errors.Is finds in a *VersionError.
	ErrVersion = errors.New("no common protocol version")
)

// VersionError says that the two sides speak no common protocol version. The
// other side's range is its word only: the secret is not proven at that point.
type VersionError struct {
	OurMin, OurMax, TheirMin, TheirMax uint8
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%v: we speak %d to %d, the other side speaks %d to %d", ErrVersion, e.OurMin, e.OurMax, e.TheirMin, e.TheirMax)
}

// Unwrap is ErrVersion.
func (*VersionError) Unwrap() error { return ErrVersion }

// Hint tells the operator which side to upgrade.
func (e *VersionError) Hint() string {
	if e.TheirMin > e.OurMax {
		return "upgrade weft on this host"
	}
	return "upgrade weft on the other host"
}

// Client makes a session over conn as the side that dialled. It owns conn and
// closes it on any error. It ends when ctx does, and after 5 s at the latest;
// the session that it returns is not bound to ctx.
func Client(ctx context.Context, conn net.Conn, id *peer.Identity, s Secret) (*Session, error) {
	return handshake(ctx, conn, newHandshaker(id, s), (*handshaker).client)
}

// Server makes a session over conn as the side that accepted; see Client.
func Server(ctx context.Context, conn net.Conn, id *peer.Identity, s Secret) (*Session, error) {
	return handshake(ctx, conn, newHandshaker(id, s), (*handshaker).server)
}

// handshaker holds what a handshake starts from.
type handshaker struct {
	static noise.DHKey
	secret Secret
	lo, hi uint8     // protocol versions that we speak
	rand   io.Reader // nil: crypto/rand
	limit  time.Duration
}

func newHandshaker(id *peer.Identity, s Secret) *handshaker {
	pub, priv := id.JoinPublic(), id.JoinPrivate()
	return &handshaker{
		static: noise.DHKey{Public: pub[:], Private: priv[:]},
		secret: s, lo: protoMin, hi: protoMax, limit: handshakeTimeout,
	}
}

// handshake runs one side under the deadline and under ctx.
func handshake(ctx context.Context, conn net.Conn, h *handshaker, side func(*handshaker, net.Conn) (*Session, error)) (*Session, error) {
	if h.secret.IsZero() {
		conn.Close()
		return nil, errors.New("handshake: no secret")
	}
	if err := conn.SetDeadline(time.Now().Add(h.limit)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	// A deadline in the past wakes reads and writes under way.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	sess, err := side(h, conn)
	if !stop() { // ctx ended
		err = context.Cause(ctx)
	} else if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v: %w", h.limit, err)
		}
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return sess, nil
}

func (h *handshaker) client(conn net.Conn) (*Session, error) {
	ours := h.preamble()
	hs, err := h.noise(true, ours)
	if err != nil {
		return nil, err
	}
	msg, _, _, err := hs.WriteMessage(ours, nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}

	theirs, proto, err := h.readPreamble(conn)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, message2Len)
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("read answer: %w", cut(err))
	}
	if _, _, _, err := hs.ReadMessage(nil, buf); err != nil {
		return nil, fmt.Errorf("%w: its answer does not decrypt", ErrNotWeft)
	}

	msg, out, in, err := hs.WriteMessage(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotWeft, err) // a key of low order
	}
	if _, err := conn.Write(msg); err != nil {
		return nil, afterProof(err)
	}
	s := &Session{conn: conn, remote: peer.Key(hs.PeerStatic()), proto: proto, in: in, out: out}
	proof, err := s.readFrameLocked() // nobody else has s yet
	if err != nil {
		return nil, afterProof(err)
	}
	if string(proof) != string(theirs) {
		return nil, errors.New("the protocol version was changed on the way")
	}
	return s, nil
}

// afterProof translates what a client meets after it has sent message 3. A server
// with another secret says nothing and closes; one that has none answers with
// something that does not decrypt.
func afterProof(err error) error {
	if _, network := errors.AsType[net.Error](err); network && !closed(err) { // a timeout, no route …
		return fmt.Errorf("read proof: %w", err)
	}
	return ErrWrongSecret
}

func (h *handshaker) server(conn net.Conn) (*Session, error) {
	theirs, proto, verr := h.readPreamble(conn)
	if verr != nil && !errors.Is(verr, ErrVersion) {
		return nil, verr
	}
	buf := make([]byte, message1Len)
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("read first message: %w", cut(err))
	}
	ours := h.preamble()
	if verr != nil { // the client learns our range from the preamble
		conn.Write(ours)
		return nil, verr
	}
	hs, err := h.noise(false, theirs)
	if err != nil {
		return nil, err
	}
	if _, _, _, err := hs.ReadMessage(nil, buf); err != nil {
		return nil, fmt.Errorf("%w: its first message does not decrypt", ErrNotWeft)
	}
	msg, _, _, err := hs.WriteMessage(h.preamble(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotWeft, err) // a key of low order
	}
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}

	buf = make([]byte, message3Len)
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("read proof: %w", cut(err))
	}
	_, in, out, err := hs.ReadMessage(nil, buf)
	if err != nil {
		return nil, ErrWrongSecret
	}
	s := &Session{conn: conn, remote: peer.Key(hs.PeerStatic()), proto: proto, in: in, out: out}
	if err := s.writeFrameLocked(ours); err != nil { // nobody else has s yet
		return nil, fmt.Errorf("write proof: %w", err)
	}
	return s, nil
}

func (h *handshaker) preamble() []byte {
	return append(make([]byte, 0, 128), sessionMagic[0], sessionMagic[1], sessionMagic[2], sessionMagic[3], h.lo, h.hi)
}

func (h *handshaker) noise(initiator bool, clientPreamble []byte) (*noise.HandshakeState, error) {
	psk := h.secret.joinKey(0)
	return noise.NewHandshakeState(noise.Config{
		CipherSuite:           noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s),
		Random:                h.rand,
		Pattern:               noise.HandshakeXX,
		Initiator:             initiator,
		Prologue:              append([]byte(sessionPrologue), clientPreamble...),
		PresharedKey:          psk[:],
		PresharedKeyPlacement: 3,
		StaticKeypair:         h.static,
	})
}

// readPreamble reads the other side's six bytes and picks the highest common
// version. A stranger is told apart at its first wrong byte: it may send few and wait.
func (h *handshaker) readPreamble(conn net.Conn) (b []byte, proto uint8, err error) {
	b = make([]byte, preambleLen)
	for n := 0; n < len(b); {
		m, err := conn.Read(b[n:])
		n += m
		if k := min(n, len(sessionMagic)); string(b[:k]) != sessionMagic[:k] {
			return nil, 0, ErrNotWeft
		}
		if err != nil && n < len(b) {
			return nil, 0, fmt.Errorf("read preamble: %w", cut(err))
		}
	}
	lo, hi := b[4], b[5]
	if lo == 0 || lo > hi {
		return nil, 0, ErrNotWeft
	}
	if lo > h.hi || hi < h.lo {
		return b, 0, &VersionError{OurMin: h.lo, OurMax: h.hi, TheirMin: lo, TheirMax: hi}
	}
	return b, min(hi, h.hi), nil
}

// cut makes an early end of the connection a sentence.
func cut(err error) error {
	if closed(err) {
		return fmt.Errorf("the other side closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func closed(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
