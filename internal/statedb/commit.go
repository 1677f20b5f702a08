package statedb

import (
	"context"
	"errors"
	"fmt"
)

// ErrUncertain says that nobody knows whether a change is on disk. The file takes
// no change after that: what the next Open finds in it counts.
var ErrUncertain = errors.New("it is not known what the disk has, so the state file is given up")

// Watch waits until the file is given up and says why, or returns nil when ctx ends.
// Who uses the file has to end then: it goes by what it has in memory, which the file
// may be ahead of.
func (d *DB) Watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.uncertain:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.lost
	}
}

// commitLocked carries out a transaction of bbolt's. That writes and syncs pages
// that nothing refers to yet, and then the meta page that does. A change that fails
// before it has the meta page written was not made, and its pages are written again by
// whoever uses them next. If only the meta page's sync fails, the change is in the
// page cache, hence in the file for everybody who reads it, and perhaps on disk.
func (d *DB) commitLocked(change func() error) error {
	before, err := d.Sequence()
	if err != nil {
		return err
	}
	failed := change()
	if failed == nil {
		return nil
	}
	after, err := d.Sequence()
	if err == nil && after == before {
		return failed
	}
	if err == nil {
		err = d.rewriteMeta()
	}
	if err == nil {
		return nil // the change is made
	}
	d.lost = fmt.Errorf("%w: %w; %w", ErrUncertain, failed, err)
	close(d.uncertain)
	return d.lost
}

// rewriteMeta puts the two meta pages, one of which the file is read by, on disk as
// they are. After a failed sync Linux holds the pages for clean: to sync again succeeds
// and writes nothing, to write them again does. What they refer to was synced before.
//
// An Open does it too, since the process before may have ended by such a failure.
// Without it, bbolt could write over what the disk's older meta page refers to.
func (d *DB) rewriteMeta() error {
	pages := make([]byte, 2*d.b.Info().PageSize)
	if _, err := d.f.ReadAt(pages, 0); err != nil {
		return fmt.Errorf("read the number of the last change: %w", err)
	}
	if _, err := d.f.WriteAt(pages, 0); err != nil {
		return fmt.Errorf("write the last change again: %w", err)
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("sync the last change: %w", err)
	}
	return nil
}
