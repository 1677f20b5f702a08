package peer

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What is wrong with one peer is no reason to refuse another.
func TestErrorsOf(t *testing.T) {
	_, err := normalise([]Config{config("A"), config("A"), config("B at=0.0.0.0:1"), config("Z"), {}}, letter("Z"))
	device := errors.New("set peers: the device does not answer")
	all := errors.Join(errors.Join(err, nil, peerErrorf(letter("C"), "add C: %w", errors.ErrUnsupported)), device,
		peerErrorf(Key{}, "drop allowed 10.0.0.0/8: no room"))
	for _, tt := range []struct{ key, want string }{
		{"A", "set peer A: it is in the list twice"},
		{"B", "set peer B: no packet can be sent to endpoint 0.0.0.0:1"},
		{"C", "add C: unsupported operation"},
		{"Z", "set peer Z: that is this host's own key"},
		{"D", ""},
	} {
		want := strings.TrimSpace(tt.want + "\n" + device.Error())
		got := ErrorsOf(letter(tt.key), all)
		if words(got.Error()) != want || !errors.Is(got, device) || errors.Is(got, errors.ErrUnsupported) != (tt.key == "C") {
			t.Errorf("of %s: %q, want %q", tt.key, words(got.Error()), want)
		}
	}
	if err := ErrorsOf(letter("D"), err); err != nil {
		t.Errorf("of a peer that nobody speaks of: %v", err)
	}
	if err := ErrorsOf(letter("D"), nil); err != nil {
		t.Error(err)
	}
	if err := ErrorsOf(letter("D"), fmt.Errorf("connect: %w", peerErrorf(letter("A"), "add A: %w", ErrGone))); !errors.Is(err, ErrGone) {
		t.Errorf("a device that is gone is gone for all: %v", err)
	}
}
