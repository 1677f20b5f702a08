package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// maxPerSource bounds the questions of one client at upstream servers, over UDP and over TCP each, so that
	// one can't take all of maxInFlight.
	maxPerSource = 128
	// impatient is how long after a question has gone to upstream servers a client is given the stale reply that
	// there is (RFC 8767, 5), and brief the same while they answer nobody.
	impatient = 1800 * time.Millisecond
	brief     = 200 * time.Millisecond
	// failedFor is how long a question is not asked again that nobody answered, or none but with an error
	// (RFC 9520, 3.2), and staleFor how long its stale reply is given at once (RFC 8767, 5), while it is.
	failedFor = time.Second
	staleFor  = 30 * time.Second
	maxFailed = 1000
)

var errRebind = errors.New("private address in a public answer")

// resolver answers what is not of the mesh: from its cache, or by the forwarder of the longest
// domain that the name is in. The same question is asked once at a time, whoever waits
// for it; so a question that comes back to us by way of its own servers waits for itself and
// ends, instead of going round.
type resolver struct {
	forwarders []*zoneForwarder // longest domain first; the last has "." and all else
	// refresh looks whether the servers have changed, and may call forget. It is called for every question. Nil: they never do.
	refresh func()
	refused func(netip.Addr) bool // addresses that are not taken from the last; nil: none
	cache   *cache
	loops   *loops
	// stop ends what runs on behalf of nobody in particular.
	running context.Context
	stop    context.CancelFunc

	mu      sync.Mutex // guards the fields below
	closed  bool
	flights map[cacheKey]*flight
	sources map[client]int
	failed  map[cacheKey]failure
	wg      sync.WaitGroup
}

// client is who asks. The zero value is the resolver itself.
type client struct {
	addr netip.Addr
	tcp  bool
}

type zoneForwarder struct {
	domain string // lower case, with the last dot
	*forwarder

	// Guarded by the resolver's mu.
	heard  time.Time // when a question had its answer last
	silent bool      // nobody had one since, and somebody waited for one in vain
}

// flight is a question at upstream servers.
type flight struct {
	zone  *zoneForwarder
	since time.Time
	done  chan struct{}
	reply *miekg.Msg // after done; not to be changed
	err   error
}

// failure is a flight that came to nothing then.
type failure struct {
	*flight
	at time.Time
}

func newResolver(forwarders []*zoneForwarder, refused func(netip.Addr) bool, log *slog.Logger) *resolver {
	slices.SortStableFunc(forwarders, func(a, b *zoneForwarder) int { return miekg.CountLabel(b.domain) - miekg.CountLabel(a.domain) })
	r := &resolver{forwarders: forwarders, refused: refused, cache: newCache(), loops: newLoops(log),
		flights: map[cacheKey]*flight{}, sources: map[client]int{}, failed: map[cacheKey]failure{}}
	for _, z := range forwarders {
		servers := z.servers
		z.servers = func() []netip.AddrPort {
			good, probe := r.loops.without(z.domain, servers())
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

// forget drops all that servers have answered, and what they still answer: others may answer otherwise.
func (r *resolver) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache.clear()
	clear(r.flights)
	clear(r.failed)
	for _, z := range r.forwarders {
		z.silent = false
	}
}

// ask gives the reply to a query, which is the caller's.
func (r *resolver) ask(ctx context.Context, q *miekg.Msg, src client) (*miekg.Msg, error) {
	if r.refresh != nil {
		r.refresh() // before the cache is asked: what is kept may be of another network
	}
	k := keyOf(q)
	kept, fresh, again := r.cache.get(k, time.Now())
	if fresh {
		if again {
			r.fly(k, q, client{}) // if not now, then when it is asked for next
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
	if kept != nil && !f.landed() {
		t := time.NewTimer(r.patience(k, f))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-f.done:
	case <-late:
		r.noteLate(f)
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

// patience is how much longer a client waits for a flight that has not landed before it gets a stale reply.
func (r *resolver) patience(k cacheKey, f *flight) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, is := r.failed[k]; is && time.Since(last.at) < staleFor && !errors.Is(last.err, errRebind) {
		return 0
	}
	wait := impatient
	if f.zone.silent {
		wait = brief
	}
	return wait - time.Since(f.since)
}

// noteLate remembers that somebody waited in vain for a flight.
func (r *resolver) noteLate(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.zone.heard.Before(f.since) {
		f.zone.silent = true
	}
}

func (f *flight) landed() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// failed says that there is no answer, or one that says nothing about the name. The flight is over.
func (f *flight) failed() bool {
	return f.err != nil || f.reply.Rcode != miekg.RcodeSuccess && f.reply.Rcode != miekg.RcodeNameError
}

// told says that upstream has said something about the name, also if it is refused. The flight is over.
func (f *flight) told() bool { return !f.failed() || errors.Is(f.err, errRebind) }

// unasked says that a flight was over before any server was asked.
func (f *flight) unasked() bool { return errors.Is(f.err, errBusy) || errors.Is(f.err, errNoUpstream) }

// fly gives the flight of a question: the one that is under way or has failed a moment ago, or a new one on behalf of src.
func (r *resolver) fly(k cacheKey, q *miekg.Msg, src client) (*flight, error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flights[k]; f != nil {
		return f, nil
	}
	switch f := r.failed[k]; {
	case r.closed:
		return nil, context.Canceled
	case f.flight != nil && now.Before(f.at.Add(failedFor)):
		return f.flight, nil
	case r.sources[src] >= maxPerSource:
		return nil, errBusy
	}
	zone := r.forwarders[slices.IndexFunc(r.forwarders, func(z *zoneForwarder) bool { return miekg.IsSubDomain(z.domain, k.name) })]
	f := &flight{zone: zone, since: now, done: make(chan struct{})}
	r.flights[k] = f
	r.sources[src]++
	q = q.Copy()
	r.wg.Go(func() {
		var keep *cached
		if f.reply, f.err = r.fetch(zone, q); f.err == nil {
			keep = newCached(k, f.reply, time.Now())
		}
		r.mu.Lock()
		if r.sources[src]--; r.sources[src] == 0 {
			delete(r.sources, src)
		}
		if r.flights[k] == f { // else it was forgotten
			delete(r.flights, k)
			r.noteLocked(k, f)
			switch {
			case keep != nil:
				r.cache.put(keep)
			case f.told() && (f.reply == nil || !f.reply.Truncated):
				r.cache.drop(k) // it does not hold any more; what is cut says nothing
			}
		}
		r.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

func (r *resolver) fetch(z *zoneForwarder, q *miekg.Msg) (*miekg.Msg, error) {
	m, err := z.ask(r.running, q)
	if err == nil && r.refused != nil && z.domain == "." && hasAddress(m, r.refused) {
		return nil, errRebind
	}
	if err != nil && r.running.Err() == nil && !errors.Is(err, errBusy) && !errors.Is(err, errNoUpstream) {
		r.loops.suspect()
		z.servers() // probes them
	}
	return m, err
}

// noteLocked remembers what a flight has come to.
func (r *resolver) noteLocked(k cacheKey, f *flight) {
	z := f.zone
	switch {
	case f.told():
		z.heard, z.silent = time.Now(), false
	case f.err != nil && !f.unasked() && z.heard.Before(f.since):
		z.silent = true
	}
	if !f.failed() || r.closed || f.unasked() {
		delete(r.failed, k)
		return
	}
	if len(r.failed) >= maxFailed {
		clear(r.failed)
	}
	short := &flight{zone: z, done: f.done, err: f.err}
	if f.reply != nil { // without records, of which a server may send many
		short.reply = &miekg.Msg{MsgHdr: f.reply.MsgHdr, Question: f.reply.Question}
	}
	r.failed[k] = failure{short, time.Now()}
}
