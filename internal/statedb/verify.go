package statedb

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// bbolt guards its first two pages by checksums and nothing else. So for every
// bucket the bucket "sum" has the exclusive or of a hash of each of its keys and
// values, moved on by each Apply and looked at by Open: a file with a flipped bit, a
// lost page or its end cut off is not taken for one that says something else.
const sumBucket = "sum"

// damagedError says that a state file is not what was written.
type damagedError struct{ why error }

func (e *damagedError) Error() string { return e.why.Error() }
func (e *damagedError) Unwrap() error { return e.why }

// IsDamaged says that Open has failed because the file is not what was written.
func IsDamaged(err error) bool {
	var d *damagedError
	return errors.As(err, &d)
}

// opened translates bbolt's errors.
func opened(path string, err error) error {
	if errors.Is(err, berrors.ErrTimeout) {
		return ErrLocked
	}
	return fmt.Errorf("open state file %s: %w", path, err)
}

// errOneMeta says that one of the two meta pages, which are written in turn, is not what was
// written: the last change may be missing. The rest is whole.
var errOneMeta = errors.New("one of the meta pages is damaged")

// metas says whether both meta pages are what was written. What they are: after the page's
// head of 16 bytes, in the machine's byte order, magic, version, page size and flags of 4
// bytes each, the root bucket and its sequence, the list of free pages, the file's end and the
// number of the change, 8 each, and FNV-1a over all that. bbolt takes the other one without a word.
func metas(path string, size int64) error {
	const head, sum = 16, 56
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, head+sum+8)
	for at := range int64(2) {
		if _, err := f.ReadAt(page, at*size); err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(page[head : head+sum])
		if h.Sum64() != binary.NativeEndian.Uint64(page[head+sum:]) {
			return errOneMeta
		}
	}
	return nil
}

// verify reads all of the file at path, if there is one, and changes nothing. errOneMeta
// leaves it usable.
func verify(path string) (err error) {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && fi.Size() == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open state file: %w", err)
	}
	// What is missing from the end of the file is a fault of the memory that it is
	// mapped to, and what bbolt finds there may make it panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damagedError{fmt.Errorf("read state file %s: %v", path, p)}
		}
	}()
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	var refused *os.PathError
	switch {
	case errors.Is(err, berrors.ErrTimeout), errors.As(err, &refused):
		return opened(path, err)
	case err != nil:
		return &damagedError{fmt.Errorf("open state file %s: %w", path, err)}
	}
	pageSize := int64(b.Info().PageSize)
	if err = overflows(path, pageSize); err != nil {
		return errors.Join(&damagedError{fmt.Errorf("read state file %s: %w", path, err)}, b.Close())
	}
	err = b.View(func(tx *bbolt.Tx) error {
		if tx.Size() > fi.Size() {
			return fmt.Errorf("%d bytes of %d are there", fi.Size(), tx.Size())
		}
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			if string(name) == sumBucket {
				return nil
			}
			want := tx.Bucket([]byte(sumBucket)).Get(name)
			have, err := sumOf(bucket)
			if err == nil && (len(want) != 8 || binary.BigEndian.Uint64(want) != have) {
				err = fmt.Errorf("bucket %q is not what was written", name)
			}
			return err
		})
	})
	// After a panic the file stays open, and mapped: it is moved away then.
	if cerr := b.Close(); cerr != nil && err == nil {
		return fmt.Errorf("close state file: %w", cerr)
	}
	if err != nil {
		return &damagedError{fmt.Errorf("read state file %s: %w", path, err)}
	}
	return metas(path, pageSize)
}

func sumOf(b *bbolt.Bucket) (sum uint64, err error) {
	err = b.ForEach(func(k, v []byte) error {
		sum ^= hash(string(k), v)
		return nil
	})
	return sum, err
}

func getSum(tx *bbolt.Tx, bucket string, b *bbolt.Bucket) (uint64, error) {
	if s := tx.Bucket([]byte(sumBucket)); s != nil {
		if v := s.Get([]byte(bucket)); len(v) == 8 {
			return binary.BigEndian.Uint64(v), nil
		}
	}
	return sumOf(b)
}

func putSum(tx *bbolt.Tx, bucket string, sum uint64) error {
	s, err := tx.CreateBucketIfNotExists([]byte(sumBucket))
	if err != nil {
		return err
	}
	return s.Put([]byte(bucket), binary.BigEndian.AppendUint64(nil, sum))
}

func hash(k string, v []byte) uint64 {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(k))))
	h.Write([]byte(k))
	h.Write(v)
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// openWritable opens a file that has been verified. What bbolt still finds wrong
// with it, in its list of free pages, makes it panic. A list that is wrong and does
// not show would have new data written over old, which the next Open sees. (Without
// the list, bbolt looks for free pages in a goroutine of its own, whose panics end
// the program.)
func openWritable(path string) (d *DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damagedError{fmt.Errorf("open state file %s: %v", path, p)}
		}
	}()
	d = &DB{uncertain: make(chan struct{})}
	d.b, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		d.f, err = os.OpenFile(name, flag, mode)
		return d.f, err
	}})
	if err != nil {
		return nil, opened(path, err)
	}
	return d, nil
}

// overflows looks for pages that claim to go on behind the file's end: bbolt would
// count to the end of them, of all four thousand million. A page begins with its
// number, 8 bytes, its flags and the number of its elements, 2 each, and how many
// pages follow it, 4, in the machine's byte order.
func overflows(path string, size int64) error {
	const branch, leaf = 1, 2
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, 16)
	for at := int64(0); at+size <= fi.Size(); at += size {
		if _, err := f.ReadAt(head, at); err != nil {
			return err
		}
		flags, more := binary.NativeEndian.Uint16(head[8:]), int64(binary.NativeEndian.Uint32(head[12:]))
		if flags&(branch|leaf) != 0 && at+(1+more)*size > fi.Size() {
			return fmt.Errorf("page %d goes on behind the end", at/size)
		}
	}
	return nil
}
