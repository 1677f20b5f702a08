package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrNoSpace says that this host owns no free address in the subnet: ask others for space (see Ring.Donors), set the new ring,
	// and try again.
	ErrNoSpace = errors.New("no free address in this host's part of the range")

	// ErrNotReady says that the range has no owners yet, as far as this host knows: wait until the ring is seeded.
	ErrNotReady = errors.New("the address range is not shared out yet")

	// ErrUnproven says that this host does not know yet whether its state is the latest, and gives out nothing anew until it has heard
	// from another host.
	ErrUnproven = errors.New("this host's state may not be the latest")

	errNoContainer = errors.New("no container")
	errNoRange     = errors.New("this mesh has no address range; addresses can only be claimed, as in ip:10.32.0.5/12")
)

// NotOwnedError says that an address of the range cannot be claimed here because it is another host's to give.
type NotOwnedError struct {
	Addr  netip.Addr
	Owner Owner // zero: nobody's
}

func (e *NotOwnedError) Error() string {
	if e.Owner.IsZero() {
		return fmt.Sprintf("address %v belongs to no host yet", e.Addr)
	}
	return fmt.Sprintf("address %v belongs to host %v", e.Addr, e.Owner)
}

// InUseError says that an address is another container's.
type InUseError struct {
	Addr netip.Addr
	By   string // the container
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("address %v is in use by container %s", e.Addr, e.By)
}

// RangeError says that addresses cannot be allocated in a subnet because it is not within the range.
type RangeError struct{ Subnet, Range netip.Prefix }

func (e *RangeError) Error() string {
	return fmt.Sprintf("subnet %v is not within the range %v; an address outside the range can only be claimed, as in ip:%v", e.Subnet, e.Range, example(e.Subnet))
}

// example returns an address of a subnet with the subnet's length, for error texts.
func example(subnet netip.Prefix) netip.Prefix {
	a := subnet.Masked().Addr()
	if reserved(a, subnet) {
		a = a.Next()
	}
	return netip.PrefixFrom(a, subnet.Bits())
}
