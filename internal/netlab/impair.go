package netlab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Impairment is what happens to the frames between two hosts.
type Impairment struct {
	Loss   float64       // share of frames lost, 0 to 1
	Delay  time.Duration // added to every frame's way
	Jitter time.Duration // each delay differs by up to this much, either way; frames overtake one another
	Seed   uint64        // with the order of the frames it decides everything
}

func (i Impairment) check() error {
	if i.Loss < 0 || i.Loss > 1 || i.Delay < 0 || i.Jitter < 0 {
		return fmt.Errorf("impairment %+v: want a loss from 0 to 1 and no negative times", i)
	}
	return nil
}

// dice decides the fate of the frames of one direction.
type dice struct {
	i   Impairment
	rnd *rand.Rand
}

// newDice makes dice for the frames that the host called from sends to to. The
// same seed and names give the same sequence in every run.
func newDice(i Impairment, from, to string) *dice {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s>%s", from, to)
	return &dice{i: i, rnd: rand.New(rand.NewPCG(i.Seed, h.Sum64()))}
}

// next decides about the next frame. It draws the same amount whatever the
// impairment is, so that changing one number changes nothing else.
func (d *dice) next() (lost bool, delay time.Duration) {
	fate, shift := d.rnd.Float64(), 2*d.rnd.Float64()-1
	return fate < d.i.Loss, max(0, d.i.Delay+time.Duration(shift*float64(d.i.Jitter)))
}

// Impair makes the way between a and b lossy and slow, in both directions,
// instead of what an earlier call said, and begins the seed's sequence anew;
// the zero Impairment makes the way good again. Frames on the way at the
// moment of a change may be lost.
func (l *Lab) Impair(a, b *Host, i Impairment) error {
	if err := i.check(); err != nil {
		return err
	}
	if a == b {
		return fmt.Errorf("impair %s to itself: want two hosts", a.name)
	}
	c := l.cabling
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range []way{{a.cable, b.cable}, {b.cable, a.cable}} {
		if i == (Impairment{}) {
			delete(c.impair, w)
		} else {
			c.impair[w] = newDice(i, w.from.host.name, w.to.host.name)
		}
	}
	return errors.Join(c.applyImpairmentsLocked(a.cable), c.applyImpairmentsLocked(b.cable))
}

// applyImpairmentsLocked gives a cable the forwarder that c.impair wants on
// the way to its host, or takes it away.
func (c *cabling) applyImpairmentsLocked(to *cable) error {
	byMAC := make(map[[6]byte]*dice)
	for w, d := range c.impair {
		if w.to == to {
			byMAC[[6]byte(w.from.mac())] = d
		}
	}
	switch {
	case len(byMAC) == 0 && to.forwarder == nil:
		return nil
	case len(byMAC) == 0:
		return c.spliceOutLocked(to)
	case to.forwarder == nil:
		return c.spliceInLocked(to, byMAC)
	}
	to.forwarder.setDice(byMAC)
	return nil
}

// calm ends all impairments.
func (c *cabling) calm() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.impair)
	var errs []error
	for _, cb := range c.cables {
		errs = append(errs, c.applyImpairmentsLocked(cb))
	}
	return errors.Join(errs...)
}
