package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// maxPipelined is how many questions of one client, on all its connections, are in hand at a time: with upstream
// servers, mostly. What comes after them is not read before one is answered. It is below maxPerSource, so that
// who sends many at once gets them all answered.
const maxPipelined = 100

// writeInTurn is how long a client's other connections wait for one that does not read; it goes on without the turn.
const writeInTurn = 10 * time.Millisecond

// streams answers on the connections of a TCP socket until it is closed or ctx ends.
func (s *Server) streams(ctx context.Context, l *tcpListener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // runs before the wait
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		conns.Go(func() { s.converse(ctx, c) })
	}
}

// stream is one connection. Replies go out as they are had (RFC 7766, 6.2.1.1): a name of the mesh does not wait
// for one that upstream servers are asked for.
type stream struct {
	conn  net.Conn
	limit time.Duration // for one reply to be written
	turn  *turn         // its client's
	end   func()        // of the conversation

	mu  sync.Mutex // guards the field below, and is held while a reply is written; it is taken before the turn
	out []byte
}

// converse answers the questions of one connection until nothing more comes in time, and then what is still
// in hand. It closes the connection.
func (s *Server) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var inHand sync.WaitGroup
	defer inHand.Wait()
	past := time.Unix(1, 0)
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(past) })()

	src, r := source(conn.RemoteAddr()), bufio.NewReader(conn)
	w := &stream{conn: conn, limit: s.tcp.write, turn: s.turns.join(src), end: cancel}
	defer s.turns.leave(src)
	var q query
	var packet, reply []byte
	for wait := s.tcp.first; ; wait = s.tcp.idle {
		conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil {
			return // the deadline above may have taken the place of the one that says so
		}
		var err error
		if packet, err = readMessage(r, packet); err != nil {
			return
		}
		w.begin()
		var ok bool
		if reply, ok = s.atOnce(reply, &q, packet, src); ok {
			w.write(reply)
			continue
		}
		m, reply := s.message(packet, src)
		w.write(reply)
		if m == nil {
			continue
		}
		if !s.pipelined.take(ctx, src) {
			return
		}
		inHand.Go(func() {
			defer s.pipelined.give(src)
			if reply := s.reply(ctx, m, src, false); reply != nil {
				w.begin()
				w.write(reply)
			}
		})
	}
}

// atOnce answers a plain question from the table, in b. False: it is not for the table alone.
func (s *Server) atOnce(b []byte, q *query, packet []byte, src netip.Addr) ([]byte, bool) {
	if !q.parse(packet) || s.allow != nil && !s.allow(src) {
		return b, false
	}
	q.size = miekg.MaxMsgSize
	b, _, ok := s.table.Load().answer(b[:0], q, s.ttl)
	if ok {
		s.told(b)
		s.queries.Add(1)
	}
	return b, ok
}

// readMessage reads a message, and the length before it, into b if it has room.
func readMessage(r io.Reader, b []byte) ([]byte, error) {
	if cap(b) < 2 {
		b = make([]byte, maxUDP)
	}
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return b, err
	}
	n := int(binary.BigEndian.Uint16(b[:2]))
	if cap(b) < n {
		b = make([]byte, n)
	}
	_, err := io.ReadFull(r, b[:n])
	return b[:n], err
}

// begin waits until it is the connection's turn, which write ends.
func (w *stream) begin() {
	w.mu.Lock()
	w.turn.Lock()
}

// write sends a reply, if there is one. A client that takes none in time loses the connection: a part of the message may be out,
// and nothing after it could be read.
func (w *stream) write(reply []byte) {
	defer w.mu.Unlock()
	if reply == nil {
		w.turn.Unlock()
		return
	}
	w.out = append(binary.BigEndian.AppendUint16(w.out[:0], uint16(len(reply))), reply...)
	now := time.Now()
	w.conn.SetWriteDeadline(now.Add(min(writeInTurn, w.limit)))
	n, err := w.conn.Write(w.out)
	w.turn.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.conn.SetWriteDeadline(now.Add(w.limit))
		_, err = w.conn.Write(w.out[n:])
	}
	if err != nil {
		w.end()
		w.conn.Close()
	}
}
