package router

import (
	"errors"
	"testing"

	"weft/ipam"
	"weft/peer"
)

func withAllocator(t *testing.T) (*Router, ipam.Allocation) {
	t.Helper()
	whole, self := pfx("10.32.0.0/12"), ipam.Owner(peer.ID{1})
	r := &Router{attached: map[string]*attachment{}, alloc: ipam.NewAllocator(self, whole, whole)}
	ring, _ := ipam.NewRing(whole, []ipam.Grant{ipam.Seed(whole, self)})
	r.alloc.SetRing(ring)
	al, _, err := r.alloc.Allocate("c", whole)
	if err != nil {
		t.Fatal(err)
	}
	r.attached["c"] = &attachment{Key: "c", running: true}
	r.attached["c"].addAddr(al.Addr, false)
	return r, al
}

// A call that fails gives back what it obtained, but not an address that the
// container has anyway, under whatever prefix length it was asked for again.
func TestGiveBackSparesWhatIsInUse(t *testing.T) {
	r, al := withAllocator(t)
	again, _, err := r.alloc.Claim("c", pfx(al.Addr.Addr().String()+"/24"))
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := r.alloc.Allocate("d", pfx("10.32.0.0/12"))
	if err != nil {
		t.Fatal(err)
	}
	r.giveBack([]ipam.Allocation{again, other})
	if got, isNew, err := r.alloc.Allocate("c", pfx("10.32.0.0/12")); err != nil || isNew || got.Addr != al.Addr {
		t.Errorf("after a claim of %v that failed, the container, which has %v, gets %v, %v", again.Addr, al.Addr, got.Addr, err)
	}
	if len(r.alloc.Lookup("c")) == 0 {
		t.Errorf("%v was freed while the container has it", al.Addr)
	}
	if len(r.alloc.Lookup("d")) != 0 {
		t.Errorf("%v was not given back", other.Addr)
	}
}

// Between obtaining an address and locking the container, a detach may free it.
func TestAnAddressThatWasFreedMeanwhileIsNotAttached(t *testing.T) {
	r, al := withAllocator(t)
	if err := r.stillHeldLocked("c", []ipam.Allocation{al}); err != nil {
		t.Fatal(err)
	}
	r.free("c", al.Addr.Addr())
	if err := r.stillHeldLocked("c", []ipam.Allocation{al}); err == nil {
		t.Error("an address that was freed counts as held")
	}
	r.resetting = true
	if err := r.stillHeldLocked("c", nil); !errors.Is(err, errResetting) {
		t.Errorf("while resetting: %v", err)
	}
}

func TestKeyedTry(t *testing.T) {
	var k keyed
	unlock, err := k.lock(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.try("c"); ok {
		t.Error("a locked key was taken")
	}
	if free, ok := k.try("d"); !ok {
		t.Error("another key was not")
	} else {
		free()
	}
	unlock()
	if free, ok := k.try("c"); !ok {
		t.Error("an unlocked key was not taken")
	} else {
		free()
	}
}
