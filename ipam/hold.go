package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// Hold is how long an address of the range is kept back after it was freed, so that what still remembers its last container (resolvers,
// connection tracking, open connections) does not meet another.
const Hold = 30 * time.Second

// Free takes an address away from a container, and reports false if the container does not have it. Until now+Hold the address is for
// this container, or for whoever claims it by name.
func (al *Allocator) Free(now time.Time, container string, addr netip.Addr) (Allocation, bool) {
	i, found := al.find(addr)
	if !found || al.entries[i].Container != container || !al.entries[i].heldUntil.IsZero() {
		return Allocation{}, false
	}
	a := al.entries[i].Allocation
	if al.whole.IsValid() && al.whole.Contains(addr) {
		al.entries[i].heldUntil = now.Add(Hold)
		if al.nextEnd.IsZero() || al.entries[i].heldUntil.Before(al.nextEnd) {
			al.nextEnd = al.entries[i].heldUntil
		}
	} else {
		al.unindex(a)
		al.entries = slices.Delete(al.entries, i, i+1) // nobody is given such an address without asking for it
	}
	return a, true
}

// FreeAll takes all its addresses away from a container and returns them, sorted.
func (al *Allocator) FreeAll(now time.Time, container string) []Allocation {
	had := al.Lookup(container)
	for _, a := range had {
		al.Free(now, container, a.Addr.Addr())
	}
	return had
}

// Expire ends the holds that are over, and returns when to call it again: not after the end of the next hold, or the zero time if there
// is none.
func (al *Allocator) Expire(now time.Time) (next time.Time) {
	if al.nextEnd.IsZero() || al.nextEnd.After(now) {
		return al.nextEnd
	}
	al.entries = slices.DeleteFunc(al.entries, func(e entry) bool {
		over := !e.heldUntil.IsZero() && !e.heldUntil.After(now)
		if over {
			al.unindex(e.Allocation)
		}
		return over
	})
	for _, e := range al.entries {
		if !e.heldUntil.IsZero() && (next.IsZero() || e.heldUntil.Before(next)) {
			next = e.heldUntil
		}
	}
	al.nextEnd = next
	return next
}

// KeepHolds has it hold back what an allocator that it takes the place of holds back, but for what containers have by now.
func (al *Allocator) KeepHolds(old *Allocator) {
	for _, e := range old.entries {
		i, taken := al.find(e.Addr.Addr())
		if e.heldUntil.IsZero() || taken {
			continue
		}
		al.put(i, false, e.Allocation)
		al.entries[i].heldUntil = e.heldUntil
		if al.nextEnd.IsZero() || e.heldUntil.Before(al.nextEnd) {
			al.nextEnd = e.heldUntil
		}
	}
}
