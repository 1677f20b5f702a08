package mesh

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// slowest is how many bytes a second an exchange should move, either way, if others
	// wait for its place: it is cut then. A few slow members would otherwise have all that
	// a host serves at a time, a word every now and then.
	slowest = 4 << 10
	// pathSlowest is what it must move in any case, and paceSlack what it may wait beside
	// that in all. Both sides have as many exchanges as they serve, over one uplink maybe, and
	// neither sees the other's.
	pathSlowest = slowest / (2 * served)
	paceSlack   = 20 * time.Second
)

var (
	errSlow   = errors.New("an exchange that hardly goes on")
	errSilent = errors.New("silent in an exchange while others waited")
)

// pace bounds how long the other side may let this one wait. What this host does
// meanwhile, with what it has got, does not count.
type pace struct {
	on     bool
	waited time.Duration
	moved  int       // bytes
	sent   int       // of these, since something was read: they may still be on their way
	told   *progress // what is moved, for others; nil: nobody asks
}

// onItsWay is what the other side may need to get what was sent, before it answers.
func (p *pace) onItsWay() time.Duration { return time.Duration(p.sent) * time.Second / pathSlowest }

// wait does work, which moves so many bytes: what is to come may be silent for
// linkPatience, and not longer than what is left in all.
func (p *pace) wait(s interface{ SetDeadline(time.Time) error }, work func() (int, error)) error {
	start, patience := time.Now(), linkPatience+p.onItsWay()
	left := paceSlack - p.waited + time.Duration(p.moved)*time.Second/pathSlowest
	late := p.on && left < patience
	if late {
		patience = left
	}
	_ = s.SetDeadline(start.Add(patience))
	n, err := work()
	p.waited += time.Since(start)
	p.moved += n
	if p.told != nil && err == nil {
		p.told.add(n)
	}
	if err != nil && late && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}

// progress is what an exchange has moved, for those that wait for its place.
type progress struct {
	mu   sync.Mutex // guards the fields below
	n    int        // bytes
	last time.Time  // when some were moved; zero: none were
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.last = p.n+n, time.Now()
}

// since tells the bytes a second since then, and for how long there has been none.
func (p *progress) since(start time.Time) (rate float64, idle time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := start
	if p.last.After(start) {
		last = p.last
	}
	return float64(p.n) / time.Since(start).Seconds(), time.Since(last)
}
