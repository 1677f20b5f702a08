package mesh

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/flynn/noise"
	"go.uber.org/goleak"

	"weft/peer"
)

// wirePair makes a session over two ends of a connection.
func wirePair(t testing.TB, a, b net.Conn) (client, server *Session) {
	t.Helper()
	s := wireSecret(t)
	cid, sid := wireIdentity(t), wireIdentity(t)
	client, cerr, server, serr := wireHandshake(t, a, b, newHandshaker(cid, s), newHandshaker(sid, s))
	if cerr != nil || serr != nil {
		t.Fatalf("client: %v, server: %v", cerr, serr)
	}
	if client.RemoteStatic() != sid.JoinPublic() || server.RemoteStatic() != cid.JoinPublic() {
		t.Fatal("the remote keys are wrong")
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func wireHandshake(t testing.TB, a, b net.Conn, c, s *handshaker) (client *Session, cerr error, server *Session, serr error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		server, serr = handshake(t.Context(), b, s, (*handshaker).server)
	}()
	client, cerr = handshake(t.Context(), a, c, (*handshaker).client)
	<-done
	return client, cerr, server, serr
}

// wireTCP is a connection over the loopback, both ends.
func wireTCP(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// wireLeakless fails t if goroutines are left at its end.
func wireLeakless(t *testing.T) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) })
}

// wireTap keeps what is written to a connection and may cut reads into bytes.
type wireTap struct {
	net.Conn
	r   io.Reader
	out bytes.Buffer
}

func newWireTap(c net.Conn, reader func(io.Reader) io.Reader) *wireTap {
	return &wireTap{Conn: c, r: reader(c)}
}
func (w *wireTap) Read(b []byte) (int, error)  { return w.r.Read(b) }
func (w *wireTap) Write(b []byte) (int, error) { w.out.Write(b); return w.Conn.Write(b) }

func whole(r io.Reader) io.Reader { return r }

func TestSessionMessages(t *testing.T) {
	wireLeakless(t)
	a, b := wireTCP(t)
	client, server := wirePair(t, a, b)
	if client.Proto() != 1 || server.Proto() != 1 {
		t.Errorf("protocol %d and %d", client.Proto(), server.Proto())
	}
	if got := client.RemoteAddr(); got != netip.MustParseAddrPort(b.LocalAddr().String()) || got != server.LocalAddr() {
		t.Errorf("client sees the server at %v", got)
	}
	sizes := []int{0, 1, framePlain - msgHeader - 1, framePlain - msgHeader, framePlain - msgHeader + 1,
		2*framePlain - msgHeader, 2*framePlain - msgHeader + 1, 100_000, maxMsg}
	for _, dir := range []struct{ from, to *Session }{{client, server}, {server, client}} {
		errc := make(chan error, 1)
		go func() {
			for _, n := range sizes {
				if err := dir.from.WriteMsg(bytes.Repeat([]byte{byte(n)}, n)); err != nil {
					errc <- err
					return
				}
			}
			errc <- nil
		}()
		for _, n := range sizes {
			got, err := dir.to.ReadMsg(maxMsg)
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, n)) {
				t.Fatalf("message of %d bytes came back as %d, %v", n, len(got), err)
			}
		}
		if err := <-errc; err != nil {
			t.Fatal(err)
		}
	}
	if err := client.WriteMsg(make([]byte, maxMsg+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("message above 1 MiB: %v", err)
	}
	if err := client.WriteMsg([]byte("after it")); err != nil {
		t.Errorf("the refused message did harm: %v", err)
	}
	client.Close()
	if got, err := server.ReadMsg(100); err != nil || string(got) != "after it" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := server.ReadMsg(100); err != io.EOF {
		t.Errorf("after the close: %v, want io.EOF", err)
	}
}

func TestSessionReadBound(t *testing.T) {
	a, b := wireTCP(t)
	client, server := wirePair(t, a, b)
	if err := client.WriteMsg(make([]byte, 101)); err != nil {
		t.Fatal(err)
	}
	client.WriteMsg([]byte("next"))
	for range 2 { // dead from then on
		if _, err := server.ReadMsg(100); !errors.Is(err, ErrTooBig) {
			t.Errorf("101 bytes of 100: %v", err)
		}
	}
	if err := server.WriteMsg([]byte("other direction")); err != nil {
		t.Error(err)
	}
}

func TestSessionInPieces(t *testing.T) {
	a, b := net.Pipe()
	client, server := wirePair(t, newWireTap(a, iotest.OneByteReader), newWireTap(b, iotest.OneByteReader))
	go client.WriteMsg([]byte("one byte at a time"))
	if got, err := server.ReadMsg(100); err != nil || string(got) != "one byte at a time" {
		t.Errorf("%q, %v", got, err)
	}
	if client.RemoteAddr().IsValid() {
		t.Error("a pipe has an address")
	}
}

// A capture holds nothing of what must not be seen, nothing at all twice, and
// messages of the sizes that the format promises.
func TestSessionOnTheWire(t *testing.T) {
	marker := []byte("MARKER-MARKER-MARKER")
	s := wireSecret(t)
	id := s.MeshID()
	var captures [2][]byte
	var static []byte
	for i := range captures {
		a, b := net.Pipe()
		ta, tb := newWireTap(a, whole), newWireTap(b, whole)
		client, server := wirePair(t, ta, tb)
		if got := [2]int{ta.out.Len(), tb.out.Len()}; got != [2]int{6 + 48 + 64, 6 + 96 + 2 + 6 + 16} {
			t.Errorf("the handshake has %v bytes", got)
		}
		go client.WriteMsg(marker)
		if _, err := server.ReadMsg(100); err != nil {
			t.Fatal(err)
		}
		captures[i] = append(ta.out.Bytes(), tb.out.Bytes()...)
		k := server.RemoteStatic()
		static = k[:]
	}
	for name, b := range map[string][]byte{"marker": marker, "secret": s.Bytes(), "mesh ID": id[:], "static key": static} {
		if bytes.Contains(captures[0], b[:5]) || bytes.Contains(captures[1], b[:5]) {
			t.Errorf("the %s is in the capture", name)
		}
	}
	if bytes.Contains(captures[1], captures[0][6:38]) {
		t.Error("an ephemeral key was used twice")
	}
}

func TestSessionReplayAndTamper(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"replayed":  func(b []byte) []byte { return append(b, b...) },
		"bit":       func(b []byte) []byte { b[10] ^= 1; return b },
		"length":    func(b []byte) []byte { b[1]--; return b },
		"too short": func(b []byte) []byte { return append([]byte{0, 16}, b...) },
	} {
		a, b := net.Pipe()
		tap := newWireTap(a, whole)
		client, server := wirePair(t, tap, b)
		tap.out.Reset()
		go client.WriteMsg([]byte("one"))
		if _, err := server.ReadMsg(10); err != nil {
			t.Fatal(err)
		}
		var frame []byte
		if name == "replayed" {
			frame = bytes.Clone(tap.out.Bytes())
		} else {
			client.conn = &wireTap{Conn: discard{}}
			client.WriteMsg([]byte("two"))
			frame = change(bytes.Clone(client.conn.(*wireTap).out.Bytes()))
		}
		go func() { a.Write(frame); a.Close() }()
		if msg, err := server.ReadMsg(10); err == nil || err == io.EOF {
			t.Errorf("%s: got %q, %v", name, msg, err)
		}
	}
}

// discard is a connection that swallows.
type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

func TestSessionNonceExhausted(t *testing.T) {
	a, b := net.Pipe()
	tap := newWireTap(a, whole)
	client, server := wirePair(t, tap, b)
	client.out.SetNonce(noise.MaxNonce)
	server.in.SetNonce(noise.MaxNonce)
	go func() { io.Copy(io.Discard, a) }()
	got := make(chan error, 1)
	go func() {
		msg, err := server.ReadMsg(100)
		if string(msg) != "last" {
			err = fmt.Errorf("%q, %w", msg, err)
		}
		got <- err
	}()
	if err := client.WriteMsg([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	tap.out.Reset()
	for range 2 {
		if err := client.WriteMsg([]byte("one too many")); !errors.Is(err, noise.ErrMaxNonce) {
			t.Errorf("message after the last nonce: %v", err)
		}
	}
	if tap.out.Len() > 0 {
		t.Error("something was sent after the last nonce")
	}
	go a.Write(append([]byte{0, 20}, make([]byte, 20)...))
	if _, err := server.ReadMsg(100); !errors.Is(err, noise.ErrMaxNonce) {
		t.Errorf("frame after the last nonce: %v", err)
	}
	if n := client.out.Nonce(); n != math.MaxUint64 {
		t.Errorf("nonce went round to %d", n)
	}
}

func TestSessionDeadlineIsFinal(t *testing.T) {
	a, b := net.Pipe()
	client, server := wirePair(t, a, b)
	server.SetDeadline(time.Unix(1, 0))
	if _, err := server.ReadMsg(10); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	server.SetDeadline(time.Time{})
	if _, err := server.ReadMsg(10); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after a timeout: %v", err)
	}
	server.Close()
	if err := client.WriteMsg([]byte("x")); err == nil {
		t.Error("wrote to a closed session")
	}
}

func TestSessionPrintsNoKey(t *testing.T) {
	a, b := net.Pipe()
	client, server := wirePair(t, a, b)
	k := client.out.UnsafeKey()
	var out strings.Builder
	for _, v := range []any{client, struct{ s *Session }{client}, server, struct{ s *Session }{server}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%t"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, leak := range []string{hex.EncodeToString(k[:4]), strings.Trim(fmt.Sprint(k[:4]), "[]"), string(k[:4])} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("a key shows in %s", out.String())
		}
	}
	if got := fmt.Sprint(client); got != "session with "+client.RemoteStatic().String() {
		t.Error(got)
	}
}

func FuzzSessionFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 1, 2, 3}, uint16(0), false)
	f.Add([]byte{0, 0, 0, 3, 1, 2, 3}, uint16(5), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, uint16(2), false)
	f.Add([]byte{0, 17, 1, 2, 3}, uint16(0), true)
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, raw bool) {
		// Either what a stranger can write, or what a member can put into frames.
		w := &wireTap{Conn: discard{}}
		if raw {
			w.out.Write(b)
		} else {
			out := &Session{conn: w, out: noise.UnsafeNewCipherState(suite, [32]byte{1}, 0)}
			n := min(int(cut), len(b), framePlain)
			out.writeFrameLocked(b[:n])
			out.writeFrameLocked(b[n:min(len(b), n+framePlain)])
		}
		s := &Session{conn: &wireTap{r: &w.out}, in: noise.UnsafeNewCipherState(suite, [32]byte{1}, 0), remote: peer.Key{}}
		for range len(b) + 2 {
			msg, err := s.ReadMsg(1000)
			if err != nil {
				return
			}
			if len(msg) > 1000 {
				t.Fatalf("%d bytes", len(msg))
			}
		}
		t.Error("more messages than bytes")
	})
}
