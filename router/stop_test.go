package router

import (
	"errors"
	"testing"
	"time"

	"weft/peer"
)

// Of two hosts that are reset at the same moment, neither may count on the other.
func TestWhoTakesSpaceIsNotReset(t *testing.T) {
	r := &Router{}
	if _, err := r.handle(t.Context(), peer.ID{2}, methodReady, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.beginReset(false); !errors.Is(err, errPromised) {
		t.Errorf("a host that has promised to take another's space: %v", err)
	}
	if r.resetting {
		t.Error("a refused reset leaves the host resetting")
	}
	r.promised = time.Now().Add(-time.Second) // the other never came
	if err := r.beginReset(false); err != nil {
		t.Errorf("when the promise has lapsed: %v", err)
	}
	if _, err := r.handle(t.Context(), peer.ID{2}, methodReady, nil); !errors.Is(err, errResetting) {
		t.Errorf("a host that is being reset is ready: %v", err)
	}
	if err := r.beginReset(false); !errors.Is(err, errResetting) {
		t.Errorf("a second reset: %v", err)
	}
	forced := &Router{promised: time.Now().Add(time.Hour)}
	if err := forced.beginReset(true); err != nil {
		t.Errorf("a forced reset: %v", err)
	}
}
