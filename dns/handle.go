package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"

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

// handle answers one parsed query: once, or not at all if ctx has ended.
func (s *Server) handle(ctx context.Context, w miekg.ResponseWriter, r *miekg.Msg) {
	s.queries.Add(1)
	src, udp := source(w.RemoteAddr())
	m := s.reply(ctx, r, src)
	if m == nil {
		return
	}
	if m.Rcode == miekg.RcodeServerFailure {
		s.failed.Add(1)
	}
	packed, err := finish(m, r, udp)
	if err != nil {
		return
	}
	if _, err := w.Write(packed); err != nil && !udp {
		w.Close() // a part of the message may be out: nothing after it can be read
	}
}

// reply decides what a query gets; nil is silence.
func (s *Server) reply(ctx context.Context, r *miekg.Msg, src netip.Addr) *miekg.Msg {
	m := new(miekg.Msg).SetReply(r)
	m.RecursionAvailable = true
	if s.allow != nil && !s.allow(src) {
		s.refused.Add(1)
		m.RecursionAvailable = false
		m.Rcode = miekg.RcodeRefused
		return m
	}
	if m.Rcode = objection(r); m.Rcode != miekg.RcodeSuccess {
		s.malformed.Add(1)
		return m
	}
	q := r.Question[0]
	if s.table.Load().answer(m, q, s.ttl) {
		return m
	}
	s.forwarded.Add(1)
	up, err := s.forwarder.ask(ctx, r)
	switch {
	case err == nil:
		return relay(r, up)
	case ctx.Err() != nil:
		return nil // the socket is closing; the client asks again
	case errors.Is(err, errNoUpstream) && miekg.CountLabel(q.Name) == 1:
		// Nobody to ask, and the mesh has no such name: an answer that ends a
		// client's search, where SERVFAIL would make it try and try.
		m.Rcode = miekg.RcodeNameError
	default:
		m.Rcode = miekg.RcodeServerFailure
	}
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
	case miekg.TypeANY:
		return miekg.RcodeSuccess
	}
	if q.Qtype >= 128 && q.Qtype <= 255 { // RFC 6895, 3.1: types of questions, not of data
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

func source(a net.Addr) (addr netip.Addr, udp bool) {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap(), true
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap(), false
	}
	return netip.Addr{}, false
}
