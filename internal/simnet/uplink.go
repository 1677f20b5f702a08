package simnet

import "time"

// quantum is how many bytes of a stream go before the next stream has its turn.
const quantum = 2 * segmentSize

// uplink is the way out of a host, which the streams share: each has its turn. Datagrams
// and acknowledgements are small, and do not wait. It is guarded by Net.mu.
type uplink struct {
	rate  int     // bytes a second; 0: without bounds
	queue []*flow // streams that have something to send, the next one first
}

type flow struct {
	of    *half
	loads []load
}

// load is bytes that wait; gone is called when they are on their way.
type load struct {
	bytes int
	gone  func()
}

// SetUplink bounds what the host's streams send to other hosts together, in bytes a
// second. 0, as at the start, is no bound.
func (h *Host) SetUplink(rate int) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.uplink.rate = rate
}

// upload calls gone when so many bytes of a stream have had their turn.
func (h *Host) upload(of *half, bytes int, gone func()) {
	h.net.mu.Lock()
	u := &h.uplink
	if len(u.queue) == 0 && (u.rate == 0 || bytes == 0) {
		h.net.mu.Unlock()
		gone()
		return
	}
	defer h.net.mu.Unlock()
	l := load{bytes, gone}
	for _, f := range u.queue {
		if f.of == of {
			f.loads = append(f.loads, l)
			return
		}
	}
	if u.queue = append(u.queue, &flow{of, []load{l}}); len(u.queue) == 1 {
		u.turnLocked(h)
	}
}

// turnLocked sends a quantum of the first stream, and then lets the next one go on.
func (u *uplink) turnLocked(h *Host) {
	f := u.queue[0]
	n := min(f.loads[0].bytes, quantum)
	if f.of.isDead() {
		n = 0 // nobody waits for it any more
	}
	var wait time.Duration
	if u.rate > 0 {
		wait = time.Duration(n) * time.Second / time.Duration(u.rate)
	}
	time.AfterFunc(wait, func() {
		gone := func() {}
		h.net.mu.Lock()
		if f.loads[0].bytes -= n; n == 0 || f.loads[0].bytes == 0 {
			gone, f.loads = f.loads[0].gone, f.loads[1:]
		}
		if u.queue = u.queue[1:]; len(f.loads) > 0 {
			u.queue = append(u.queue, f)
		}
		if len(u.queue) > 0 {
			u.turnLocked(h)
		}
		h.net.mu.Unlock()
		gone()
	})
}
