package dns

import (
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	maxCached      = 10000   // replies
	maxCachedBytes = 8 << 20 // of memory, about
	// Bounds on how long a reply is fresh, in seconds: RFC 8767 (4) has a day or more for the first,
	// RFC 2308 (5) one to three hours for the second.
	maxFresh, maxNegative = 86400, 3600
	// stale is how long after that it is kept for the case that no upstream server answers
	// (RFC 8767, 5: one to three days); staleTTL is told then.
	stale    = 24 * time.Hour
	staleTTL = 30
	// hot is how often a reply must have been asked for to be fetched again before it ends.
	hot = 3
)

// cacheKey is all that an upstream server's reply depends on.
type cacheKey struct {
	name       string // lower case
	qtype      uint16
	do, cd, rd bool
	edns       bool
}

func keyOf(r *miekg.Msg) cacheKey {
	q := r.Question[0]
	k := cacheKey{name: strings.ToLower(q.Name), qtype: q.Qtype, cd: r.CheckingDisabled, rd: r.RecursionDesired}
	if opt := r.IsEdns0(); opt != nil {
		k.edns, k.do = true, opt.Do()
	}
	return k
}

// cache keeps upstream servers' replies for as long as their records allow, and longer for the case
// that nobody answers. When it is full, what was asked for least recently goes.
type cache struct {
	mu      sync.Mutex // guards the fields below
	entries map[cacheKey]*cached
	bytes   int
	// A ring of all entries, from the one asked for last.
	root cached
}

type cached struct {
	key        cacheKey
	reply      *miekg.Msg // not to be changed
	since      time.Time
	fresh      time.Duration
	size       int
	asked      int
	prev, next *cached
}

func newCache() *cache {
	c := &cache{entries: map[cacheKey]*cached{}}
	c.root.prev, c.root.next = &c.root, &c.root
	return c
}

// get gives a reply that is kept, with its records' TTLs as they are now; fresh says
// whether they have any left, again that it is worth asking again before they have not.
// The reply is the caller's.
func (c *cache) get(k cacheKey, now time.Time) (reply *miekg.Msg, fresh, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		return nil, false, false
	}
	age := now.Sub(e.since)
	if age < 0 || age >= e.fresh+stale {
		c.removeLocked(e)
		return nil, false, false
	}
	e.asked++
	e.unlink()
	e.linkAfter(&c.root)
	fresh = age < e.fresh
	again = fresh && e.asked >= hot && e.fresh-age <= e.fresh/10
	m := e.reply.Copy()
	for _, rrs := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			if h := rr.Header(); h.Rrtype != miekg.TypeOPT {
				h.Ttl -= min(h.Ttl, uint32(age/time.Second))
				if !fresh {
					h.Ttl = staleTTL
				}
			}
		}
	}
	return m, fresh, again
}

// newCached is a reply as it is kept; nil: it may not be.
func newCached(k cacheKey, m *miekg.Msg, now time.Time) *cached {
	ttl, ok := lifetime(m)
	size := weight(m)
	if !ok || size > maxCachedBytes/8 {
		return nil
	}
	e := &cached{key: k, reply: m.Copy(), since: now, fresh: time.Duration(ttl) * time.Second, size: size}
	if isNegative(m) {
		// By this record others keep it; what counts down is the lower of its two times (RFC 2308, 5).
		for _, rr := range e.reply.Ns {
			if s, is := rr.(*miekg.SOA); is {
				s.Hdr.Ttl = negativeTTL(s)
			}
		}
	}
	return e
}

// put keeps a reply, in the place of what was said before.
func (c *cache) put(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[e.key]; old != nil {
		c.removeLocked(old)
	}
	c.entries[e.key] = e
	c.bytes += e.size
	e.linkAfter(&c.root)
	for len(c.entries) > maxCached || c.bytes > maxCachedBytes {
		c.removeLocked(c.root.prev)
	}
}

// drop forgets what was said.
func (c *cache) drop(k cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[k]; e != nil {
		c.removeLocked(e)
	}
}

// weight is how many bytes of memory a reply takes, about: parsed, each of its records has its owner's name again,
// and every odd byte of a name is four of text.
func weight(m *miekg.Msg) int {
	n := 500
	for _, rrs := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			n += 150 + len(rr.String())
		}
	}
	return n
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
	c.bytes = 0
	c.root.prev, c.root.next = &c.root, &c.root
}

func (c *cache) removeLocked(e *cached) {
	delete(c.entries, e.key)
	c.bytes -= e.size
	e.unlink()
}

func (e *cached) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (e *cached) linkAfter(o *cached) {
	e.prev, e.next = o, o.next
	e.prev.next, e.next.prev = e, e
}

// lifetime is for how many seconds a reply may be kept: what its records say, of a negative one
// what its SOA says (RFC 2308, 5). False: not at all.
func lifetime(m *miekg.Msg) (seconds uint32, ok bool) {
	if m.Truncated || m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
		return 0, false
	}
	seconds = maxFresh
	negative := isNegative(m)
	soa := false
	for _, rrs := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			h := rr.Header()
			if h.Rrtype == miekg.TypeOPT {
				continue
			}
			ttl := h.Ttl
			if ttl > 1<<31-1 { // RFC 2181, 8: then it is zero
				ttl = 0
			}
			if s, is := rr.(*miekg.SOA); is && negative {
				soa = true
				ttl = min(ttl, negativeTTL(s))
			}
			seconds = min(seconds, ttl)
		}
	}
	return seconds, seconds > 0 && (!negative || soa)
}

// isNegative says whether a reply tells that there is no such name, or none with that type.
func isNegative(m *miekg.Msg) bool {
	if m.Rcode == miekg.RcodeNameError {
		return true
	}
	return !slices.ContainsFunc(m.Answer, func(rr miekg.RR) bool {
		return rr.Header().Rrtype == m.Question[0].Qtype || m.Question[0].Qtype == miekg.TypeANY
	})
}

// negativeTTL is for how many seconds a negative answer with this record may be kept.
func negativeTTL(s *miekg.SOA) uint32 { return min(s.Hdr.Ttl, s.Minttl, maxNegative) }
