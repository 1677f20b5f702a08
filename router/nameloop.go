package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"weft/mesh"
)

// pokeNames makes the loop of names look again. It never blocks.
func (r *Router) pokeNames() {
	select {
	case r.namePoke <- struct{}{}:
	default:
	}
}

// pokeBoth is for what may have changed names and more.
func (r *Router) pokeBoth() {
	r.pokeNames()
	r.Poke()
}

// followNames brings names from the logs into the DNS table, and those of what lives here
// into this host's log. It is a loop of its own, so that a name waits neither for tunnels nor
// for the kernel, and so that a change of names makes no pass. It also looks at all hosts every second, since
// they are hidden when they have been silent for a time.
func (r *Router) followNames(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	logged := ""
	var at place
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.zone.look(r.mesh.State, r.hidden)
		case <-r.namePoke:
		case <-r.logPoke:
			// Mostly it is another host's log that has changed, which matters here if it may have what a name waits for.
			if r.syncNames(); r.zone.place(r.id.ID()) == at && !r.lingers() {
				continue
			}
		}
		problem := ""
		if err := errors.Join(r.announceChanges()...); err != nil && ctx.Err() == nil {
			problem = err.Error()
		}
		if problem != logged && problem != "" {
			r.log.Warn("names are not announced; trying again", "err", problem)
		}
		r.nameProblem.Store(&problem)
		logged = problem
		r.syncNames()
		at = r.zone.place(r.id.ID())
	}
}

// syncNames makes the table that is answered from show the logs as they are. What else has changed
// in them is for a pass.
func (r *Router) syncNames() {
	if r.zone.sync(r.mesh.State, r.hidden) {
		r.Poke()
	}
}

// announceChanges writes the names and addresses of what lives here into this
// host's log, as far as they are not there yet. Of two that do it at once, each
// must see what the other has written. What the disk does not take is not answered
// here any more, at least.
func (r *Router) announceChanges() []error {
	r.announceMu.Lock()
	defer r.announceMu.Unlock()
	if r.silent {
		return nil
	}
	r.syncNames()
	want := r.announce()
	r.wanted.Store(want)
	withdrawn, announced := r.zone.differs(r.id.ID(), want.Names)
	ds, err := nameDrafts(withdrawn, announced)
	errs := []error{err}
	claims := ownClaims(r.mesh.State())
	if ds = append(ds, claimDrafts(claims, want.Claims)...); len(ds) > 0 {
		_, err := r.mesh.Append(ds...)
		if err != nil {
			errs = append(errs, fmt.Errorf("announce names: %w", err))
		}
		if errors.Is(err, mesh.ErrLogFull) { // what is gone is told all the same
			err = r.withdraw(withdrawn, claims, want.Claims)
		}
		if err != nil {
			r.zone.deny(r.id.ID(), withdrawn)
			return errs
		}
		r.syncNames()
	}
	r.zone.deny(r.id.ID(), nil)
	return errs
}

// withdraw takes back names, and of the claims those that are not wanted.
func (r *Router) withdraw(names []nameKey, claims, wanted map[netip.Prefix]bool) error {
	ds, _ := nameDrafts(names, nil) // what cannot be written, nobody has announced
	left := maps.Clone(claims)
	maps.DeleteFunc(left, func(p netip.Prefix, _ bool) bool { return !wanted[p] })
	if ds = append(ds, claimDrafts(claims, left)...); len(ds) == 0 {
		return nil
	}
	_, err := r.mesh.Withdraw(ds...)
	return err
}

// logsChanged is told by the mesh.
func (r *Router) logsChanged() {
	select {
	case r.logPoke <- struct{}{}:
	default:
	}
}
