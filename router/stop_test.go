package router

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/ipam"
	"weft/peer"
)

// promises says whether a reset is refused for a host's sake, or not at all ("").
func promises(t *testing.T, r *Router, want string) {
	t.Helper()
	err := r.beginReset(t.Context(), false)
	if want == "" {
		if err != nil {
			t.Errorf("a reset that nobody counts on: %v", err)
		}
		return
	}
	if err == nil || !strings.HasPrefix(err.Error(), "host "+want+" is being reset, and this one takes its address space") {
		t.Errorf("a host that has promised to take another's space: %v, not for %s's sake", err, want)
	}
	if r.resetting {
		t.Error("a refused reset leaves the host resetting")
	}
}

// Of two hosts that are reset at the same moment, neither may count on the other.
func TestWhoTakesSpaceIsNotReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Router{}
		ready := func(id peer.ID) error {
			_, err := r.handle(t.Context(), id, methodReady, nil)
			return err
		}
		if err := ready(peer.ID{2}); err != nil {
			t.Fatal(err)
		}
		promises(t, r, peer.ID{2}.String())
		time.Sleep(time.Second)
		if err := ready(peer.ID{3}); err != nil {
			t.Fatal(err)
		}
		promises(t, r, peer.ID{3}.String())
		delete(r.promised, peer.ID{3}) // it has come, another has not
		promises(t, r, peer.ID{2}.String())
		time.Sleep(promiseFor) // it never came
		promises(t, r, "")
		if err := ready(peer.ID{2}); !errors.Is(err, errResetting) {
			t.Errorf("a host that is being reset is ready: %v", err)
		}
		if err := r.beginReset(t.Context(), false); !errors.Is(err, errResetting) {
			t.Errorf("a second reset: %v", err)
		}
		unproven := &Router{unproven: true}
		if _, err := unproven.handle(t.Context(), peer.ID{2}, methodReady, nil); !errors.Is(err, ipam.ErrUnproven) {
			t.Errorf("a host that could not take the space is ready: %v", err)
		}
		forced := &Router{}
		if err := forced.promise(peer.ID{2}); err != nil {
			t.Fatal(err)
		}
		if err := forced.beginReset(t.Context(), true); err != nil {
			t.Errorf("a forced reset: %v", err)
		}
	})
}

// A member that says again and again that it is being reset does not keep another
// host from it.
func TestAPromiseIsNotRenewedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Router{}
		begin := time.Now()
		held := time.Duration(0)
		for ; time.Since(begin) < 3*promiseAgain; time.Sleep(time.Second) {
			err := r.promise(peer.ID{2})
			if first := time.Since(begin) < promiseFor; first && err != nil {
				t.Fatalf("it may ask again at once: %v", err)
			}
			r.mu.Lock()
			if r.promisesLocked(time.Now()) != nil {
				held += time.Second
			}
			r.mu.Unlock()
		}
		if held > 3*2*promiseFor {
			t.Errorf("it has kept this host for %v of %v", held, 3*promiseAgain)
		}
		time.Sleep(promiseFor)
		promises(t, r, "")
		r = &Router{} // of which nobody wants a reset meanwhile
		for range 2 {
			if err := r.promise(peer.ID{2}); err != nil {
				t.Errorf("a minute later it may ask again: %v", err)
			}
			time.Sleep(promiseAgain)
		}
	})
}

// What a host would hand over that can not prove its state may be another's.
func TestAResetWaitsForTheProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Router{unproven: true}
		begin := time.Now()
		err := r.beginReset(t.Context(), false)
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Msg, "this host's state may not be the latest") || !strings.Contains(e.Tip, "weft reset --force") {
			t.Errorf("a reset without proof: %v", err)
		}
		if r.resetting {
			t.Error("a refused reset leaves the host resetting")
		}
		if time.Since(begin) != proofPatience {
			t.Errorf("it was refused after %v", time.Since(begin))
		}
		go func() {
			time.Sleep(proofPatience / 2)
			r.mu.Lock()
			r.unproven = false
			r.mu.Unlock()
			r.passes.wake()
		}()
		if err := r.beginReset(t.Context(), false); err != nil {
			t.Errorf("a reset whose proof comes late: %v", err)
		}
		forced := &Router{unproven: true}
		if err := forced.beginReset(t.Context(), true); err != nil {
			t.Errorf("a forced reset: %v", err)
		}
	})
}
