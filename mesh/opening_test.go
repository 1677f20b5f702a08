package mesh

import (
	"fmt"
	"slices"
	"testing"
)

// What is appended while the base is asked for is not lost, also if that opens an epoch,
// and what the base has just taken back does not come again.
func TestAppendedWhileTheBaseIsAsked(t *testing.T) {
	for _, names := range []int{1, 40} { // in the open epoch: fewer entries than the other will have, or more
		m := quietMesh(t, NewSecret())
		for i := range names {
			if _, err := m.Append(Draft{KindName, fmt.Append(nil, []string{"kept", "gone"}[i%2])}); err != nil {
				t.Fatal(err)
			}
		}
		m.SetBase(func() []Draft {
			for _, what := range []string{"in the open epoch", "in another"} {
				if _, err := m.Append(Draft{KindName, []byte(what)}, Draft{KindClaim, []byte(what)}); err != nil {
					t.Error(err)
				}
				twinWrites(t, m) // others know more of the open epoch: the machine was put back with its memory
			}
			return []Draft{{KindName, []byte("kept")}}
		})
		if err := m.openEpoch(); err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, e := range m.State().Logs[m.id] {
			if optional(e.Kind) {
				said = append(said, string(e.Payload))
			}
		}
		if !slices.Equal(said, []string{"kept", "in the open epoch", "in the open epoch", "in another", "in another"}) {
			t.Errorf("after %d names the log says %q", names, said)
		}
		if m.meanwhile != nil || m.asking != 0 {
			t.Error("what is appended is gathered for ever")
		}
	}
}
