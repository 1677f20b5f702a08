package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/peer"
)

// donors is a mesh of hosts to ask: each answers after a while.
type donors struct {
	asker
	mu    sync.Mutex // guards the fields below
	hosts []peer.ID
	after time.Duration
	gives map[peer.ID]int // how often
	dead  map[peer.ID]bool
	asked []peer.ID
	busy  int
	most  int // calls at a time
	no    error
}

func newDonors(n int, after time.Duration) *donors {
	d := &donors{after: after, gives: map[peer.ID]int{}, dead: map[peer.ID]bool{}}
	for i := range n {
		d.hosts = append(d.hosts, peer.ID{byte(i + 1)})
	}
	d.order = func(want) ([]peer.ID, error) { return d.hosts, nil }
	d.may = func(id peer.ID) (bool, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !d.dead[id], d.no
	}
	d.call = func(ctx context.Context, id peer.ID, _ want) (bool, error) {
		d.mu.Lock()
		d.asked = append(d.asked, id)
		d.busy++
		d.most = max(d.most, d.busy)
		d.mu.Unlock()
		defer func() {
			d.mu.Lock()
			d.busy--
			d.mu.Unlock()
		}()
		select {
		case <-time.After(d.after):
		case <-ctx.Done():
			return false, ctx.Err()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.gives[id] == 0 {
			return false, nil
		}
		d.gives[id]--
		return true, nil
	}
	return d
}

// many asks at the same moment, each for its subnet.
func (d *donors) many(ctx context.Context, subnets ...netip.Prefix) (got int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := d.given.Load()
	for _, s := range subnets {
		wg.Go(func() {
			if ok, _ := d.ask(ctx, want{subnet: s}, seen); ok {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got
}

var (
	wholeRange = netip.MustParsePrefix("10.32.0.0/12")
	partOfIt   = netip.MustParsePrefix("10.33.0.0/16")
)

func TestOneGiftServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonors(5, 100*time.Millisecond)
		d.gives[peer.ID{3}] = 9
		if got := d.many(t.Context(), append(slices.Repeat([]netip.Prefix{wholeRange}, 50), partOfIt)...); got != 51 {
			t.Errorf("%d of 51 are told of the gift", got)
		}
		if d.gives[peer.ID{3}] != 8 || d.most != 1 {
			t.Errorf("%d gifts, %d calls at a time", 9-d.gives[peer.ID{3}], d.most)
		}
		d.hosts = nil
		// What came since the caller looked counts, or it would ask for more.
		if got, err := d.ask(t.Context(), want{subnet: wholeRange}, 0); !got || err != nil || d.gives[peer.ID{3}] != 8 {
			t.Errorf("after the gift: %v, %v, %d gifts", got, err, 9-d.gives[peer.ID{3}])
		}
	})
}

func TestOneRefusalServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonors(5, 100*time.Millisecond)
		if got := d.many(t.Context(), slices.Repeat([]netip.Prefix{wholeRange}, 50)...); got != 0 || len(d.asked) != 5 {
			t.Errorf("%d are told of a gift, after %d calls", got, len(d.asked))
		}
	})
}

func TestRoundOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonors(50, time.Hour)
		d.dead[peer.ID{1}] = true
		start := time.Now()
		got, err := d.ask(t.Context(), want{subnet: wholeRange}, 0)
		if took := time.Since(start); got || !errors.Is(err, context.DeadlineExceeded) || took != roundPatience {
			t.Errorf("nobody answers: %v, %v after %v", got, err, took)
		}
		if want := []peer.ID{{2}, {3}, {4}}; !slices.Equal(d.asked, want) {
			t.Errorf("asked %v", d.asked)
		}
		// A host that dies while another is asked is not asked.
		d.asked = nil
		time.AfterFunc(time.Second, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, id := range d.hosts {
				d.dead[id] = id != peer.ID{9}
			}
		})
		_, _ = d.ask(t.Context(), want{subnet: wholeRange}, 0)
		if want := []peer.ID{{2}, {9}}; !slices.Equal(d.asked, want) {
			t.Errorf("asked %v", d.asked)
		}
		d.asked, d.no = nil, errResetting
		if got, err := d.ask(t.Context(), want{subnet: wholeRange}, 0); got || !errors.Is(err, errResetting) || len(d.asked) > 0 {
			t.Errorf("a host that may take nothing: %v, %v, asked %v", got, err, d.asked)
		}
	})
}

// Who waits for another's round goes on by itself when that one hangs up.
func TestAskerHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonors(2, time.Second)
		d.gives[peer.ID{2}] = 1
		first, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, hangUp)
		var wg sync.WaitGroup
		wg.Go(func() {
			if got, err := d.ask(first, want{subnet: wholeRange}, 0); got || !errors.Is(err, context.Canceled) {
				t.Errorf("who hung up: %v, %v", got, err)
			}
		})
		synctest.Wait()
		if got, err := d.ask(t.Context(), want{subnet: wholeRange}, 0); !got || err != nil {
			t.Errorf("who waited: %v, %v", got, err)
		}
		wg.Wait()
	})
}

// A reset waits for the call that is under way, not for those that were to follow.
func TestResetPausesAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonors(50, 1500*time.Millisecond)
		r := &Router{}
		r.asks.order, r.asks.call = d.order, d.call
		r.asks.may = func(peer.ID) (bool, error) { return true, r.mayTake() }
		ended := make(chan error)
		go func() {
			_, err := r.asks.ask(t.Context(), want{subnet: wholeRange}, 0)
			ended <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := r.beginReset(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != d.after {
			t.Errorf("it waited %v", took)
		}
		if err := <-ended; !errors.Is(err, errResetting) || len(d.asked) != 1 {
			t.Errorf("%v, after %d calls", err, len(d.asked))
		}
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		r.mu.Lock()
		r.resetting = false
		r.mu.Unlock()
		go func() {
			_, err := r.asks.ask(t.Context(), want{subnet: wholeRange}, 0)
			ended <- err
		}()
		synctest.Wait()
		if _, err := r.asks.pause(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a reset that is called off: %v", err)
		}
		if err := <-ended; errors.Is(err, errResetting) || len(d.asked) < 5 {
			t.Errorf("then asking goes on: %v, %d calls", err, len(d.asked))
		}
	})
}
