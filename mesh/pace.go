package mesh

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

const (
	// slowest is how many bytes a second an exchange must move, either way, and
	// paceSlack what it may wait beside that in all. A few slow members would otherwise
	// have all that a host serves at a time, a word every now and then.
	slowest   = 4 << 10
	paceSlack = 20 * time.Second
)

var errSlow = errors.New("an exchange that hardly goes on")

// pace bounds how long the other side may let this one wait. What this host does
// meanwhile, with what it has got, does not count.
type pace struct {
	on     bool
	waited time.Duration
	moved  int           // bytes
	sent   int           // of these, since something was read: they may still be on their way
	told   *atomic.Int64 // moved, for others; nil: nobody asks
}

// onItsWay is what the other side may need to get what was sent, before it answers.
func (p *pace) onItsWay() time.Duration { return time.Duration(p.sent) * time.Second / slowest }

// wait does work, which moves so many bytes: what is to come may be silent for
// linkPatience, and not longer than what is left in all.
func (p *pace) wait(s interface{ SetDeadline(time.Time) error }, work func() (int, error)) error {
	start, patience := time.Now(), linkPatience+p.onItsWay()
	left := paceSlack - p.waited + time.Duration(p.moved)*time.Second/slowest
	late := p.on && left < patience
	if late {
		patience = left
	}
	_ = s.SetDeadline(start.Add(patience))
	n, err := work()
	p.waited += time.Since(start)
	p.moved += n
	if p.told != nil {
		p.told.Store(int64(p.moved))
	}
	if err != nil && late && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}
