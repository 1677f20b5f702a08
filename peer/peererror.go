package peer

import (
	"errors"
	"fmt"
)

// peerError is what went wrong with one peer of the device.
type peerError struct {
	key Key // zero: with allowed IPs that no peer should have
	err error
}

func peerErrorf(k Key, format string, args ...any) error {
	return &peerError{k, fmt.Errorf(format, args...)}
}

func (e *peerError) Error() string { return e.err.Error() }
func (e *peerError) Unwrap() error { return e.err }

// ErrorsOf is what an error of a [Device], or some of them joined, says about one peer:
// what concerns other peers only is left out. What concerns the device is about all.
func ErrorsOf(k Key, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, ErrorsOf(k, e))
		}
		return errors.Join(out...)
	}
	if p, ok := errors.AsType[*peerError](err); ok && p.key != k && !errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
