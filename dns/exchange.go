package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// maxForged is how many wrong packets a question may draw before it is asked over
	// TCP: somebody is guessing.
	maxForged = 32
	// udpBuffer is more than was offered, for servers that do not care.
	udpBuffer = 4096
)

var errForged = errors.New("too many wrong replies")

// exchange asks one server: over UDP from a port of its own, then over TCP if
// the reply was cut or somebody answers wrongly in the server's name. It ends
// when ctx does.
func exchange(ctx context.Context, server netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
	packed, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	m, err := exchangeUDP(ctx, server, q, packed)
	if err == nil && !m.Truncated || err != nil && err != errForged {
		return m, err
	}
	whole, tcpErr := exchangeTCP(ctx, server, q, packed)
	if tcpErr != nil && err == nil && ctx.Err() == nil {
		return m, nil // no TCP there: what was cut, and says so
	}
	return whole, tcpErr
}

// dial connects, and makes all that is done on the connection end with ctx.
func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, func(), error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, nil, err
	}
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(past) })
	return conn, func() { stop(); conn.Close() }, nil
}

func exchangeUDP(ctx context.Context, server netip.AddrPort, q *miekg.Msg, packed []byte) (*miekg.Msg, error) {
	// A connected socket: the kernel lets through this server's packets only, and tells
	// when nobody listens there.
	conn, done, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	buf := make([]byte, udpBuffer)
	for range maxForged {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m, err := match(q, buf[:n])
		if err != nil {
			continue // the right one may still come
		}
		if n == len(buf) {
			m.Truncated = true // by the size of the buffer
		}
		return m, nil
	}
	return nil, errForged
}

func exchangeTCP(ctx context.Context, server netip.AddrPort, q *miekg.Msg, packed []byte) (*miekg.Msg, error) {
	conn, done, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(packed)), uint16(len(packed)))
	if _, err := conn.Write(append(framed, packed...)); err != nil {
		return nil, err
	}
	reply, err := readMessage(conn, nil)
	if err != nil {
		return nil, err
	}
	return match(q, reply)
}

// match parses a packet and checks that it is a reply to q (RFC 5452, 9): same
// ID, same question in any case. A cut reply need not parse to its end, and one that
// tells of an error need not repeat the question.
func match(q *miekg.Msg, packet []byte) (*miekg.Msg, error) {
	m := new(miekg.Msg)
	err := m.Unpack(packet)
	if err != nil && !m.Truncated {
		return nil, fmt.Errorf("parse reply: %w", err)
	}
	if !m.Response || m.Id != q.Id || m.Opcode != miekg.OpcodeQuery {
		return nil, errors.New("not a reply to this question")
	}
	switch {
	case len(m.Question) == 1:
		got, want := m.Question[0], q.Question[0]
		if got.Qtype != want.Qtype || got.Qclass != want.Qclass || !strings.EqualFold(got.Name, want.Name) {
			return nil, errors.New("reply to another question")
		}
	case len(m.Question) == 0 && m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError:
	default:
		return nil, errors.New("reply without the question")
	}
	// The library parses some records that it then packs into nonsense: those
	// of dynamic updates, which have no data. Our clients are not to have them.
	m.Compress = true
	again, err := m.Pack()
	if err == nil {
		err = new(miekg.Msg).Unpack(again)
	}
	if err != nil {
		return nil, fmt.Errorf("repeat reply: %w", err)
	}
	return m, nil
}
