package dns

import (
	"net/netip"
	"testing"

	miekg "github.com/miekg/dns"
)

// A name that the mesh may have soon is not denied for as long as the root says: whoever keeps that would not find a container that
// is started now. Other names are denied for as long to who asked first as to who gets it from the cache.
func TestNegativeAnswersFromUpstream(t *testing.T) {
	record := func(text string) miekg.RR {
		rr, err := miekg.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		return rr
	}
	up, _ := scripted(t, func(q *miekg.Msg) *miekg.Msg {
		m := new(miekg.Msg).SetReply(q)
		switch q.Question[0].Name {
		case "there.":
			m.Answer = []miekg.RR{record("there. 86400 IN A 203.0.113.1")}
			m.Ns = []miekg.RR{record("there. 86400 IN NS a.")}
			return m
		case "soon.", "a.example.":
			m.Rcode = miekg.RcodeNameError
		}
		m.Ns = []miekg.RR{record(". 86400 IN SOA a. b. 1 2 3 4 86400"), record(". 86400 IN NSEC aaa. NS SOA")}
		return m
	})
	_, addr := start(t, Options{Upstream: []netip.AddrPort{up}, TTL: 5})
	for _, c := range []struct {
		name        string
		least, most uint32
	}{
		{"soon.", 4, 5},
		{"nodata.", 4, 5},
		{"a.example.", 3500, maxNegative},
		{"b.example.", 3500, maxNegative},
		{"there.", 86300, 86400},
	} {
		for _, when := range []string{"at first", "from the cache"} {
			m := ask(t, "udp", addr, question(c.name, miekg.TypeA))
			for _, rr := range m.Ns {
				if ttl := rr.Header().Ttl; ttl < c.least || ttl > c.most {
					t.Errorf("%s: %v, want a TTL of %d at most", when, rr, c.most)
				}
			}
			if len(m.Ns) == 0 {
				t.Errorf("%s %s: %v", c.name, when, m)
			}
		}
	}
}
