package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	miekg "github.com/miekg/dns"
)

// maxUDP is the largest answer over UDP: what passes everywhere without
// fragments (DNS flag day 2020), and any tunnel of the mesh.
const maxUDP = 1232

// accept looks at a message's header before the rest is parsed.
func (s *Server) accept(h miekg.Header) miekg.MsgAcceptAction {
	const response = 1 << 15
	switch {
	case h.Bits&response != 0:
		// Two servers that answer each other's answers never stop.
		s.malformed.Add(1)
		return miekg.MsgIgnore
	case int(h.Bits>>11)&0xf != miekg.OpcodeQuery:
		s.malformed.Add(1)
		return miekg.MsgRejectNotImplemented
	// Two additional records: EDNS and a signature.
	case h.Qdcount != 1 || h.Ancount != 0 || h.Nscount != 0 || h.Arcount > 2:
		s.malformed.Add(1)
		return miekg.MsgReject
	}
	return miekg.MsgAccept
}

// admits says whether somebody may ask, and counts strangers.
func (s *Server) admits(src netip.Addr) bool {
	if s.allow == nil || s.allow(src) {
		return true
	}
	s.refused.Add(1)
	return false
}

// reply decides what a parsed query gets; nil is silence. Of r it needs the header, the question and the OPT records.
func (s *Server) reply(ctx context.Context, r *miekg.Msg, src netip.Addr, udp bool) []byte {
	s.queries.Add(1)
	m := new(miekg.Msg).SetReply(r)
	m.RecursionAvailable = true
	switch {
	case !s.admits(src):
		m.RecursionAvailable = false
		m.Rcode = miekg.RcodeRefused
	default:
		if m.Rcode = objection(r); m.Rcode != miekg.RcodeSuccess {
			s.malformed.Add(1)
			break
		}
		var q query
		if !q.of(r, udp) {
			m.Rcode = miekg.RcodeFormatError
			break
		}
		answer, elsewhere, ok := s.table.Load().answer(nil, &q, s.ttl)
		switch {
		case ok:
			s.told(answer)
			return answer
		case elsewhere != nil:
			m = s.follow(ctx, r, answer, elsewhere, client{src, !udp})
		default:
			m = s.forward(ctx, r, client{src, !udp})
		}
	}
	if m == nil {
		return nil
	}
	if m.Truncated && !udp {
		// The upstream server cut it and has no TCP. There is nothing more that this client could do about it.
		m = new(miekg.Msg).SetRcode(r, miekg.RcodeServerFailure)
		m.RecursionAvailable = true
	}
	if m.Rcode == miekg.RcodeServerFailure {
		s.failed.Add(1)
	}
	packed, err := finish(m, r, udp)
	if err != nil {
		return nil
	}
	return packed
}

// told counts an answer of the table that says nothing.
func (s *Server) told(answer []byte) {
	if answer[3]&0xf == miekg.RcodeServerFailure {
		s.failed.Add(1)
	}
}

// forward has upstream servers answer; nil is silence.
func (s *Server) forward(ctx context.Context, r *miekg.Msg, src client) *miekg.Msg {
	s.forwarded.Add(1)
	if s.resolver.loops.is(r.Question[0]) {
		return new(miekg.Msg).SetRcode(r, miekg.RcodeRefused)
	}
	up, err := s.resolver.ask(ctx, r, src)
	switch {
	case err == nil:
		m := relay(r, up)
		if isNegative(m) {
			s.boundNegative(m)
		}
		return m
	case ctx.Err() != nil:
		return nil // the socket is closing; the client asks again
	}
	m := new(miekg.Msg).SetReply(r)
	m.RecursionAvailable = true
	m.Rcode = miekg.RcodeServerFailure
	if errors.Is(err, errNoUpstream) && miekg.CountLabel(r.Question[0].Name) == 1 {
		// Nobody to ask, and the mesh has no such name: an answer that ends a
		// client's search, where SERVFAIL would make it try and try.
		m.Rcode = miekg.RcodeNameError
	}
	if errors.Is(err, errRebind) {
		m.Rcode = miekg.RcodeRefused
	}
	return m
}

// boundNegative has a resolver that asks here keep a negative answer of upstream servers no longer than the cache here does; and one
// for a name of one label, which a container may get at any time, no longer than the mesh's own.
func (s *Server) boundNegative(m *miekg.Msg) {
	most := uint32(maxNegative)
	if miekg.CountLabel(m.Question[0].Name) == 1 {
		most = min(most, s.ttl)
	}
	for _, rr := range m.Ns { // the SOA, and with DNSSEC what proves it
		h := rr.Header()
		h.Ttl = min(h.Ttl, most)
	}
}

// follow completes an answer that ends with a name which is not of the table.
func (s *Server) follow(ctx context.Context, r *miekg.Msg, sofar, elsewhere []byte, src client) *miekg.Msg {
	m := new(miekg.Msg)
	name, _, err := miekg.UnpackDomainName(elsewhere, 0)
	if err != nil || m.Unpack(sofar) != nil {
		return nil
	}
	ask := r.Copy()
	ask.Question[0].Name = name
	up := s.forward(ctx, ask, src)
	if up == nil {
		return nil
	}
	m.Rcode = up.Rcode
	m.Truncated = m.Truncated || up.Truncated
	m.Answer = append(m.Answer, up.Answer...)
	m.Ns, m.Extra = up.Ns, nil
	return m
}

// objection gives the RCODE for a query that is not answered whatever it asks
// for; RcodeSuccess: none.
func objection(r *miekg.Msg) int {
	// A header that promises a question and ends there parses.
	if len(r.Question) != 1 {
		return miekg.RcodeFormatError
	}
	opts := 0
	version := uint8(0)
	for _, rr := range r.Extra {
		if opt, ok := rr.(*miekg.OPT); ok {
			opts++
			version = opt.Version()
			if opt.Hdr.Name != "." {
				return miekg.RcodeFormatError
			}
		}
	}
	q := r.Question[0]
	switch {
	case opts > 1: // RFC 6891, 6.1.1
		return miekg.RcodeFormatError
	case version != 0:
		return miekg.RcodeBadVers
	case q.Qclass != miekg.ClassINET:
		return miekg.RcodeRefused
	}
	switch q.Qtype {
	case miekg.TypeNone, miekg.TypeOPT:
		return miekg.RcodeFormatError
	case miekg.TypeAXFR, miekg.TypeIXFR:
		return miekg.RcodeRefused
	}
	if !ordinary(q.Qtype) { // RFC 6895, 3.1: types of questions, not of data
		return miekg.RcodeNotImplemented
	}
	return miekg.RcodeSuccess
}

// finish adds what EDNS wants, cuts the reply at a record to what the client
// takes, and packs it.
func finish(m, r *miekg.Msg, udp bool) ([]byte, error) {
	size := miekg.MaxMsgSize
	if udp {
		size = miekg.MinMsgSize
	}
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
		if udp {
			size = min(max(miekg.MinMsgSize, int(opt.UDPSize())), maxUDP)
		}
	}
	m.Compress = true
	m.Truncate(size)
	packed, err := m.Pack()
	if err == nil && len(packed) <= size {
		return packed, nil
	}
	// What came from upstream can't be said to this client.
	fail := new(miekg.Msg).SetRcode(r, miekg.RcodeServerFailure)
	fail.RecursionAvailable = true
	if opt := r.IsEdns0(); opt != nil {
		fail.SetEdns0(maxUDP, opt.Do())
	}
	return fail.Pack()
}

// message parses a packet that the table alone does not answer, or that [query.parse] leaves to the library: it gives
// what reply needs of a query, or what somebody gets who sent none; both nil are silence. The packet stays the caller's, and
// nothing of it is kept that a client can make large: many may be in hand for long.
func (s *Server) message(packet []byte, src netip.Addr) (r *miekg.Msg, reply []byte) {
	if len(packet) < headerLen {
		s.malformed.Add(1)
		return nil, nil
	}
	action := s.accept(headerOf(packet))
	if action == miekg.MsgAccept {
		r := new(miekg.Msg)
		if r.Unpack(packet) == nil {
			r.Extra = slices.DeleteFunc(r.Extra, func(rr miekg.RR) bool {
				opt, is := rr.(*miekg.OPT)
				if is {
					opt.Option = nil
				}
				return !is
			})
			return r, nil
		}
		s.malformed.Add(1)
		action = miekg.MsgReject
	}
	if action == miekg.MsgIgnore {
		return nil, nil
	}
	// As miekg/dns does: the header again, and nothing else that might be wrong.
	if s.allow != nil && !s.allow(src) {
		s.refused.Add(1)
		return nil, nil
	}
	reply = append([]byte(nil), packet[:headerLen]...)
	clear(reply[4:])
	reply[2], reply[3] = 0x80|packet[2]&0x79, miekg.RcodeFormatError
	if action == miekg.MsgRejectNotImplemented {
		reply[3] = miekg.RcodeNotImplemented
	}
	return nil, reply
}

func headerOf(p []byte) miekg.Header {
	u := func(i int) uint16 { return uint16(p[i])<<8 | uint16(p[i+1]) }
	return miekg.Header{Id: u(0), Bits: u(2), Qdcount: u(4), Ancount: u(6), Nscount: u(8), Arcount: u(10)}
}

func source(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
