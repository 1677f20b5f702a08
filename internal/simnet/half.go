package simnet

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// half is one direction of a stream: bytes that arrived, segments on the way.
type half struct {
	mu      sync.Mutex
	flight  []*segment // on the way, in order
	buf     []byte     // arrived, not read
	size    int        // bytes in flight and buf
	entered int        // bytes that were sent in all
	came    int        // … of which have come, in order
	acked   int        // … of which the writer knows
	fin     bool       // the writer's end has arrived
	readErr error      // set: nothing can be read any more
	sendErr error      // set: nothing can be written any more
	dead    bool       // nobody reads this, or nobody sends it: what is on the way is dropped

	readBy, writeBy time.Time
	changed         chan struct{} // closed and renewed at each change
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// wait releases mu until something changes or by has passed.
func (h *half) waitLocked(by time.Time) {
	ch := h.changed
	h.mu.Unlock()
	if by.IsZero() {
		<-ch
	} else {
		t := time.NewTimer(time.Until(by))
		select {
		case <-ch:
		case <-t.C:
		}
		t.Stop()
	}
	h.mu.Lock()
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readErr != nil:
			return 0, h.readErr
		case past(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			h.size -= n
			h.wakeLocked()
			return n, nil
		case h.fin:
			return 0, io.EOF
		}
		h.waitLocked(h.readBy)
	}
}

// write hands b to send piece by piece, as the window allows.
func (h *half) write(b []byte, send func([]byte)) (int, error) {
	done := 0
	for done < len(b) {
		h.mu.Lock()
		for h.sendErr == nil && !past(h.writeBy) && h.takenLocked() >= streamWindow {
			h.waitLocked(h.writeBy)
		}
		err := h.sendErr
		if err == nil && past(h.writeBy) {
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			h.mu.Unlock()
			return done, err
		}
		n := min(len(b)-done, streamWindow-h.takenLocked())
		h.size += n
		h.mu.Unlock()
		send(append([]byte(nil), b[done:done+n]...))
		done += n
	}
	return done, nil
}

// takenLocked is how much of the window is in use.
func (h *half) takenLocked() int { return max(h.size, h.entered-h.acked) }

// enter puts s on the way.
func (h *half) enter(s *segment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entered += len(s.data)
	s.end = h.entered
	h.flight = append(h.flight, s)
}

// arrive hands over s, as soon as all before it has come. It returns how much has come
// in order; s may come twice.
func (h *half) arrive(s *segment) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.there = true
	for len(h.flight) > 0 && h.flight[0].there {
		s = h.flight[0]
		h.flight = h.flight[1:]
		h.came = s.end
		switch {
		case s.fin:
			h.fin = true
		case h.dead:
			h.size -= len(s.data)
		default:
			h.buf = append(h.buf, s.data...)
		}
		h.wakeLocked()
	}
	return h.came
}

// acknowledge tells the writer's end how much has come.
func (h *half) acknowledge(upTo int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = max(h.acked, upTo)
	h.wakeLocked()
}

// settled tells that s need not travel any more: the writer knows that it has come, or
// one of the ends is gone.
func (h *half) settled(s *segment) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead || s.there && h.acked >= s.end
}

// isDead tells that nobody reads this, or nobody sends it.
func (h *half) isDead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// abandon is the end of the writer's machine or program: what it has not sent so far,
// nobody sends.
func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = true
}

// reset makes both ends of this direction fail at once.
func (h *half) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = syscall.ECONNRESET
	}
	if h.sendErr == nil {
		h.sendErr = syscall.EPIPE
	}
	h.wakeLocked()
}

// closeRead is the reader's Close: what still comes is dropped, and the writer
// fails at its next write if tell.
func (h *half) closeRead(err error, tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = err
	}
	h.dead = true
	h.buf, h.size = nil, 0
	if tell && h.sendErr == nil {
		h.sendErr = syscall.EPIPE
	}
	h.wakeLocked()
}

func (h *half) closeWrite(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sendErr = err
	h.wakeLocked()
}

func (h *half) setReadDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readBy = t
	h.wakeLocked()
}

func (h *half) setWriteDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeBy = t
	h.wakeLocked()
}
