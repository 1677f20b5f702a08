// Package statedb keeps the router's state in one bbolt file: named buckets of
// keys and values, changed by durable transactions.
//
// It owns the file and its lock, so that two routers never share one state. It
// does not know what the values mean; every consumer has a format of its own.
// A DB may be used by many goroutines at once. When a disk does not say whether it
// has a change, the file is given up: see ErrUncertain.
package statedb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.etcd.io/bbolt"
)

// DB is an open state file.
type DB struct {
	b *bbolt.DB
	f *os.File // that of b

	mayLack bool // see MayLack

	mu        sync.Mutex    // one change at a time; guards the field below
	lost      error         // why the file was given up
	uncertain chan struct{} // closed when it was
}

// ErrLocked says that another process has the state file open.
var ErrLocked = errors.New("state file is in use by another process")

// Open opens the state file at path, 0600, and makes it when it is missing. It
// waits at most one second for the lock and then returns ErrLocked.
func Open(path string) (*DB, error) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, fmt.Errorf("restrict state file: %w", err)
		}
	}
	found := verify(path)
	if found != nil && !errors.Is(found, errOneMeta) {
		return nil, found
	}
	d, err := openWritable(path)
	if err != nil {
		return nil, err
	}
	d.mayLack = found != nil
	if err := d.rewriteMeta(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	// A new file is only there after a crash when its directory entry is.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// MayLack says that the file, as it was opened, may lack the last change that was made to it:
// the page that makes that one count may be the one that is damaged. All else is whole.
func (d *DB) MayLack() bool { return d.mayLack }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	return nil
}

// Load returns a copy of everything in a bucket; a bucket that was never
// written is empty.
func (d *DB) Load(bucket string) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := d.b.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			all[string(k)] = append([]byte(nil), v...)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read state bucket %s: %w", bucket, err)
	}
	return all, nil
}

// Apply writes and deletes keys of one bucket in one transaction. When it
// returns nil, the change is on disk; when it returns an error, none of it is,
// unless the error is ErrUncertain: then this is the last change that was tried.
func (d *DB) Apply(bucket string, put map[string][]byte, del []string) error {
	if len(put) == 0 && len(del) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.lost
	if err == nil {
		err = d.commitLocked(func() error { return d.update(bucket, put, del) })
	}
	if err != nil {
		return fmt.Errorf("write state bucket %s: %w", bucket, err)
	}
	return nil
}

func (d *DB) update(bucket string, put map[string][]byte, del []string) error {
	return d.b.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		sum, err := getSum(tx, bucket, b)
		if err != nil {
			return err
		}
		for _, k := range del {
			if old := b.Get([]byte(k)); old != nil {
				sum ^= hash(k, old)
			}
			if err := b.Delete([]byte(k)); err != nil {
				return err
			}
		}
		for k, v := range put {
			if old := b.Get([]byte(k)); old != nil {
				sum ^= hash(k, old)
			}
			sum ^= hash(k, v)
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return putSum(tx, bucket, sum)
	})
}

// Sequence is the number of the last change. It grows with every Apply and is a
// part of the file: a copy that is put back has the number that it had.
func (d *DB) Sequence() (n uint64, err error) {
	err = d.b.View(func(tx *bbolt.Tx) error { n = uint64(tx.ID()); return nil })
	if err != nil {
		return 0, fmt.Errorf("read the number of the last change: %w", err)
	}
	return n, nil
}

// Close releases the file and its lock.
func (d *DB) Close() error { return d.b.Close() }
