package router

import (
	"testing"
	"time"

	"weft/mesh"
)

// A connection that the network ended looks as one that a host with another secret
// did: only a second one is believed.
func TestAWrongSecretIsBelievedTheSecondTime(t *testing.T) {
	now := time.Now()
	seen := refusals{}
	try := func(why mesh.Reason, next time.Time) mesh.Target {
		x := mesh.Target{Addr: "host1:6783", State: "failed", Reason: why, NextTry: next}
		seen.note(x)
		return x
	}
	if x := try(mesh.Clone, now); seen.once(x) {
		t.Error("a refusal in so many words is not believed")
	}
	for range 3 { // the same try, looked at again and again
		if x := try(mesh.WrongSecret, now); !seen.once(x) {
			t.Error("the first connection that ended early is believed")
		}
	}
	if x := try(mesh.WrongSecret, now.Add(time.Second)); seen.once(x) {
		t.Error("the second one is not")
	}
}
