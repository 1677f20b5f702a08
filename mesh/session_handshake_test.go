package mesh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestWrongSecret(t *testing.T) {
	wireLeakless(t)
	for name, conns := range map[string]func(testing.TB) (net.Conn, net.Conn){
		"tcp": wireTCP, "pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
	} {
		a, b := conns(t)
		tap := newWireTap(b, whole)
		_, cerr, _, serr := wireHandshake(t, a, tap, newHandshaker(wireIdentity(t), wireSecret(t)), newHandshaker(wireIdentity(t), NewSecret()))
		for side, err := range map[string]error{"client": cerr, "server": serr} {
			if !errors.Is(err, ErrWrongSecret) || err.Error() != "handshake: wrong secret" {
				t.Errorf("%s, %s: %v", name, side, err)
			}
		}
		if n := tap.out.Len(); n != preambleLen+message2Len {
			t.Errorf("%s: the server sent %d bytes, more than its part of the handshake", name, n)
		}
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Write([]byte("x")); err == nil {
				t.Errorf("%s: a connection was left open", name)
			}
		}
	}
}

// A server that does not know the secret can go along up to message 3, and then
// has only a guess.
func TestFakeServer(t *testing.T) {
	for name, answer := range map[string][]byte{
		"garbage": append([]byte{0, 22}, make([]byte, 22)...), "short frame": {0, 3, 1, 2, 3}, "text": []byte("welcome, dear friend, come in"), "nothing": nil,
	} {
		a, b := net.Pipe()
		fake := newHandshaker(wireIdentity(t), NewSecret())
		go func() {
			defer b.Close()
			theirs, _, _ := fake.readPreamble(b)
			buf := make([]byte, 200)
			io.ReadFull(b, buf[:message1Len])
			hs, _ := fake.noise(false, theirs)
			hs.ReadMessage(nil, buf[:message1Len])
			msg, _, _, _ := hs.WriteMessage(fake.preamble(), nil)
			b.Write(msg)
			io.ReadFull(b, buf[:message3Len])
			b.Write(answer)
		}()
		if _, err := Client(t.Context(), a, wireIdentity(t), wireSecret(t)); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotWeft(t *testing.T) {
	wireLeakless(t)
	id, s := wireIdentity(t), wireSecret(t)
	garbage := append([]byte("weft\x01\x01"), bytes.Repeat([]byte{9}, 200)...)
	for name, tt := range map[string]struct {
		says string
		want error // from both sides, if it is the same
		only string
	}{
		"http request":       {says: "GET / HTTP/1.1\r\n\r\n", want: ErrNotWeft},
		"http answer":        {says: "HTTP/1.1 400 Bad Request\r\n\r\n", want: ErrNotWeft},
		"ssh":                {says: "SSH-2.0-OpenSSH_9.2p1\r\n", want: ErrNotWeft},
		"tls":                {says: "\x16\x03\x01\x02\x00\x01\x00", want: ErrNotWeft},
		"one byte":           {says: "G", want: ErrNotWeft},
		"three bytes":        {says: "wef!", want: ErrNotWeft},
		"version 0":          {says: "weft\x00\x00", want: ErrNotWeft},
		"versions reversed":  {says: "weft\x02\x01", want: ErrNotWeft},
		"garbage behind":     {says: string(garbage), want: ErrNotWeft},
		"low order key":      {says: "weft\x01\x01" + strings.Repeat("\x00", 200), want: ErrNotWeft},
		"nothing, closed":    {says: "", want: io.ErrUnexpectedEOF},
		"beginning, closed":  {says: "wef", want: io.ErrUnexpectedEOF},
		"preamble, closed":   {says: "weft\x01\x01", want: io.ErrUnexpectedEOF},
		"message 1, cut off": {says: string(garbage[:50]), want: io.ErrUnexpectedEOF},
	} {
		for side, run := range map[string]func(context.Context, net.Conn) error{
			"client": func(ctx context.Context, c net.Conn) error { _, err := Client(ctx, c, id, s); return err },
			"server": func(ctx context.Context, c net.Conn) error { _, err := Server(ctx, c, id, s); return err },
		} {
			conn := newWireScript([]byte(tt.says))
			err := run(t.Context(), conn)
			if !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: %v, want %v", name, side, err, tt.want)
			}
			if errors.Is(err, ErrWrongSecret) || !conn.closed {
				t.Errorf("%s, %s: %v, closed %v", name, side, err, conn.closed)
			}
			if sent := conn.out.Len(); side == "server" && sent > preambleLen+message2Len || side == "client" && sent != preambleLen+message1Len {
				t.Errorf("%s, %s: sent %d bytes", name, side, sent)
			}
		}
	}
}

// wireScript is a connection whose other side says in and closes.
type wireScript struct {
	in     *bytes.Reader
	out    bytes.Buffer
	closed bool
}

func newWireScript(in []byte) *wireScript { return &wireScript{in: bytes.NewReader(in)} }

func (c *wireScript) Read(b []byte) (int, error)     { return c.in.Read(b) }
func (c *wireScript) Write(b []byte) (int, error)    { return c.out.Write(b) }
func (c *wireScript) Close() error                   { c.closed = true; return nil }
func (*wireScript) LocalAddr() net.Addr              { return nil }
func (*wireScript) RemoteAddr() net.Addr             { return nil }
func (*wireScript) SetDeadline(time.Time) error      { return nil }
func (*wireScript) SetReadDeadline(time.Time) error  { return nil }
func (*wireScript) SetWriteDeadline(time.Time) error { return nil }

func TestVersions(t *testing.T) {
	wireLeakless(t)
	for _, tt := range []struct {
		client, server [2]uint8
		proto          uint8
		cerr, serr     string
	}{
		{client: [2]uint8{1, 1}, server: [2]uint8{1, 3}, proto: 1},
		{client: [2]uint8{1, 4}, server: [2]uint8{2, 3}, proto: 3},
		{client: [2]uint8{1, 255}, server: [2]uint8{255, 255}, proto: 255},
		{client: [2]uint8{1, 1}, server: [2]uint8{2, 3},
			cerr: "handshake: no common protocol version: we speak 1 to 1, the other side speaks 2 to 3",
			serr: "handshake: no common protocol version: we speak 2 to 3, the other side speaks 1 to 1"},
		{client: [2]uint8{4, 5}, server: [2]uint8{2, 3},
			cerr: "handshake: no common protocol version: we speak 4 to 5, the other side speaks 2 to 3",
			serr: "handshake: no common protocol version: we speak 2 to 3, the other side speaks 4 to 5"},
	} {
		for name, conns := range map[string]func(testing.TB) (net.Conn, net.Conn){
			"tcp": wireTCP, "pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
		} {
			hc, hs := newHandshaker(wireIdentity(t), wireSecret(t)), newHandshaker(wireIdentity(t), wireSecret(t))
			hc.lo, hc.hi, hs.lo, hs.hi = tt.client[0], tt.client[1], tt.server[0], tt.server[1]
			a, b := conns(t)
			client, cerr, server, serr := wireHandshake(t, a, b, hc, hs)
			if tt.proto != 0 {
				if cerr != nil || serr != nil || client.Proto() != tt.proto || server.Proto() != tt.proto {
					t.Errorf("%s, %v: %v, %v", name, tt, cerr, serr)
					continue
				}
				client.Close()
				server.Close()
				continue
			}
			for want, err := range map[string]error{tt.cerr: cerr, tt.serr: serr} {
				if v, ok := errors.AsType[*VersionError](err); !ok || !errors.Is(err, ErrVersion) || err.Error() != want {
					t.Errorf("%s: %v, want %s", name, err, want)
				} else if older := v.TheirMin > v.OurMax; (v.Hint() == "upgrade weft on this host") != older {
					t.Errorf("%s: hint %q for %v", name, v.Hint(), err)
				}
			}
		}
	}
}

// Somebody between who changes the versions in clear is noticed on both ways.
func TestDowngrade(t *testing.T) {
	for _, dir := range []string{"to server", "to client"} {
		hc, hs := newHandshaker(wireIdentity(t), wireSecret(t)), newHandshaker(wireIdentity(t), wireSecret(t))
		hc.hi, hs.hi = 2, 2
		a, b := net.Pipe()
		var ca, cb net.Conn = a, b
		if lower := (&lowerVersion{}); dir == "to server" {
			cb = newWireTap(b, func(r io.Reader) io.Reader { lower.r = r; return lower })
		} else {
			ca = newWireTap(a, func(r io.Reader) io.Reader { lower.r = r; return lower })
		}
		_, cerr, _, serr := wireHandshake(t, ca, cb, hc, hs)
		if dir == "to server" && (cerr == nil || serr == nil) || cerr == nil {
			t.Errorf("%s: client %v, server %v", dir, cerr, serr)
		}
	}
}

// lowerVersion sets the sixth byte to 1.
type lowerVersion struct {
	r io.Reader
	n int
}

func (l *lowerVersion) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	if i := preambleLen - 1 - l.n; i >= 0 && i < n {
		b[i] = 1
	}
	l.n += n
	return n, err
}

func TestHandshakeDeadline(t *testing.T) {
	wireLeakless(t)
	for side, run := range map[string]func(*handshaker, net.Conn) (*Session, error){"client": (*handshaker).client, "server": (*handshaker).server} {
		for _, says := range []string{"", "we", "weft\x01\x01", "weft\x01\x01 and then a few bytes"} {
			a, b := net.Pipe()
			go io.Copy(io.Discard, b)
			go io.WriteString(b, says)
			h := newHandshaker(wireIdentity(t), wireSecret(t))
			if h.limit != 5*time.Second {
				t.Error("the limit is not 5 s")
			}
			h.limit = 20 * time.Millisecond
			_, err := handshake(t.Context(), a, h, run)
			if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 20ms") || errors.Is(err, ErrWrongSecret) {
				t.Errorf("%s, after %q: %v", side, says, err)
			}
			b.Close()
		}
	}
}

// A server that falls silent after the proof is not a wrong secret.
func TestSilenceAfterProof(t *testing.T) {
	a, b := net.Pipe()
	hc, hs := newHandshaker(wireIdentity(t), wireSecret(t)), newHandshaker(wireIdentity(t), NewSecret())
	hc.limit = 100 * time.Millisecond
	go hs.server(b) // does not close
	_, err := handshake(t.Context(), a, hc, (*handshaker).client)
	if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrWrongSecret) {
		t.Errorf("%v", err)
	}
	b.Close()
}

func TestHandshakeCancel(t *testing.T) {
	wireLeakless(t)
	id, s := wireIdentity(t), wireSecret(t)
	for name, run := range map[string]func(context.Context, net.Conn) error{
		"client": func(ctx context.Context, c net.Conn) error { _, err := Client(ctx, c, id, s); return err },
		"server": func(ctx context.Context, c net.Conn) error { _, err := Server(ctx, c, id, s); return err },
	} {
		for _, before := range []bool{true, false} {
			a, b := net.Pipe()
			go io.Copy(io.Discard, b)
			ctx, cancel := context.WithCancel(t.Context())
			if before {
				cancel()
			}
			errc := make(chan error, 1)
			go func() { errc <- run(ctx, a) }()
			cancel()
			select {
			case err := <-errc:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(2 * time.Second):
				t.Errorf("%s does not end with its context", name)
			}
			b.Close()
		}
	}
	a, b := wireTCP(t)
	ctx, cancel := context.WithCancel(t.Context())
	errc := make(chan error, 1)
	go func() { _, err := Server(t.Context(), b, id, s); errc <- err }()
	sess, err := Client(ctx, a, id, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := sess.WriteMsg([]byte("the session is not bound to the context")); err != nil {
		t.Error(err)
	}
	sess.Close()
	b.Close()
}

func TestHandshakeWithoutSecret(t *testing.T) {
	conn := newWireScript(nil)
	if _, err := Client(t.Context(), conn, wireIdentity(t), Secret{}); err == nil || !conn.closed || conn.out.Len() > 0 {
		t.Errorf("%v, %d bytes sent", err, conn.out.Len())
	}
}

func FuzzServer(f *testing.F) {
	f.Add([]byte("weft\x01\x01" + strings.Repeat("a", 112)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("weft\x02\x09" + strings.Repeat("a", 48)))
	fuzzHandshake(f, (*handshaker).server)
}

func FuzzClient(f *testing.F) {
	f.Add([]byte("weft\x01\x01" + strings.Repeat("a", 120)))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	fuzzHandshake(f, (*handshaker).client)
}

func fuzzHandshake(f *testing.F, side func(*handshaker, net.Conn) (*Session, error)) {
	h := newHandshaker(wireIdentity(f), wireSecret(f))
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := newWireScript(in)
		sess, err := handshake(t.Context(), conn, h, side)
		if err == nil || sess != nil || !conn.closed {
			t.Errorf("%x made a session", in)
		}
		if conn.out.Len() > preambleLen+message2Len+message3Len {
			t.Errorf("%d bytes were answered", conn.out.Len())
		}
	})
}
