package mesh

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weft/peer"
)

const (
	leavePush    = 8 // live hosts that get the announcement over a stream, too
	leaveTimeout = 3 * time.Second
)

// Leave announces that this host stops: the others see it as Left at once,
// instead of Failed after some seconds. It is to be called while Run runs and
// before its context ends; it returns when some hosts have confirmed, or ctx or 3 s
// have ended. With nobody to tell it returns at once.
func (m *Mesh) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	if err := m.changeRecord(func(r *Record) { r.Ext = m.extensions() }); err != nil {
		return fmt.Errorf("announce the stop: %w", err)
	}
	ml := m.gossip.Load()
	if ml == nil {
		return nil
	}
	ids := m.live(leavePush)
	var wg sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		wg.Go(func() { errs[i] = m.syncWith(ctx, id) })
	}
	wg.Go(func() {
		m.farewell.Lock()
		defer m.farewell.Unlock()
		if len(ids) > 0 && m.gossip.Load() != nil {
			_ = ml.Leave(leaveTimeout / 3)
		}
	})
	wg.Wait()
	return leaveError(ids, errs)
}

// leaveError is nil if anybody has heard, or there was nobody.
func leaveError(ids []peer.ID, errs []error) error {
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("announce the stop: none of %d hosts confirmed: %w", len(ids), errs[0])
}
