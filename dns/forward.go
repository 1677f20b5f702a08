package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	maxInFlight = 512         // questions at upstream servers at a time
	maxTries    = 6           // exchanges for one question
	patience    = time.Second // with one server before the next is asked too, at most
)

var (
	errNoUpstream = errors.New("no upstream DNS server")
	errBusy       = errors.New("too many questions at upstream DNS servers")
	errSilent     = errors.New("no upstream DNS server answered in time")
)

// forwarder asks upstream servers. A server that is slow is not given up when
// the next is asked: the first good answer of any wins.
type forwarder struct {
	timeout  time.Duration
	servers  func() []netip.AddrPort
	exchange func(context.Context, netip.AddrPort, *miekg.Msg) (*miekg.Msg, error) // asks one server
	slots    chan struct{}
	first    atomic.Uint32 // index of the server that answered last: asked first
}

func newForwarder(timeout time.Duration, servers func() []netip.AddrPort) *forwarder {
	return &forwarder{
		// A client waits no longer than the timeout, so the end comes before it.
		timeout:  timeout - timeout/20,
		servers:  servers,
		exchange: exchange,
		slots:    make(chan struct{}, maxInFlight),
	}
}

type outcome struct {
	server uint32
	m      *miekg.Msg
	err    error
}

// ask gives the upstream servers' reply to the question of r: the first that says whether
// there is such a name, else any other that was had in time.
func (f *forwarder) ask(ctx context.Context, r *miekg.Msg) (*miekg.Msg, error) {
	servers := f.servers()
	n := uint32(len(servers))
	if n == 0 {
		return nil, errNoUpstream
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errBusy
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel() // runs before the wait

	// Each server once, then each once more while there is time.
	tries := min(2*n, maxTries)
	wait := min(patience, f.timeout/time.Duration(tries+1))
	outcomes := make(chan outcome, tries)
	first, asked, pending := f.first.Load(), uint32(0), 0
	next := func() {
		i := (first + asked) % n
		asked++
		pending++
		wg.Go(func() {
			m, err := f.exchange(ctx, servers[i], questionOf(r))
			outcomes <- outcome{i, m, err}
		})
	}
	next()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var poor *miekg.Msg
	var errs []error
	for {
		select {
		case o := <-outcomes:
			pending--
			switch {
			case o.err != nil:
				errs = append(errs, fmt.Errorf("ask %v: %w", servers[o.server], o.err))
			case o.m.Rcode != miekg.RcodeSuccess && o.m.Rcode != miekg.RcodeNameError: // it can't or won't tell; others may
				poor = o.m
			default:
				f.first.Store(o.server)
				return o.m, nil
			}
			if asked < min(n, tries) {
				next()
				timer.Reset(wait)
				continue
			}
			if pending > 0 {
				continue
			}
		case <-timer.C:
			if asked < tries {
				next()
				timer.Reset(wait)
			}
			continue
		case <-ctx.Done():
			errs = append(errs, errSilent)
		}
		if poor != nil {
			return poor, nil
		}
		return nil, errors.Join(errs...)
	}
}

// questionOf makes the message that carries a client's question to a server: a new
// random ID, the client's flags, and EDNS only if the client spoke it, with a size that
// passes everywhere and none of its options.
func questionOf(r *miekg.Msg) *miekg.Msg {
	q := new(miekg.Msg)
	q.Id = miekg.Id()
	q.RecursionDesired = r.RecursionDesired
	q.CheckingDisabled = r.CheckingDisabled
	q.AuthenticatedData = r.AuthenticatedData
	q.Question = r.Question
	if opt := r.IsEdns0(); opt != nil {
		q.SetEdns0(maxUDP, opt.Do())
	}
	return q
}

// relay makes a server's reply into ours: the client's ID and question, the
// server's records, and no claim that the data is authenticated, which was not
// checked here.
func relay(r, up *miekg.Msg) *miekg.Msg {
	m := new(miekg.Msg).SetReply(r)
	m.RecursionAvailable = up.RecursionAvailable
	m.Authoritative = up.Authoritative
	m.Truncated = up.Truncated
	m.Rcode = up.Rcode
	if m.Rcode > 0xf && r.IsEdns0() == nil {
		m.Rcode = miekg.RcodeServerFailure // it takes an OPT to say more
	}
	m.Answer, m.Ns, m.Extra = endToEnd(up.Answer), endToEnd(up.Ns), endToEnd(up.Extra)
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Name != r.Question[0].Name && strings.EqualFold(h.Name, r.Question[0].Name) {
			h.Name = r.Question[0].Name // what is kept was asked for in another case
		}
	}
	return m
}

// endToEnd leaves out, in place, the records that are between two servers only: EDNS and signatures of messages. A server that
// means harm may have them in any section.
func endToEnd(rrs []miekg.RR) []miekg.RR {
	return slices.DeleteFunc(rrs, func(rr miekg.RR) bool {
		sig, is := rr.(*miekg.SIG)
		t := rr.Header().Rrtype
		return t == miekg.TypeOPT || t == miekg.TypeTSIG || is && sig.TypeCovered == miekg.TypeNone // RFC 2931: SIG(0)
	})
}
