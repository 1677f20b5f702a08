package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

var elsewhere = netip.MustParseAddrPort("192.0.2.53:53")

// modelResolver is a resolver of one server, which answers by a function.
func modelResolver(refused func(netip.Addr) bool, exchange func(context.Context, netip.AddrPort, *miekg.Msg) (*miekg.Msg, error)) *resolver {
	z := &zoneForwarder{domain: ".", forwarder: newForwarder(5*time.Second, func() []netip.AddrPort { return []netip.AddrPort{elsewhere} })}
	z.exchange = exchange
	return newResolver([]*zoneForwarder{z}, refused, slog.New(slog.DiscardHandler))
}

// While upstream servers are silent, the first who asks waits for them, and hardly anybody after that: a stale answer
// is given at once. They are asked all the same, and their first answer is taken.
func TestStaleAnswersCostNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		live := answering("203.0.113.1", 60)
		r := modelResolver(nil, func(ctx context.Context, _ netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
			if dead.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return live(q), nil
		})
		defer r.close()
		ask := func(n int) (ttl uint32, took time.Duration) {
			at := time.Now()
			m, err := r.ask(t.Context(), question(fmt.Sprintf("n%d.example.com.", n), miekg.TypeA), client{})
			if err != nil || len(m.Answer) != 1 {
				t.Fatalf("%v %v", m, err)
			}
			return m.Answer[0].Header().Ttl, time.Since(at)
		}
		for n := range 10 {
			ask(n)
		}
		time.Sleep(time.Hour)
		dead.Store(true)
		for n := range 10 {
			want := brief
			if n == 0 {
				want = impatient
			}
			if ttl, took := ask(n); took != want || ttl != staleTTL {
				t.Errorf("name %d, first: TTL %d after %v, want %v", n, ttl, took, want)
			}
		}
		for range 600 {
			time.Sleep(200 * time.Millisecond)
			if ttl, took := ask(0); took != 0 || ttl != staleTTL {
				t.Fatalf("again: TTL %d after %v", ttl, took)
			}
		}
		// A name that is asked for after longer than staleFor is tried again, for a moment.
		if _, took := ask(1); took != brief {
			t.Errorf("after two minutes: %v", took)
		}
		dead.Store(false)
		time.Sleep(6 * time.Second)
		ask(0) // what this asks for, the next has
		synctest.Wait()
		if ttl, took := ask(0); ttl != 60 || took != 0 {
			t.Errorf("they answer again: TTL %d after %v", ttl, took)
		}
		// So they do; one that then takes long is waited for.
		time.Sleep(time.Hour)
		dead.Store(true)
		if ttl, took := ask(0); took != impatient || ttl != staleTTL {
			t.Errorf("silent anew: TTL %d after %v", ttl, took)
		}
	})
}

// One name that takes long says nothing of others, as long as these have answers.
func TestOneSlowNameDoesNotMakeOthersStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := time.Duration(0)
		live := answering("203.0.113.1", 60)
		r := modelResolver(nil, func(ctx context.Context, _ netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
			wait := 500 * time.Millisecond
			if q.Question[0].Name == "slow.example.com." {
				wait = slow
			}
			select {
			case <-time.After(wait):
				return live(q), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		defer r.close()
		ask := func(name string) uint32 {
			m, err := r.ask(t.Context(), question(name, miekg.TypeA), client{})
			if err != nil || len(m.Answer) != 1 {
				t.Fatalf("%v %v", m, err)
			}
			return m.Answer[0].Header().Ttl
		}
		ask("slow.example.com.")
		ask("a.example.com.")
		ask("b.example.com.")
		time.Sleep(time.Hour)
		slow = time.Hour
		done := make(chan uint32)
		go func() { done <- ask("slow.example.com.") }()
		if ttl := ask("a.example.com."); ttl != 60 {
			t.Errorf("a: TTL %d", ttl)
		}
		if ttl := <-done; ttl != staleTTL {
			t.Errorf("slow: TTL %d", ttl)
		}
		if ttl := ask("b.example.com."); ttl != 60 {
			t.Errorf("b, after it: TTL %d", ttl)
		}
	})
}

// An answer that is refused is refused, also if there is a stale one that was not.
func TestNoStaleAnswerForARefusedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ip := "203.0.113.1"
		r := modelResolver(func(a netip.Addr) bool { return a.IsPrivate() }, func(_ context.Context, _ netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
			return answering(ip, 60)(q), nil
		})
		defer r.close()
		q := question("www.example.com.", miekg.TypeA)
		if m, err := r.ask(t.Context(), q, client{}); err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v %v", m, err)
		}
		time.Sleep(time.Hour)
		ip = "10.0.0.1"
		for range 5 {
			if m, err := r.ask(t.Context(), q, client{}); !errors.Is(err, errRebind) {
				t.Errorf("%v %v", m, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// What upstream says last ends what it said before, also if it may not be kept or given: only what says nothing of the name doesn't.
func TestTheLastWordCounts(t *testing.T) {
	rcode := func(code int) func(*miekg.Msg) *miekg.Msg {
		return func(q *miekg.Msg) *miekg.Msg { return new(miekg.Msg).SetRcode(q, code) }
	}
	for what, c := range map[string]struct {
		says func(*miekg.Msg) *miekg.Msg // nil: nothing
		ends bool
	}{
		"another address, not to be kept": {answering("203.0.113.2", 0), true},
		"no such name, without SOA":       {rcode(miekg.RcodeNameError), true},
		"no such type, without SOA":       {rcode(miekg.RcodeSuccess), true},
		"an address that is refused":      {answering("10.0.0.1", 60), true},
		"an error":                        {rcode(miekg.RcodeServerFailure), false},
		"a refusal":                       {rcode(miekg.RcodeRefused), false},
		"nothing":                         {nil, false},
		"a part": {func(q *miekg.Msg) *miekg.Msg {
			m := answering("203.0.113.2", 60)(q)
			m.Truncated = true
			return m
		}, false},
	} {
		for _, fresh := range []bool{false, true} {
			run := func(t *testing.T) {
				says := answering("203.0.113.1", 100)
				r := modelResolver(func(a netip.Addr) bool { return a.IsPrivate() }, func(ctx context.Context, _ netip.AddrPort, q *miekg.Msg) (*miekg.Msg, error) {
					if says == nil {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return says(q), nil
				})
				defer r.close()
				q := question("www.example.com.", miekg.TypeA)
				for range hot {
					if m, err := r.ask(t.Context(), q, client{}); err != nil || len(m.Answer) != 1 {
						t.Fatalf("%v %v", m, err)
					}
				}
				says = c.says
				if fresh { // it is asked again before its end
					time.Sleep(95 * time.Second)
				} else {
					time.Sleep(time.Hour)
				}
				_, _ = r.ask(t.Context(), q, client{})
				time.Sleep(time.Minute)
				synctest.Wait() // the flight is over
				says = nil
				m, err := r.ask(t.Context(), q, client{})
				if ends := err != nil; ends != c.ends {
					t.Errorf("when upstream is dead: %v %v", m, err)
				}
			}
			t.Run(fmt.Sprintf("%s, asked before its end: %v", what, fresh), func(t *testing.T) { synctest.Test(t, run) })
		}
	}
}
