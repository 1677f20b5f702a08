package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// model is a small DNS server of the other side, over UDP and TCP. What it does is
// told by the first label of the question; see respond.
type model struct {
	addr     netip.AddrPort
	udp, tcp atomic.Int32  // questions that came
	asked    chan struct{} // gets one for each, while there is room
	last     atomic.Pointer[miekg.Msg]
	wg       sync.WaitGroup
}

func newModel(t testing.TB) *model {
	t.Helper()
	u := &model{asked: make(chan struct{}, 100)}
	var pc net.PacketConn
	var l net.Listener
	for try := 0; l == nil; try++ { // until a free UDP port is free for TCP too
		var err error
		if pc, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		u.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
		if l, err = net.Listen("tcp4", u.addr.String()); err != nil {
			pc.Close()
			if l = nil; try == 20 {
				t.Fatal(err)
			}
		}
	}
	u.wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if isProbe(buf[:n]) { // silence tells it as much as an answer
				continue
			}
			u.udp.Add(1)
			for _, p := range u.respond(buf[:n], true) {
				pc.WriteTo(p, from)
			}
		}
	})
	u.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.wg.Go(func() { u.stream(c) })
		}
	})
	t.Cleanup(func() {
		pc.Close()
		l.Close()
		u.wg.Wait()
	})
	return u
}

func (u *model) stream(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	var length uint16
	for binary.Read(c, binary.BigEndian, &length) == nil {
		p := make([]byte, length)
		if _, err := io.ReadFull(c, p); err != nil {
			return
		}
		u.tcp.Add(1)
		for _, r := range u.respond(p, false) {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
		}
	}
}

func (u *model) respond(packet []byte, udp bool) (out [][]byte) {
	q := new(miekg.Msg)
	if q.Unpack(packet) != nil || len(q.Question) != 1 {
		return nil
	}
	u.last.Store(q)
	select {
	case u.asked <- struct{}{}:
	default:
	}
	pack := func(m *miekg.Msg) []byte {
		m.Compress = true
		p, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return p
	}
	answer := func(change func(*miekg.Msg)) {
		m := new(miekg.Msg).SetReply(q)
		m.RecursionAvailable = true
		name := q.Question[0].Name
		m.Answer = []miekg.RR{&miekg.A{Hdr: miekg.RR_Header{Name: name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60}, A: net.IP{203, 0, 113, 7}}}
		if q.IsEdns0() != nil {
			m.SetEdns0(4096, false)
		}
		if change != nil {
			change(m)
		}
		out = append(out, pack(m))
	}
	wrongID := func(m *miekg.Msg) { m.Id++; m.Answer[0].(*miekg.A).A = net.IP{6, 6, 6, 6} }
	switch miekg.SplitDomainName(q.Question[0].Name)[0] {
	case "silent":
	case "wrong-id": // and then the right one
		answer(wrongID)
		answer(nil)
	case "forged": // nothing but wrong ones over UDP
		if udp {
			for range 2 * maxForged {
				answer(wrongID)
			}
			return out
		}
		answer(nil)
	case "only-wrong-id":
		answer(wrongID)
	case "wrong-question":
		answer(func(m *miekg.Msg) { m.Question[0].Name = "evil." + m.Question[0].Name })
	case "wrong-type":
		answer(func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeTXT })
	case "echo": // the question itself, sent back
		out = append(out, packet)
	case "garbage":
		out = append(out, []byte("no DNS at all"), nil, packet[:12])
	case "other-case":
		answer(func(m *miekg.Msg) {
			m.Question[0].Name = canonical(m.Question[0].Name)
			m.Answer[0].Header().Name = m.Question[0].Name
		})
	case "cut": // whole over TCP only
		answer(func(m *miekg.Msg) {
			if udp {
				m.Truncated, m.Answer = true, nil
			}
		})
	case "cut-in-the-middle":
		answer(func(m *miekg.Msg) { m.Truncated = udp })
		if udp {
			out[0] = out[0][:len(out[0])-6]
		}
	case "always-cut":
		answer(func(m *miekg.Msg) { m.Truncated = true })
	case "cut-no-tcp":
		if udp {
			answer(func(m *miekg.Msg) { m.Truncated, m.Answer = true, nil })
		}
	case "many":
		answer(func(m *miekg.Msg) {
			m.Answer = nil
			for i := range 200 {
				m.Answer = append(m.Answer, &miekg.A{Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60}, A: net.IP{203, 0, 113, byte(i)}})
			}
			if udp {
				m.Truncate(1232)
			}
		})
	case "nx":
		answer(func(m *miekg.Msg) { m.Rcode, m.Answer = miekg.RcodeNameError, nil })
	case "fails":
		answer(func(m *miekg.Msg) { m.Rcode, m.Answer = miekg.RcodeServerFailure, nil })
	case "refuses-bare": // a header and no question
		out = append(out, pack(&miekg.Msg{MsgHdr: miekg.MsgHdr{Id: q.Id, Response: true, Rcode: miekg.RcodeRefused}}))
	case "bare":
		out = append(out, pack(&miekg.Msg{MsgHdr: miekg.MsgHdr{Id: q.Id, Response: true}}))
	case "authentic":
		answer(func(m *miekg.Msg) { m.AuthenticatedData = true })
	default:
		answer(nil)
	}
	return out
}

func isProbe(p []byte) bool {
	m := new(miekg.Msg)
	return m.Unpack(p) == nil && len(m.Question) == 1 && m.Question[0].Qtype == miekg.TypeHINFO
}
