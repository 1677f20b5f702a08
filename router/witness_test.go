package router

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"weft/ipam"
)

// witnessesAgree says whether the files say what is stored.
func (r *Router) witnessesAgree(t *testing.T) {
	t.Helper()
	said, err := r.witnessed()
	if err != nil {
		t.Fatal(err)
	}
	for k, a := range r.attached {
		if a.held() && !slices.Equal(said[k], a.Addrs) {
			t.Errorf("%s: its file says %v, and the state %v", k, said[k], a.Addrs)
		}
		delete(said, k)
	}
	if len(said) > 0 {
		t.Errorf("files of what is not held: %v", said)
	}
}

// What could not be held, or freed, has changed nothing: a file that says so would take the address from
// who has it by the next start, or have one forgotten.
func TestHoldAndFreeThatCannotBeWritten(t *testing.T) {
	h := newRealHost(t)
	addr := func(s string) ipam.AddrArg { return ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx(s)} }
	hold := func(id, a string) error { _, err := h.hold(t.Context(), id, addr(a)); return err }
	for _, a := range []string{"10.32.0.1/12", "10.32.0.2/12"} {
		if err := hold("x", a); err != nil {
			t.Fatal(err)
		}
	}
	const before = "held:x[10.32.0.1/12 10.32.0.2/12]"
	mend := h.broken()
	if hold("y", "10.32.0.3/12") == nil || hold("x", "10.32.0.3/12") == nil {
		t.Error("held")
	}
	for _, ip := range []netip.Addr{pfx("10.32.0.2/12").Addr(), {}} {
		if got, err := h.freeHeld(t.Context(), "x", ip); err == nil {
			t.Errorf("freed: %s", got)
		}
	}
	mend()
	h.witnessesAgree(t)
	h.start(h.f.restart(h.Router, h.loseMark))
	h.says(before)
	h.alone()
	// A router was killed between the file and the state.
	if err := h.bearWitness(heldPrefix+"z", []netip.Prefix{pfx("10.32.0.4/12")}); err != nil {
		t.Fatal(err)
	}
	h.start(h.f.restart(h.Router, func() {}))
	h.says(before)
	h.witnessesAgree(t)
}

// Many calls for few IDs: no address is two IDs', and files, state and allocator agree at the end.
func TestHoldsAtOnce(t *testing.T) {
	r := joined(t)
	one := func() netip.Prefix { return pfx(fmt.Sprintf("10.32.0.%d/12", 1+rand.IntN(5))) }
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 60 {
				switch id := fmt.Sprint("id", rand.IntN(3)); rand.IntN(4) {
				case 0:
					_, _ = r.hold(t.Context(), id, ipam.AddrArg{Kind: ipam.ArgDefault})
				case 1:
					_, _ = r.hold(t.Context(), id, ipam.AddrArg{Kind: ipam.ArgIP, Prefix: one()})
				case 2:
					_, _ = r.freeHeld(t.Context(), id, netip.Addr{})
				case 3:
					_, _ = r.freeHeld(t.Context(), id, one().Addr())
				}
			}
		})
	}
	wg.Wait()
	r.witnessesAgree(t)
	user := map[netip.Addr]string{}
	for k, a := range r.attached {
		for _, p := range a.Addrs {
			if by := user[p.Addr()]; by != "" {
				t.Errorf("%v is %s's and %s's", p, by, k)
			}
			user[p.Addr()] = k
		}
	}
	given := map[netip.Addr]string{}
	for _, al := range r.alloc.All() {
		given[al.Addr.Addr()] = al.Container
	}
	if fmt.Sprint(given) != fmt.Sprint(user) {
		t.Errorf("the allocator has %v, the state %v", given, user)
	}
}
