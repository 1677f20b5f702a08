package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Allocation is one address of one container.
type Allocation struct {
	Container string       // container ID, or whatever else names a namespace
	Addr      netip.Prefix // the address, with the length of its subnet
	Claimed   bool         // asked for by address; else chosen here
}

// Allocator hands out the addresses that one host owns, and keeps account of those claimed outside the range. It is not for concurrent
// use. The caller makes each new allocation durable before the container gets the address, and each new freedom after the container
// has lost it.
type Allocator struct {
	self          Owner
	whole         netip.Prefix
	defaultSubnet netip.Prefix
	ring          *Ring
	owned         []netip.Prefix          // what self may use, sorted
	suspended     bool                    // nothing is given out anew
	entries       []entry                 // sorted by address, one per address
	byContainer   map[string][]netip.Addr // of entries, those on hold included
	nextEnd       time.Time               // no hold ends before; zero: nothing is on hold
}

// entry is an address that is taken: by a container, or on hold after one.
type entry struct {
	Allocation
	heldUntil time.Time // zero: in use
}

// NewAllocator makes an allocator that knows no ring and no allocation. The zero defaultSubnet stands for the whole range. A default
// subnet may be larger than the range: then its other addresses are the operator's to claim.
func NewAllocator(self Owner, whole, defaultSubnet netip.Prefix) *Allocator {
	if !defaultSubnet.IsValid() {
		defaultSubnet = whole
	}
	return &Allocator{self: self, whole: whole.Masked(), defaultSubnet: defaultSubnet.Masked(), byContainer: map[string][]netip.Addr{}}
}

// SetRing gives the allocator a newer ring. Addresses that are in use stay in use even where the ring no longer gives them to this host.
func (al *Allocator) SetRing(r *Ring) { al.SetSpace(r, r.Owned(al.self)) }

// SetSpace is SetRing for a host that may use less than the ring says is its own; see Ledger.Usable.
func (al *Allocator) SetSpace(r *Ring, usable []netip.Prefix) {
	al.ring, al.owned = r, usable
}

// owns says whether self may use an address of the range.
func (al *Allocator) owns(a netip.Addr) bool {
	return slices.ContainsFunc(al.owned, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Stray returns the addresses of the range that containers have and this host may not use any more, sorted: others have taken over its
// space, and may have given them to containers of their own.
func (al *Allocator) Stray() []Allocation {
	return al.allocations(al.stray)
}

func (al *Allocator) stray(e entry) bool {
	return al.ring.Seeded() && al.whole.Contains(e.Addr.Addr()) && !al.owns(e.Addr.Addr())
}

// Suspend keeps the allocator from giving out addresses of the range anew, or lets it again: what containers have they keep.
func (al *Allocator) Suspend(yes bool) { al.suspended = yes }

// Restore takes back allocations that an earlier run made, whatever the ring says: their containers have these addresses. It returns an
// error for each that cannot be, and takes the others.
func (al *Allocator) Restore(as []Allocation) []error {
	var errs []error
	for _, a := range as {
		if a.Container == "" {
			errs = append(errs, fmt.Errorf("restore %v: no container", a.Addr))
			continue
		}
		if err := checkClaim(a.Addr); err != nil {
			errs = append(errs, fmt.Errorf("restore address of container %s: %w", a.Container, err))
			continue
		}
		i, taken := al.find(a.Addr.Addr())
		if taken && al.entries[i].Container != a.Container {
			errs = append(errs, fmt.Errorf("restore address of container %s: %w", a.Container, &InUseError{a.Addr.Addr(), al.entries[i].Container}))
			continue
		}
		al.put(i, taken, a)
	}
	return errs
}

// Allocate returns the container's address in a subnet of the range (the zero Prefix: the default subnet). It is the one that the
// container already has there, claimed or not; else the one on hold for it since it was freed; else the lowest free address that this
// host owns, and isNew is true for these last two. Errors are ErrNoSpace, ErrNotReady, *RangeError, or say what is wrong with the subnet.
func (al *Allocator) Allocate(container string, subnet netip.Prefix) (a Allocation, isNew bool, err error) {
	if !subnet.IsValid() {
		subnet = al.defaultSubnet
	}
	if err := al.checkAllocate(container, subnet); err != nil {
		return Allocation{}, false, fmt.Errorf("allocate in subnet %v: %w", subnet, err)
	}
	held := -1
	for _, addr := range al.byContainer[container] { // sorted
		i, _ := al.find(addr)
		e := al.entries[i]
		if e.Addr.Masked() != subnet {
			continue
		}
		if e.heldUntil.IsZero() {
			if al.stray(e) {
				continue
			}
			return e.Allocation, false, nil
		}
		if held < 0 && al.owns(e.Addr.Addr()) {
			held = i
		}
	}
	if al.suspended {
		return Allocation{}, false, fmt.Errorf("allocate in subnet %v: %w", subnet, ErrUnproven)
	}
	if held >= 0 {
		e := &al.entries[held]
		e.heldUntil, e.Claimed = time.Time{}, false
		return e.Allocation, true, nil
	}
	if !al.ring.Seeded() {
		return Allocation{}, false, fmt.Errorf("allocate in subnet %v: %w", subnet, ErrNotReady)
	}
	addr, ok := al.lowestFree(subnet)
	if !ok {
		return Allocation{}, false, fmt.Errorf("allocate in subnet %v: %w", subnet, ErrNoSpace)
	}
	a = Allocation{Container: container, Addr: netip.PrefixFrom(addr, subnet.Bits())}
	i, taken := al.find(addr)
	al.put(i, taken, a)
	return a, true, nil
}

func (al *Allocator) checkAllocate(container string, subnet netip.Prefix) error {
	if container == "" {
		return errNoContainer
	}
	if !al.whole.IsValid() {
		return errNoRange
	}
	if err := checkSubnet(subnet); err != nil {
		return err
	}
	if !within(subnet, al.whole) && (subnet != al.defaultSubnet || !subnet.Overlaps(al.whole)) {
		return &RangeError{subnet, al.whole}
	}
	return nil
}

func (al *Allocator) lowestFree(subnet netip.Prefix) (netip.Addr, bool) {
	for _, p := range al.owned {
		q, ok := intersect(p, subnet)
		if !ok {
			continue
		}
		a, last := q.Addr(), lastAddr(q)
		if reserved(a, subnet) {
			if q.IsSingleIP() {
				continue
			}
			a = a.Next()
		}
		i, _ := al.find(a)
		for ; i < len(al.entries) && al.entries[i].Addr.Addr() == a && a != last; i++ {
			a = a.Next()
		}
		if _, taken := al.find(a); !taken && !reserved(a, subnet) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Lookup returns the addresses that a container has, sorted.
func (al *Allocator) Lookup(container string) []Allocation {
	var out []Allocation
	for _, addr := range al.byContainer[container] {
		if i, _ := al.find(addr); al.entries[i].heldUntil.IsZero() {
			out = append(out, al.entries[i].Allocation)
		}
	}
	return out
}

// All returns the addresses that containers have, sorted.
func (al *Allocator) All() []Allocation {
	return al.allocations(func(entry) bool { return true })
}

func (al *Allocator) allocations(want func(entry) bool) []Allocation {
	var out []Allocation
	for _, e := range al.entries {
		if e.heldUntil.IsZero() && want(e) {
			out = append(out, e.Allocation)
		}
	}
	return out
}

// Used says whether any address in p is in use or on hold: such a block is not to be donated.
func (al *Allocator) Used(p netip.Prefix) bool {
	p = p.Masked()
	i, found := al.find(p.Addr())
	return found || i < len(al.entries) && p.Contains(al.entries[i].Addr.Addr())
}

// Full says whether every address in p is in use or on hold.
func (al *Allocator) Full(p netip.Prefix) bool {
	i, _ := al.find(p.Masked().Addr())
	n := Size(p)
	if uint64(len(al.entries)-i) < n {
		return false
	}
	return p.Contains(al.entries[i+int(n)-1].Addr.Addr()) // entries are in order, one for an address
}

// find returns where the entry of an address is or would be.
func (al *Allocator) find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(al.entries, a, func(e entry, a netip.Addr) int { return e.Addr.Addr().Compare(a) })
}

// put makes a the allocation at place i, as found by find.
func (al *Allocator) put(i int, replace bool, a Allocation) {
	if replace {
		al.unindex(al.entries[i].Allocation)
		al.entries[i] = entry{Allocation: a}
	} else {
		al.entries = slices.Insert(al.entries, i, entry{Allocation: a})
	}
	as := al.byContainer[a.Container]
	at, _ := slices.BinarySearchFunc(as, a.Addr.Addr(), netip.Addr.Compare)
	al.byContainer[a.Container] = slices.Insert(as, at, a.Addr.Addr())
}

// unindex takes an entry that goes out of byContainer.
func (al *Allocator) unindex(a Allocation) {
	as := slices.DeleteFunc(al.byContainer[a.Container], func(x netip.Addr) bool { return x == a.Addr.Addr() })
	if al.byContainer[a.Container] = as; len(as) == 0 {
		delete(al.byContainer, a.Container)
	}
}
