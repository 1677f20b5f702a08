package ipam

import (
	"errors"
	"net/netip"
	"testing"
)

// A container whose address is another host's now gets another one, and cannot claim the old one back.
func TestStray(t *testing.T) {
	whole := pfx("10.0.0.0/24")
	r, _ := NewRing(whole, grants(t, "10.0.0.0/24 v1 - A\n10.0.0.0/25 v2 A B"))
	al := NewAllocator(host(1), whole, netip.Prefix{})
	if errs := al.Restore([]Allocation{{Container: "c", Addr: pfx("10.0.0.5/24")}, {Container: "d", Addr: pfx("192.0.2.1/24"), Claimed: true}, {Container: "e", Addr: pfx("10.0.0.200/24")}}); errs != nil {
		t.Fatal(errs)
	}
	if len(al.Stray()) != 0 {
		t.Error("before the ring is known an address is another's")
	}
	al.SetSpace(r, r.Owned(host(1)))
	if s := al.Stray(); len(s) != 1 || s[0].Container != "c" {
		t.Errorf("stray: %v", s)
	}
	var foreign *NotOwnedError
	if _, _, err := al.Claim("c", pfx("10.0.0.5/24")); !errors.As(err, &foreign) || foreign.Owner != host(2) {
		t.Errorf("the old address is claimed again: %v", err)
	}
	a, isNew, err := al.Allocate("c", netip.Prefix{})
	if err != nil || !isNew || a.Addr != pfx("10.0.0.128/24") {
		t.Errorf("it got %v, new: %v, %v", a, isNew, err)
	}
	al.SetSpace(r, nil) // the ring says that the rest is this host's, and it may not use it
	if s := al.Stray(); len(s) != 3 {
		t.Errorf("stray: %v", s)
	}
}

// While nothing is given out anew, containers keep what they have.
func TestSuspend(t *testing.T) {
	whole := pfx("10.0.0.0/24")
	r, _ := NewRing(whole, grants(t, "10.0.0.0/24 v1 - A"))
	al := NewAllocator(host(1), whole, netip.Prefix{})
	al.SetRing(r)
	if _, _, err := al.Allocate("c", netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	al.Suspend(true)
	if a, isNew, err := al.Allocate("c", netip.Prefix{}); err != nil || isNew || a.Addr != pfx("10.0.0.1/24") {
		t.Errorf("%v %v %v", a, isNew, err)
	}
	if _, _, err := al.Allocate("d", netip.Prefix{}); !errors.Is(err, ErrUnproven) {
		t.Errorf("allocated anew: %v", err)
	}
	if _, _, err := al.Claim("d", pfx("10.0.0.9/24")); !errors.Is(err, ErrUnproven) {
		t.Errorf("claimed anew: %v", err)
	}
	if _, _, err := al.Claim("d", pfx("192.0.2.9/24")); err != nil {
		t.Errorf("outside the range: %v", err)
	}
	al.Suspend(false)
	if _, _, err := al.Allocate("d", netip.Prefix{}); err != nil {
		t.Error(err)
	}
}
