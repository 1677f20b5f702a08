package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// maxPerSource bounds the questions of one client at upstream servers, so that one
	// can't take all of maxInFlight.
	maxPerSource = 128
	// impatient is how long a client waits for upstream servers when there is a stale reply for it
	// (RFC 8767, 5).
	impatient = 1800 * time.Millisecond
	// failedFor is how long a question is not asked again that nobody answered, or none but with an error
	// (RFC 9520, 3.2).
	failedFor = time.Second
	maxFailed = 1000
)

var errRebind = errors.New("private address in a public answer")

// resolver answers what is not of the mesh: from its cache, or by the forwarder of the longest
// domain that the name is in. The same question is asked once at a time, whoever waits
// for it; so a question that comes back to us by way of its own servers waits for itself and
// ends, instead of going round.
type resolver struct {
	forwarders []zoneForwarder       // longest domain first; the last has "." and all else
	refused    func(netip.Addr) bool // addresses that are not taken from the last; nil: none
	cache      *cache
	loops      *loops
	// stop ends what runs on behalf of nobody in particular.
	running context.Context
	stop    context.CancelFunc

	mu      sync.Mutex // guards the fields below
	closed  bool
	flights map[cacheKey]*flight
	sources map[netip.Addr]int
	failed  map[cacheKey]failure
	wg      sync.WaitGroup
}

type zoneForwarder struct {
	domain string // lower case, with the last dot
	*forwarder
}

// flight is a question at upstream servers.
type flight struct {
	done  chan struct{}
	reply *miekg.Msg // after done; not to be changed
	err   error
}

// failure is a flight that came to nothing, and is what the same question gets until then.
type failure struct {
	*flight
	until time.Time
}

func newResolver(forwarders []zoneForwarder, refused func(netip.Addr) bool, log *slog.Logger) *resolver {
	slices.SortStableFunc(forwarders, func(a, b zoneForwarder) int { return miekg.CountLabel(b.domain) - miekg.CountLabel(a.domain) })
	r := &resolver{forwarders: forwarders, refused: refused, cache: newCache(), loops: newLoops(log),
		flights: map[cacheKey]*flight{}, sources: map[netip.Addr]int{}, failed: map[cacheKey]failure{}}
	for _, z := range forwarders {
		servers := z.servers
		z.servers = func() []netip.AddrPort {
			good, probe := r.loops.without(servers())
			for _, s := range probe {
				r.spawn(func() { r.loops.probe(r.running, s) })
			}
			return good
		}
	}
	r.running, r.stop = context.WithCancel(context.Background())
	return r
}

// close ends all flights and waits for their end.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.wg.Wait()
}

// spawn runs f unless the end has come.
func (r *resolver) spawn(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Go(f)
	}
}

// ask gives the reply to a query, which is the caller's.
func (r *resolver) ask(ctx context.Context, q *miekg.Msg, src netip.Addr) (*miekg.Msg, error) {
	k := keyOf(q)
	now := time.Now()
	kept, fresh, again := r.cache.get(k, now)
	if fresh {
		if again {
			r.fly(k, q, netip.Addr{}) // if not now, then when it is asked for next
		}
		return kept, nil
	}
	f, err := r.fly(k, q, src)
	if err != nil {
		if kept != nil {
			return kept, nil
		}
		return nil, err
	}
	var late <-chan time.Time
	if kept != nil {
		t := time.NewTimer(impatient)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-f.done:
	case <-late:
		return kept, nil // the flight goes on, for the next who asks
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if kept != nil && f.failed() && !errors.Is(f.err, errRebind) {
		return kept, nil
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.reply.Copy(), nil
}

// failed says that there is no answer, or one that says nothing about the name. The flight is over.
func (f *flight) failed() bool {
	return f.err != nil || f.reply.Rcode != miekg.RcodeSuccess && f.reply.Rcode != miekg.RcodeNameError
}

// fly gives the flight of a question: the one that is under way or has failed a moment ago, or a new one on behalf of src.
func (r *resolver) fly(k cacheKey, q *miekg.Msg, src netip.Addr) (*flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flights[k]; f != nil {
		return f, nil
	}
	switch f := r.failed[k]; {
	case r.closed:
		return nil, context.Canceled
	case time.Now().Before(f.until):
		return f.flight, nil
	case r.sources[src] >= maxPerSource:
		return nil, errBusy
	}
	f := &flight{done: make(chan struct{})}
	r.flights[k] = f
	r.sources[src]++
	q = q.Copy()
	r.wg.Go(func() {
		f.reply, f.err = r.fetch(k, q)
		r.mu.Lock()
		delete(r.flights, k)
		if r.sources[src]--; r.sources[src] == 0 {
			delete(r.sources, src)
		}
		r.noteLocked(k, f)
		r.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

func (r *resolver) fetch(k cacheKey, q *miekg.Msg) (*miekg.Msg, error) {
	z := r.forwarders[slices.IndexFunc(r.forwarders, func(z zoneForwarder) bool { return within(k.name, z.domain) })]
	m, err := z.ask(r.running, q)
	if err == nil && r.refused != nil && z.domain == "." && hasAddress(m, r.refused) {
		err = errRebind
	}
	if err != nil {
		if r.running.Err() == nil && !errors.Is(err, errBusy) && !errors.Is(err, errNoUpstream) && !errors.Is(err, errRebind) {
			r.loops.suspect()
			z.servers() // probes them
		}
		return nil, err
	}
	r.cache.put(k, m, time.Now())
	return m, nil
}

// noteLocked remembers a failure for a moment.
func (r *resolver) noteLocked(k cacheKey, f *flight) {
	if !f.failed() || r.closed || errors.Is(f.err, errBusy) || errors.Is(f.err, errNoUpstream) {
		delete(r.failed, k)
		return
	}
	if len(r.failed) >= maxFailed {
		clear(r.failed)
	}
	short := &flight{done: f.done, err: f.err}
	if f.reply != nil { // without records, of which a server may send many
		short.reply = &miekg.Msg{MsgHdr: f.reply.MsgHdr, Question: f.reply.Question}
	}
	r.failed[k] = failure{short, time.Now().Add(failedFor)}
}

// within says whether a name is a domain's or the domain itself; both in lower case.
func within(name, domain string) bool {
	return domain == "." || name == domain || strings.HasSuffix(name, "."+domain)
}
