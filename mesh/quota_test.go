package mesh

import (
	"bytes"
	"errors"
	"testing"
)

// The bytes that one author's epoch may have are the author's fault beyond.
func TestByteQuota(t *testing.T) {
	s, r := newScribe(t, NewSecret()), newReplica()
	ps := s.epochOf(t, 10, 2, 6000, func(int) []byte { return bytes.Repeat([]byte("x"), maxPayload) })
	var err error
	for _, p := range ps {
		if err = r.merge(p, true, &change{}); err != nil {
			break
		}
	}
	if a := r.authors[s.id.ID()]; !errors.Is(err, errQuota) || a.held > maxLogBytes {
		t.Errorf("%d bytes are held, %v", a.held, err)
	}
}

// What has come before what goes before it is kept up to a bound, and comes again.
func TestEarlyQuota(t *testing.T) {
	s, r := newScribe(t, NewSecret()), newReplica()
	ps := s.epoch(t, 10, 2, maxEarly+50)
	mergeAll(t, r, ps[:1])
	for _, p := range ps[5:] {
		_ = r.merge(p, false, &change{})
	}
	a := r.authors[s.id.ID()]
	n := 0
	for _, ep := range append(append([]*epoch{}, a.next...), a.current) {
		if ep != nil {
			n += len(ep.early)
		}
	}
	if n != maxEarly {
		t.Errorf("%d entries wait", n)
	}
}
