package router

import (
	"errors"
	"testing"
	"time"

	"weft/ipam"
	"weft/peer"
)

// Of two hosts that are reset at the same moment, neither may count on the other.
func TestWhoTakesSpaceIsNotReset(t *testing.T) {
	r := &Router{}
	if _, err := r.handle(t.Context(), peer.ID{2}, methodReady, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.beginReset(t.Context(), false); !errors.Is(err, errPromised) {
		t.Errorf("a host that has promised to take another's space: %v", err)
	}
	if r.resetting {
		t.Error("a refused reset leaves the host resetting")
	}
	if _, err := r.handle(t.Context(), peer.ID{3}, methodReady, nil); err != nil {
		t.Fatal(err)
	}
	delete(r.promised, peer.ID{2}) // it has come, a third host has not
	if err := r.beginReset(t.Context(), false); !errors.Is(err, errPromised) {
		t.Errorf("one of two promises is kept: %v", err)
	}
	r.promised[peer.ID{3}] = time.Now().Add(-time.Second) // it never came
	if err := r.beginReset(t.Context(), false); err != nil {
		t.Errorf("when the promise has lapsed: %v", err)
	}
	if _, err := r.handle(t.Context(), peer.ID{2}, methodReady, nil); !errors.Is(err, errResetting) {
		t.Errorf("a host that is being reset is ready: %v", err)
	}
	if err := r.beginReset(t.Context(), false); !errors.Is(err, errResetting) {
		t.Errorf("a second reset: %v", err)
	}
	unproven := &Router{unproven: true}
	if _, err := unproven.handle(t.Context(), peer.ID{2}, methodReady, nil); !errors.Is(err, ipam.ErrUnproven) {
		t.Errorf("a host that could not take the space is ready: %v", err)
	}
	forced := &Router{promised: map[peer.ID]time.Time{{2}: time.Now().Add(time.Hour)}}
	if err := forced.beginReset(t.Context(), true); err != nil {
		t.Errorf("a forced reset: %v", err)
	}
}
