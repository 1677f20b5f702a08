package router

import (
	"slices"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

func TestWhoSeeds(t *testing.T) {
	st := &mesh.State{Hosts: []mesh.Host{
		{ID: peer.ID{1}, Record: mesh.Record{Nickname: "host1"}}, {ID: peer.ID{2}, Record: mesh.Record{Nickname: "host2"}},
		{ID: peer.ID{3}, Record: mesh.Record{Nickname: "twin"}}, {ID: peer.ID{4}, Record: mesh.Record{Nickname: "twin"}},
	}}
	id := func(i byte) string { return peer.ID{i}.String() }
	for _, c := range []struct {
		seeds   []string
		known   []ipam.Owner
		missing []string
	}{
		{[]string{"host2", "host1"}, []ipam.Owner{{1}, {2}}, nil},
		{[]string{"host1", "host9"}, []ipam.Owner{{1}}, []string{"host9"}},
		{[]string{"host1", "twin"}, []ipam.Owner{{1}}, []string{"one of the 2 hosts that are called twin: launch anew with peer IDs"}},
		{[]string{"host1", id(3), id(4)}, []ipam.Owner{{1}, {3}, {4}}, nil},
		{[]string{"host1", id(1)}, []ipam.Owner{{1}}, []string{"another host than " + id(1) + ", which is host1 as well: launch anew"}},
	} {
		known, missing := beginning{seeds: c.seeds}.owners(st)
		if !slices.Equal(known, c.known) || !slices.Equal(missing, c.missing) {
			t.Errorf("%v: %v, missing %q", c.seeds, known, missing)
		}
	}
}

// Each ballot is an entry for ever: who is not answered has tried 40 times in a day at most.
func TestBallotsInVain(t *testing.T) {
	n := 0
	for at := time.Duration(0); at < 24*time.Hour; n++ {
		at += ballotWait(n)
	}
	if n > 40 {
		t.Errorf("%d ballots in a day", n)
	}
	if w := ballotWait(0); w > 2*time.Second {
		t.Errorf("the first one is tried again after %v", w)
	}
}
