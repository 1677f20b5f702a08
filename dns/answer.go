package dns

import (
	"math/rand/v2"
	"slices"

	miekg "github.com/miekg/dns"
)

// answer fills m with what the table says to a question of class IN, and
// reports whether the question is for the table at all.
func (t *Table) answer(m *miekg.Msg, q miekg.Question, ttl uint32) bool {
	n, apex := t.find(q.Name)
	if apex == "" {
		return false
	}
	m.Authoritative = true
	// The apex as it stands at the end of the question, in the question's case.
	apexAsked := q.Name[len(q.Name)-len(apex):]
	if n == nil {
		m.Rcode = miekg.RcodeNameError
		m.Ns = []miekg.RR{t.soa(apexAsked, ttl)}
		return true
	}
	m.Answer = n.answer(q, ttl)
	if _, ok := t.zones[apex]; ok && len(apex) == len(q.Name) && (q.Qtype == miekg.TypeSOA || q.Qtype == miekg.TypeANY) {
		m.Answer = append(m.Answer, t.soa(apexAsked, ttl))
	}
	if len(m.Answer) == 0 {
		m.Ns = []miekg.RR{t.soa(apexAsked, ttl)}
	}
	return true
}

func (n *node) answer(q miekg.Question, ttl uint32) []miekg.RR {
	all := q.Qtype == miekg.TypeANY
	var rrs []miekg.RR
	if q.Qtype == miekg.TypeA || all {
		for _, a := range shuffled(n.v4) {
			rrs = append(rrs, &miekg.A{Hdr: header(q.Name, miekg.TypeA, ttl), A: a.addr.AsSlice()})
		}
	}
	if q.Qtype == miekg.TypeAAAA || all {
		for _, a := range shuffled(n.v6) {
			rrs = append(rrs, &miekg.AAAA{Hdr: header(q.Name, miekg.TypeAAAA, ttl), AAAA: a.addr.AsSlice()})
		}
	}
	if q.Qtype == miekg.TypePTR || all {
		for _, name := range n.names {
			rrs = append(rrs, &miekg.PTR{Hdr: header(q.Name, miekg.TypePTR, ttl), Ptr: name})
		}
	}
	return rrs
}

// soa is the record that makes a negative answer cacheable, for at most its
// minimum (RFC 2308, 3). Nobody transfers the zone, so its serial says nothing.
func (t *Table) soa(apex string, ttl uint32) *miekg.SOA {
	return &miekg.SOA{
		Hdr: header(apex, miekg.TypeSOA, ttl), Ns: t.domain, Mbox: "hostmaster." + t.domain,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

func header(name string, rrtype uint16, ttl uint32) miekg.RR_Header {
	return miekg.RR_Header{Name: name, Rrtype: rrtype, Class: miekg.ClassINET, Ttl: ttl}
}

// shuffled gives the addresses in their classes of equal rank, each class in
// random order, so that the containers of a name share the load.
func shuffled(sorted []ranked) []ranked {
	if len(sorted) < 2 {
		return sorted
	}
	out := slices.Clone(sorted)
	for from := 0; from < len(out); {
		to := from + 1
		for to < len(out) && out[to].rank == out[from].rank {
			to++
		}
		class := out[from:to]
		rand.Shuffle(len(class), func(i, j int) { class[i], class[j] = class[j], class[i] })
		from = to
	}
	return out
}
