package mesh

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	maxNotices = 16
	noticeAge  = 10 * time.Minute // after which one that is not repeated goes
)

// notices are what an operator should read, one per cause. Not safe for use by
// several goroutines: Mesh.mu guards them.
type notices map[string]notice

type notice struct {
	text        string
	first, last time.Time
}

// set notes or repeats a cause; it reports whether anything visible changed.
func (n notices) set(cause, text string, now time.Time) bool {
	old, ok := n[cause]
	if !ok {
		old.first = now
	}
	n[cause] = notice{text: text, first: old.first, last: now}
	for len(n) > maxNotices {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(n)), func(a, b string) int { return n[a].last.Compare(n[b].last) })
		delete(n, oldest)
	}
	return !ok || old.text != text
}

// clear forgets a cause; it reports whether it was there.
func (n notices) clear(cause string) bool {
	_, ok := n[cause]
	delete(n, cause)
	return ok
}

// expire forgets what has not been repeated for a while.
func (n notices) expire(now time.Time) (changed bool) {
	for cause, x := range n {
		if now.Sub(x.last) > noticeAge {
			delete(n, cause)
			changed = true
		}
	}
	return changed
}

// texts are sorted by when they first came.
func (n notices) texts() []string {
	all := slices.SortedFunc(maps.Values(n), func(a, b notice) int {
		if c := a.first.Compare(b.first); c != 0 {
			return c
		}
		if a.text < b.text {
			return -1
		}
		return 1
	})
	var out []string
	for _, x := range all {
		out = append(out, x.text)
	}
	return out
}

// counters count events by name.
type counters struct {
	mu sync.Mutex // guards n
	n  map[string]uint64
}

func (c *counters) add(name string) { c.addN(name, 1) }

func (c *counters) addN(name string, n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]uint64)
	}
	c.n[name] += uint64(n)
}

// Counters tells how often things happened since New, by name: joins and
// refusals ("join_refused_wrong_secret"), rejected entries, drops. The set of
// names is fixed in the code; none comes from a peer.
func (m *Mesh) Counters() map[string]uint64 {
	m.count.mu.Lock()
	defer m.count.mu.Unlock()
	return maps.Clone(m.count.n)
}
