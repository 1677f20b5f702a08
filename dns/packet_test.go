package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// script is a client's end of a connection that sends what it has, closes its half and keeps what comes back.
type script struct {
	net.Conn // nil: only what is below is called
	in       bytes.Reader
	out      bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *script) Close() error                     { return nil }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// facts writes a reply so that two with their records in different orders are equal.
func facts(t *testing.T, packet []byte) string {
	t.Helper()
	m := new(miekg.Msg)
	if err := m.Unpack(packet); err != nil {
		t.Fatalf("%x: %v", packet, err)
	}
	var lines []string
	for _, rrs := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		n := len(lines)
		for _, rr := range rrs {
			lines = append(lines, rr.String())
		}
		slices.Sort(lines[n:])
		lines = append(lines, "--")
	}
	if m.Truncated { // which records found room is chance
		lines = nil
	}
	return fmt.Sprint(m.MsgHdr, m.Question, "\n", strings.Join(lines, "\n"))
}

// FuzzPacket gives any packet of 0 to 65,535 bytes to the server as it runs, on a stream,
// and as from UDP. Each gets one right reply or silence, and what is answered by hand is what the
// library would have made of it.
func FuzzPacket(f *testing.F) {
	add := func(m *miekg.Msg) []byte {
		p, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		return p
	}
	for _, name := range []string{"web.weft.local.", "many.weft.local.", "WEB.", "nosuch.weft.local.", "weft.local.", ".",
		"2.0.32.10.in-addr.arpa.", "32.10.in-addr.arpa.", "www.example.com."} {
		for _, qtype := range []uint16{miekg.TypeA, miekg.TypePTR, miekg.TypeSOA, miekg.TypeANY, miekg.TypeAXFR, miekg.TypeOPT} {
			add(question(name, qtype))
			p := add(question(name, qtype).SetEdns0(1400, true))
			f.Add(p[:len(p)-3])
			f.Add(p[:12])
			f.Add(p[:14])
		}
	}
	odd := question("web.weft.local.", miekg.TypeA).SetEdns0(4096, false)
	odd.IsEdns0().SetVersion(1)
	add(odd)
	update := question("web.weft.local.", miekg.TypeA)
	update.Opcode = miekg.OpcodeUpdate
	add(update)
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points at itself

	s := newServer(f, Options{TTL: 1})
	sentinel := question("db.weft.local.", miekg.TypeA)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > 65535 {
			return
		}
		sentinel.Id = 1
		if len(packet) > 1 {
			sentinel.Id = binary.BigEndian.Uint16(packet) + 1
		}
		last, _ := sentinel.Pack()
		client := new(script)
		var sent []byte
		for _, p := range [][]byte{packet, last} {
			sent = append(binary.BigEndian.AppendUint16(sent, uint16(len(p))), p...)
		}
		client.in.Reset(sent)
		s.converse(t.Context(), client)
		var replies [][]byte
		next := false
		for client.out.Len() > 0 {
			p, err := readMessage(&client.out, nil)
			if err != nil {
				t.Fatalf("%x: half a reply: %v", packet, err)
			}
			if len(p) > 1 && binary.BigEndian.Uint16(p) == sentinel.Id {
				next = true
				continue
			}
			replies = append(replies, p)
		}
		if !next {
			t.Fatalf("%x: no reply to the next question", packet)
		}
		checkPacket(t, packet, replies, false)

		// As it comes by UDP: through the library, and by hand if it has the form for that.
		src := netip.MustParseAddr("127.0.0.1")
		replies = nil
		r, reply := s.message(packet, src)
		if r != nil {
			reply = s.reply(context.Background(), r, src, true)
		}
		if reply != nil {
			replies = append(replies, reply)
		}
		checkPacket(t, packet, replies, true)
		var q query
		if !q.parse(packet) {
			return
		}
		table, searches := s.table.Load(), []search{{name: q.lower}}
		table.names.getAll(searches)
		reply, _, ok := table.answerAt(nil, &q, searches[0].node, s.ttl)
		if !ok {
			return
		}
		checkPacket(t, packet, [][]byte{reply}, true)
		if a, b := facts(t, reply), facts(t, replies[0]); a != b {
			t.Fatalf("%x: by hand\n%s\nby the library\n%s", packet, a, b)
		}
	})
}

func checkPacket(t *testing.T, packet []byte, replies [][]byte, udp bool) {
	t.Helper()
	if len(packet) < 12 || packet[2]&0x80 != 0 {
		if len(replies) != 0 {
			t.Fatalf("%x: not a query, and answered: %x", packet, replies)
		}
		return
	}
	if len(replies) != 1 {
		t.Fatalf("%x: %d replies: %x", packet, len(replies), replies)
	}
	q, m := new(miekg.Msg), new(miekg.Msg)
	if err := m.Unpack(replies[0]); err != nil || !m.Response || m.Id != binary.BigEndian.Uint16(packet) {
		t.Fatalf("%x: reply %v: %x", packet, err, replies[0])
	}
	// What can't be parsed or has no single question can't be repeated to the asker.
	if q.Unpack(packet) != nil || len(q.Question) != 1 {
		if m.Rcode != miekg.RcodeFormatError && m.Rcode != miekg.RcodeNotImplemented {
			t.Fatalf("%x: reply %v", packet, m)
		}
		return
	}
	if m.Rcode != miekg.RcodeFormatError && m.Rcode != miekg.RcodeNotImplemented {
		checkReply(t, q, replies[0], udp)
	}
}

// The seeds of FuzzPacket, once more, with every length cut off.
func TestPrefixesOfAQuery(t *testing.T) {
	s, addr := start(t, Options{})
	q := question("web.weft.local.", miekg.TypeA).SetEdns0(1232, true)
	whole, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := range len(whole) {
		if _, err := c.Write(whole[:n]); err != nil {
			t.Fatal(err)
		}
	}
	if got := tell(ask(t, "udp", addr, q)); got != "NOERROR aa web.weft.local. A 10.32.0.1 web.weft.local. A 10.40.0.1" {
		t.Errorf("%s, %+v", got, s.Counters())
	}
}
