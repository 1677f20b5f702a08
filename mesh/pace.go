package mesh

import (
	"errors"
	"fmt"
	"os"
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
	moved  int // bytes
}

// wait does work, which moves so many bytes, within linkPatience and what is left.
func (p *pace) wait(s interface{ SetDeadline(time.Time) error }, work func() (int, error)) error {
	start, patience := time.Now(), linkPatience
	left := paceSlack - p.waited + time.Duration(p.moved)*time.Second/slowest
	if p.on {
		patience = min(patience, left)
	}
	_ = s.SetDeadline(start.Add(patience))
	n, err := work()
	p.waited += time.Since(start)
	p.moved += n
	if err != nil && p.on && left < linkPatience && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}
