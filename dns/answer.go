package dns

import (
	"encoding/binary"
	"slices"

	miekg "github.com/miekg/dns"
)

const (
	headerLen = 12
	optLen    = 11 // of an OPT record without options
	// toQuestion is a compressed name: that of the question (RFC 1035, 4.1.4).
	toQuestion = 0xc000 | headerLen
)

// query is a question of class IN, as far as answers depend on it.
type query struct {
	id      uint16
	name    []byte // wire form, as it was asked
	lower   []byte // the same in lower case
	qtype   uint16
	rd, cd  bool
	edns    bool
	do      bool
	size    int // of the largest reply that the client takes, in bytes
	nameBuf [maxName + 2]byte
	pickBuf [24]picked
}

// answer appends to b, which is empty, what the table says to a question. False: the table does not
// answer for the name; then, if name is not nil, it stands for a name elsewhere, and what was
// appended says so.
func (t *Table) answer(b []byte, q *query, ttl uint32) (reply []byte, elsewhere []byte, ok bool) {
	return t.answerAt(b, q, t.names.get(q.lower), ttl)
}

// answerAt is answer for who has looked up the question's name.
func (t *Table) answerAt(b []byte, q *query, n *node, ttl uint32) (reply []byte, elsewhere []byte, ok bool) {
	limit := q.size
	if q.edns {
		limit -= optLen
	}
	w := writer{b: b, limit: limit, ttl: ttl}
	w.begin(q)

	name, owner := q.lower, uint16(toQuestion)
	for hops := 0; ; hops++ {
		if hops > 0 {
			n = t.names.get(name)
		}
		f := t.findAt(name, n)
		if f.zone < 0 {
			if hops == 0 {
				return b, nil, false
			}
			w.end(q)
			return w.b, name, false
		}
		n = f.node
		if n == nil {
			w.rcode = miekg.RcodeNameError
			w.negative(t, name, f.zone, hops > 0)
			break
		}
		if target, is := t.alias(n, q.qtype); is {
			if hops == 1 && !t.ends([]byte(target), q.qtype) {
				w.fail(q)
				return w.b, nil, true
			}
			at := w.record(owner, miekg.TypeCNAME, target)
			if at == 0 {
				break
			}
			name, owner = []byte(target), 0xc000|uint16(at)
			continue
		}
		if !w.all(t, q, n, owner) {
			w.negative(t, name, f.zone, hops > 0)
		}
		break
	}
	if n != nil && q.qtype == miekg.TypeSRV && !w.cut {
		w.targets(t, q, n)
	}
	w.end(q)
	return w.b, nil, true
}

// writer writes a reply, record by record.
type writer struct {
	b          []byte
	limit      int
	ttl        uint32
	rcode      int
	an, ns, ar uint16
	cut        bool // a record found no room
}

func (w *writer) begin(q *query) {
	w.b = append(w.b[:0], make([]byte, headerLen)...)
	w.b = append(w.b, q.name...)
	w.b = binary.BigEndian.AppendUint16(w.b, q.qtype)
	w.b = binary.BigEndian.AppendUint16(w.b, miekg.ClassINET)
}

// record appends one, and gives where its data begins; zero: it has no room.
func (w *writer) record(owner, rtype uint16, data string) int {
	if len(w.b)+12+len(data) > w.limit {
		w.cut = true
		return 0
	}
	w.b = append(w.b, byte(owner>>8), byte(owner), byte(rtype>>8), byte(rtype), 0, miekg.ClassINET,
		byte(w.ttl>>24), byte(w.ttl>>16), byte(w.ttl>>8), byte(w.ttl), byte(len(data)>>8), byte(len(data)))
	at := len(w.b)
	w.b = append(w.b, data...)
	w.an++
	return at
}

// room is more records than still fit: at least one of as many finds none, and the reply says that it is cut.
func (w *writer) room() int { return max(0, w.limit-len(w.b))/12 + 1 }

// all appends the records of a name that a question asks for, and says whether
// there are any. Apexes have SOA and NS records too.
func (w *writer) all(t *Table, q *query, n *node, owner uint16) bool {
	before := w.an
	switch q.qtype {
	case miekg.TypeCNAME:
		w.cname(t, n, owner)
	case miekg.TypeANY:
		for from := 0; from < len(n.entries); {
			es := n.of(n.entries[from].rtype)
			if from += len(es); es[0].rtype == miekg.TypeCNAME {
				w.cname(t, n, owner)
				continue
			}
			for _, p := range t.pick(nil, es, w.room()) {
				w.record(owner, es[p.at].rtype, es[p.at].data)
			}
		}
	default:
		es := n.of(q.qtype)
		ps := t.pick(q.pickBuf[:0], es, w.room())
		for _, p := range ps {
			if w.record(owner, q.qtype, es[p.at].data) == 0 {
				break
			}
		}
		if len(ps) > 0 {
			return true
		}
	}
	if n.apex && (q.qtype == miekg.TypeSOA || q.qtype == miekg.TypeANY) {
		w.record(owner, miekg.TypeSOA, t.soaFor(w.ttl))
	}
	if n.apex && (q.qtype == miekg.TypeNS || q.qtype == miekg.TypeANY) {
		w.record(owner, miekg.TypeNS, t.ns)
	}
	return w.an > before || w.cut
}

// cname appends what a name stands for, if it does.
func (w *writer) cname(t *Table, n *node, owner uint16) {
	if target, is := t.cname(n); is {
		w.record(owner, miekg.TypeCNAME, target)
	}
}

// fail makes the reply one that says nothing.
func (w *writer) fail(q *query) {
	*w = writer{b: w.b, limit: w.limit, ttl: w.ttl, rcode: miekg.RcodeServerFailure}
	w.begin(q)
	w.end(q)
	w.b[2] &^= 0x04 // not authoritative
}

func (t *Table) soaFor(ttl uint32) string {
	var b [2*(maxName+2) + 32]byte
	return string(binary.BigEndian.AppendUint32(append(b[:0], t.soa...), ttl))
}

// negative appends the SOA of a name's zone, by which a negative answer may be
// kept (RFC 2308, 3).
func (w *writer) negative(t *Table, name []byte, zone int, followed bool) {
	if zone == unsaid {
		zone = t.zoneOf(name)
	}
	need := 12 + len(t.soa) + 4
	if followed {
		need += len(name) - zone
	}
	if len(w.b)+need > w.limit {
		return // it may do without: then nobody keeps it
	}
	if followed {
		w.b = append(w.b, name[zone:]...)
	} else {
		// The apex as it stands at the end of the question, in the question's case.
		w.b = binary.BigEndian.AppendUint16(w.b, 0xc000|uint16(headerLen+zone))
	}
	w.b = append(w.b, 0, byte(miekg.TypeSOA), 0, miekg.ClassINET, byte(w.ttl>>24), byte(w.ttl>>16), byte(w.ttl>>8), byte(w.ttl))
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(t.soa)+4))
	w.b = binary.BigEndian.AppendUint32(append(w.b, t.soa...), w.ttl)
	w.ns++
}

const (
	addrLen    = 12 + 4 // of an IPv4 address's record
	maxTargets = 64     // of which addresses are added: a client asks for others, of the thousands that may offer a service
)

// targets adds the addresses of the targets of SRV records, as far as there is room.
func (w *writer) targets(t *Table, q *query, n *node) {
	an, cut := w.an, w.cut
	var done []string
	off := headerLen + len(q.name) + 4
	for range an {
		if len(w.b)+addrLen > w.limit || len(done) == maxTargets {
			break
		}
		// The answers are ours: two bytes of name, and then what every record has.
		rtype := binary.BigEndian.Uint16(w.b[off+2:])
		data := off + 12
		off = data + int(binary.BigEndian.Uint16(w.b[off+10:]))
		if rtype != miekg.TypeSRV {
			continue
		}
		target := string(w.b[data+6 : off])
		if slices.Contains(done, target) {
			continue
		}
		done = append(done, target)
		to := t.find([]byte(target))
		if to.node == nil || to.zone < 0 || data+6 > 0x3fff {
			continue
		}
		for _, rtype := range []uint16{miekg.TypeA, miekg.TypeAAAA} {
			es := to.node.of(rtype)
			for _, p := range t.pick(q.pickBuf[:0], es, w.room()) {
				if w.record(0xc000|uint16(data+6), rtype, es[p.at].data) == 0 {
					break
				}
			}
		}
	}
	w.ar += w.an - an
	w.an, w.cut = an, cut
}

// end appends what EDNS wants and fills in the header.
func (w *writer) end(q *query) {
	if q.edns {
		w.b = append(w.b, 0, 0, byte(miekg.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, 0, 0, 0, 0)
		if q.do {
			w.b[len(w.b)-4] = 0x80
		}
		w.ar++
	}
	const qr, aa, tc, ra, cd = 0x80, 0x04, 0x02, 0x80, 0x10
	h := w.b[:headerLen]
	binary.BigEndian.PutUint16(h, q.id)
	h[2], h[3] = qr|aa, ra|byte(w.rcode)
	if w.cut {
		h[2] |= tc
	}
	if q.rd {
		h[2] |= 1
	}
	if q.cd {
		h[3] |= cd
	}
	h[5] = 1
	binary.BigEndian.PutUint16(h[6:], w.an)
	binary.BigEndian.PutUint16(h[8:], w.ns)
	binary.BigEndian.PutUint16(h[10:], w.ar)
}

// parse reads a query of the form that nearly all have: one question of class
// IN, perhaps with EDNS, and nothing else. False: the packet is something else, perhaps no
// query at all, and is for the library. q keeps parts of the packet.
func (q *query) parse(p []byte) bool {
	const plain = headerLen + 1 + 4
	if len(p) < plain || p[2]&^1 != 0 || p[3]&^0x30 != 0 || // only RD, AD and CD may be set
		p[4] != 0 || p[5] != 1 || p[6]|p[7]|p[8]|p[9]|p[10] != 0 || p[11] > 1 {
		return false
	}
	off := headerLen
	for {
		n := int(p[off])
		if n == 0 {
			break
		}
		off += 1 + n
		if n > maxLabel || off > headerLen+maxName+1 || off+5 > len(p) {
			return false
		}
	}
	off++
	q.id = binary.BigEndian.Uint16(p)
	q.rd, q.cd = p[2]&1 != 0, p[3]&0x10 != 0
	q.name = p[headerLen:off]
	q.lower = appendLower(q.nameBuf[:0], q.name)
	q.qtype = binary.BigEndian.Uint16(p[off:])
	if binary.BigEndian.Uint16(p[off+2:]) != miekg.ClassINET || !ordinary(q.qtype) {
		return false
	}
	off += 4
	q.edns, q.do, q.size = false, false, miekg.MinMsgSize
	if p[11] == 0 {
		return off == len(p)
	}
	o := p[off:]
	if len(o) < optLen || o[0] != 0 || binary.BigEndian.Uint16(o[1:]) != miekg.TypeOPT || o[5]|o[6] != 0 ||
		len(o) != optLen+int(binary.BigEndian.Uint16(o[9:])) || !wholeOptions(o[optLen:]) {
		return false
	}
	q.edns, q.do = true, o[7]&0x80 != 0
	q.size = min(max(miekg.MinMsgSize, int(binary.BigEndian.Uint16(o[3:]))), maxUDP)
	return true
}

// ordinary says whether a type is one that data may have, or ANY.
func ordinary(qtype uint16) bool {
	return qtype != miekg.TypeNone && qtype != miekg.TypeOPT && (qtype < 128 || qtype > 254)
}

// wholeOptions says whether options of EDNS end where they should. Which they are is no
// matter: none changes an answer, and unknown ones are to be ignored (RFC 6891, 6.1.2).
func wholeOptions(o []byte) bool {
	for len(o) > 0 {
		if len(o) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(o[2:]))
		if len(o) < n {
			return false
		}
		o = o[n:]
	}
	return true
}

// of is parse for a message that the library has parsed. False: its name is none.
func (q *query) of(r *miekg.Msg, udp bool) bool {
	n, err := miekg.PackDomainName(r.Question[0].Name, q.nameBuf[:], 0, nil, false)
	if err != nil {
		return false
	}
	q.id, q.rd, q.cd = r.Id, r.RecursionDesired, r.CheckingDisabled
	q.name = append([]byte(nil), q.nameBuf[:n]...)
	q.lower = appendLower(q.nameBuf[:0], q.name)
	q.qtype = r.Question[0].Qtype
	opt := r.IsEdns0()
	q.edns, q.do = opt != nil, opt != nil && opt.Do()
	q.size = miekg.MaxMsgSize
	if udp {
		q.size = miekg.MinMsgSize
		if opt != nil {
			q.size = min(max(miekg.MinMsgSize, int(opt.UDPSize())), maxUDP)
		}
	}
	return true
}
