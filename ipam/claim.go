package ipam

import (
	"fmt"
	"net/netip"
)

// Claim gives a container the very address that was asked for, in the subnet addr.Masked(). An address of the range must be this
// host's, else the error is *NotOwnedError with the host to ask for it, or ErrNotReady. An address outside the range may be claimed by
// anybody; the caller announces it, knows which addresses the hosts themselves have, and settles double claims. Another container's address
// is refused with *InUseError; one that is only on hold is not, because whoever names an address wants that one. Repeating a claim
// changes nothing; isNew is also true when the container already had the address with another length.
func (al *Allocator) Claim(container string, addr netip.Prefix) (a Allocation, isNew bool, err error) {
	i, taken := al.find(addr.Addr())
	if err := al.checkClaim(container, addr, i, taken); err != nil {
		return Allocation{}, false, fmt.Errorf("claim address %v: %w", addr, err)
	}
	if taken && al.entries[i].heldUntil.IsZero() && al.entries[i].Addr == addr {
		return al.entries[i].Allocation, false, nil
	}
	a = Allocation{Container: container, Addr: addr, Claimed: true}
	al.put(i, taken, a)
	return a, true, nil
}

func (al *Allocator) checkClaim(container string, addr netip.Prefix, i int, taken bool) error {
	if container == "" {
		return errNoContainer
	}
	if err := checkClaim(addr); err != nil {
		return err
	}
	if taken && al.entries[i].heldUntil.IsZero() {
		if by := al.entries[i].Container; by != container {
			return &InUseError{addr.Addr(), by}
		}
		if al.stray(al.entries[i]) {
			return &NotOwnedError{addr.Addr(), al.ring.Owner(addr.Addr())}
		}
		return nil // it has the address already
	}
	if !al.whole.IsValid() || !al.whole.Contains(addr.Addr()) {
		return nil
	}
	if al.suspended {
		return ErrUnproven
	}
	if !al.ring.Seeded() {
		return ErrNotReady
	}
	if !al.owns(addr.Addr()) {
		return &NotOwnedError{addr.Addr(), al.ring.Owner(addr.Addr())}
	}
	return nil
}
