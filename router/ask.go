package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weft/peer"
)

const (
	askPatience   = 4 * time.Second  // with one host
	roundPatience = 10 * time.Second // with all that are asked in a row
)

// want is space in a subnet. If it is needed now, it may be the last address that its
// owner has.
type want struct {
	subnet netip.Prefix
	needed bool
}

// asker asks other hosts for address space: one call at a time, or this host
// would get more than it needs, and one round of calls for all who want the
// same space.
type asker struct {
	order func(w want) ([]peer.ID, error) // whom, one after the other
	may   func(id peer.ID) (bool, error)  // whether it is there; an error: this host asks nobody now
	call  func(ctx context.Context, id peer.ID, w want) (got bool, err error)

	given atomic.Uint64 // how often somebody gave some

	mu     sync.Mutex // guards the fields below
	rounds map[want]*round
	paused int
	queue  chan struct{} // of calls; see turn
}

// round is what several may wait for. got, err and hungUp are set when done is closed.
type round struct {
	done   chan struct{}
	got    bool
	err    error
	hungUp bool // who began it did not wait for its end
}

// ask says whether somebody gave the space, or has given any since the
// caller looked for some: seen is what given was then.
func (a *asker) ask(ctx context.Context, w want, seen uint64) (bool, error) {
	for {
		if a.given.Load() != seen {
			return true, nil
		}
		a.mu.Lock()
		if rd := a.rounds[w]; rd != nil {
			a.mu.Unlock()
			select {
			case <-rd.done:
			case <-ctx.Done():
				return false, ctx.Err()
			}
			if rd.hungUp {
				continue
			}
			return rd.got, rd.err
		}
		rd := &round{done: make(chan struct{})}
		if a.rounds == nil {
			a.rounds = map[want]*round{}
		}
		a.rounds[w] = rd
		a.mu.Unlock()
		rd.got, rd.err = a.round(ctx, w, seen)
		rd.hungUp = !rd.got && ctx.Err() != nil
		a.mu.Lock()
		delete(a.rounds, w)
		a.mu.Unlock()
		close(rd.done)
		return rd.got, rd.err
	}
}

// round asks one host after the other until one gives something. Who is asked when
// nobody has after a while comes into the next round.
func (a *asker) round(ctx context.Context, w want, seen uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	ids, err := a.order(w)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, id := range ids {
		got, end, err := a.one(ctx, id, w, func() bool { return a.given.Load() == seen })
		if got {
			return true, nil
		}
		errs = append(errs, err)
		if end || ctx.Err() != nil {
			break
		}
	}
	return false, errors.Join(errs...)
}

// one is a call, if it is still wanted when its turn comes.
func (a *asker) one(ctx context.Context, id peer.ID, w want, wanted func() bool) (got, end bool, err error) {
	unlock, err := a.turn(ctx)
	if err != nil {
		return false, true, err
	}
	defer unlock()
	a.mu.Lock()
	paused := a.paused > 0
	a.mu.Unlock()
	if !wanted() {
		return true, true, nil
	}
	if paused {
		return false, true, errResetting
	}
	if there, err := a.may(id); !there || err != nil {
		return false, err != nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if got, err = a.call(ctx, id, w); err != nil {
		return false, false, fmt.Errorf("ask %v for address space: %w", id, err)
	}
	if got {
		a.given.Add(1)
	}
	return got, false, nil
}

// turn waits until this call is the next. Who comes first is first: a channel's senders queue, and a round
// that asks many hosts stands behind the others again each time.
func (a *asker) turn(ctx context.Context) (end func(), err error) {
	a.mu.Lock()
	if a.queue == nil {
		a.queue = make(chan struct{}, 1)
	}
	q := a.queue
	a.mu.Unlock()
	select {
	case q <- struct{}{}:
		return func() { <-q }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pause waits for the call that is under way, and keeps others from beginning until
// resume is called.
func (a *asker) pause(ctx context.Context) (resume func(), err error) {
	a.mu.Lock()
	a.paused++
	a.mu.Unlock()
	resume = func() {
		a.mu.Lock()
		a.paused--
		a.mu.Unlock()
	}
	unlock, err := a.turn(ctx)
	if err != nil {
		resume()
		return nil, err
	}
	unlock()
	return resume, nil
}
