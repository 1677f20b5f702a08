package netlab

import (
	"container/heap"
	"sync"
	"time"
)

// maxDelayed bounds the bytes waiting in a delayLine; a frame beyond it is
// dropped, as by a full queue.
const maxDelayed = 64 << 20

// delayLine holds frames until their time has come.
type delayLine struct {
	changed chan struct{} // an earlier frame has come
	ended   chan struct{}

	mu     sync.Mutex // guards the fields below
	frames frameHeap
	size   int
	count  uint64
}

type delayedFrame struct {
	frame []byte
	at    time.Time
	n     uint64 // keeps frames of one time in order
}

func (d *delayLine) init() {
	d.changed, d.ended = make(chan struct{}, 1), make(chan struct{})
}

func (d *delayLine) end() { close(d.ended) }

// add keeps a copy of frame.
func (d *delayLine) add(frame []byte, at time.Time) {
	d.mu.Lock()
	if d.size+len(frame) > maxDelayed {
		d.mu.Unlock()
		return
	}
	d.size += len(frame)
	d.count++
	heap.Push(&d.frames, delayedFrame{append([]byte(nil), frame...), at, d.count})
	first := d.frames[0].n == d.count
	d.mu.Unlock()
	if first {
		select {
		case d.changed <- struct{}{}:
		default:
		}
	}
}

// run sends frames when they are due, until end.
func (d *delayLine) run(send func([]byte)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-d.ended:
			return
		case <-d.changed:
		case <-timer.C:
		}
		for {
			frame, wait := d.due(time.Now())
			if frame == nil {
				timer.Reset(wait)
				break
			}
			send(frame)
		}
	}
}

// due takes out a frame whose time has come, or says how long to wait.
func (d *delayLine) due(now time.Time) (frame []byte, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.frames) == 0 {
		return nil, time.Hour
	}
	if wait := d.frames[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	first := heap.Pop(&d.frames).(delayedFrame)
	d.size -= len(first.frame)
	return first.frame, 0
}

type frameHeap []delayedFrame

func (h frameHeap) Len() int { return len(h) }
func (h frameHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].n < h[j].n
	}
	return h[i].at.Before(h[j].at)
}
func (h frameHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *frameHeap) Push(x any)   { *h = append(*h, x.(delayedFrame)) }
func (h *frameHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = delayedFrame{} // let go of the bytes
	*h = old[:len(old)-1]
	return last
}
