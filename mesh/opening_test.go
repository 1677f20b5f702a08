package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
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

// A log that is full of what is obsolete becomes shorter when it is asked to, also if
// something is written meanwhile that finds no room; and when nothing is obsolete any
// more, no epoch is opened for that.
func TestFullLogBecomesShorter(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.SetBase(func() []Draft { return nil })
	m.o.Obsolete = func() func([]byte) bool {
		return func(p []byte) bool { return strings.HasPrefix(string(p), "old") }
	}
	fill := func(what string) (err error) {
		var ds []Draft
		for i := range maxLasting - 2 {
			ds = append(ds, Draft{KindGrant, fmt.Appendf(nil, "%s %d", what, i)})
		}
		_, err = m.Append(ds...)
		return err
	}
	votes := func(round int) (ds []Draft) {
		for i := range 3 {
			ds = append(ds, Draft{KindGrant, fmt.Appendf(nil, "vote %d of round %d", i, round)})
		}
		return ds
	}
	overflow := func(more []Draft) {
		t.Helper()
		m.own.at = time.Now().Add(-2 * crampedPause)
		m.Reopen()
		if _, err := m.Append(more...); !errors.Is(err, ErrLogFull) {
			t.Fatalf("in a full log: %v", err)
		}
		if err := m.openEpoch(); err != nil {
			t.Fatal(err)
		}
	}
	if err := fill("old"); err != nil {
		t.Fatal(err)
	}
	overflow(votes(1))
	if n := len(m.State().Logs[m.id]); n > 10 {
		t.Errorf("a log of %d entries", n)
	}
	if _, err := m.Append(votes(1)...); err != nil {
		t.Error(err)
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	for i := 0; roomFor(m.logs.log(m.id), 0, votes(2)); i++ {
		if _, err := m.Append(Draft{KindGrant, fmt.Appendf(nil, "new %d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(m.logs.log(m.id), func(e Entry) bool { return e.Kind == KindTaken }) {
		t.Fatal("it names no epoch that it takes")
	}
	before := m.own.epoch
	if overflow(votes(2)); m.own.epoch != before {
		t.Error("a new epoch without more room")
	}
}

// New endpoints that could not be written with a new epoch are not told yet.
func TestEndpointsAfterAFailedEpoch(t *testing.T) {
	m := quietMesh(t, NewSecret())
	at := netip.MustParseAddrPort("192.0.2.1:6783")
	m.o.Endpoints = func() []netip.AddrPort { return []netip.AddrPort{at} }
	d := m.o.Store.(*disk)
	d.refuse(errors.New("no space left"))
	if err := m.openEpoch(); err == nil {
		t.Fatal("a disk that refuses has taken an epoch")
	}
	own := func() []netip.AddrPort { h, _ := m.State().Host(m.id); return h.Record.Endpoints }
	if slices.Contains(own(), at) {
		t.Error("they count as told")
	}
	d.refuse(nil)
	if err := m.openEpoch(); err != nil || !slices.Contains(own(), at) {
		t.Errorf("when it takes one: %v, %v", own(), err)
	}
}
