package mesh

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"weft/peer"
)

// leaves is the departure behind a log of who, which nobody has signed.
func leaves(who int) Entry {
	return Entry{Author: peer.IDOf(someone(who)), Epoch: 1, Seq: 2, Kind: KindDepart, raw: make([]byte, 150)}
}

// buries has a replica learn of hosts, who have shown that they are there or not, and remove their logs.
func buries(t *testing.T, r *replica, from, n int, met bool) {
	t.Helper()
	for who := from; who < from+n; who++ {
		if err := deliver(r, &change{}, says(who, 1, 200, 0)); err != nil {
			t.Fatal(who, err)
		}
		d := leaves(who)
		if met {
			r.meet(d.Author)
		}
		r.bury(r.authors[d.Author], d, &change{})
	}
}

// graves counts those of some hosts.
func graves(r *replica, from, n int) (sum int) {
	for who := from; who < from+n; who++ {
		if a := r.authors[peer.IDOf(someone(who))]; a != nil && a.buried() {
			sum++
		}
	}
	return sum
}

// Graves keep nobody out, however it is known: first those of hosts that were never met make room,
// then the oldest.
func TestGravesMakeRoom(t *testing.T) {
	const unmet, first, second = 1000, 2000, 5000 // who
	r := newReplica()
	buries(t, r, first, 10, true)
	for range strangerTurns {
		r.grow()
	}
	buries(t, r, second, maxAuthors-15, true)
	buries(t, r, unmet, 5, false)
	who := 10_000
	come := func(w word) {
		t.Helper()
		if who++; w == byItself {
			r.meet(peer.IDOf(someone(who)))
		}
		ch := &change{}
		if err := r.place(someone(who), w, ch); err != nil || len(ch.opened) != 1 || len(ch.del) != 1 || len(ch.lost) != 0 {
			t.Fatalf("host %d by %d: %v; %d graves went", who, w, err, len(ch.opened))
		}
	}
	for i := range 15 {
		come([]word{byGossip, byLog, byItself}[i%3])
		if u, f, s := graves(r, unmet, 5), graves(r, first, 10), graves(r, second, maxAuthors-15); u != max(0, 4-i) || f != min(10, 14-i) || s != maxAuthors-15 {
			t.Fatalf("after %d hosts there are graves of %d that were not met, %d older and %d newer ones", i+1, u, f, s)
		}
	}
	if len(r.authors) != maxAuthors || r.strangers.full() {
		t.Errorf("%d authors; strangers have made room: %v", len(r.authors), r.strangers.full())
	}
	// A host that only its record is known of goes before a grave when it has had its time.
	for range strangerTurns {
		r.grow()
	}
	ch := &change{}
	if err := r.place(someone(who+1), byLog, ch); err != nil || len(ch.lost) != 1 || len(ch.opened) != 0 {
		t.Errorf("%v; %d strangers and %d graves went", err, len(ch.lost), len(ch.opened))
	}
	checkHeld(t, r, 0)
}

// Whoever makes up hosts leaves the others' graves their half of the places, also by having his own depart, and after
// a restart, that has met nobody.
func TestCrowdLeavesGraves(t *testing.T) {
	const crowd = 10_000 // who
	for _, restarted := range []bool{false, true} {
		r := newReplica()
		buries(t, r, 0, maxAuthors, true)
		if restarted {
			was := r
			r = newReplica()
			for _, a := range was.authors {
				r.restore(&author{gone: a.gone})
			}
		}
		tells := func(from int) (taken int) {
			for who := from; who < from+maxStrangers+200; who++ {
				switch err := deliver(r, &change{}, says(who, 1, 200, 0)); {
				case err == nil:
					taken++
				case !errors.Is(err, errStranger):
					t.Fatal(err)
				}
			}
			return taken
		}
		if n := tells(crowd); n != maxStrangers || graves(r, 0, maxAuthors) != maxStrangers {
			t.Fatalf("restarted %v: %d strangers, %d graves", restarted, n, graves(r, 0, maxAuthors))
		}
		for range 3 {
			r.grow()
			_ = tells(crowd)
		}
		for who := crowd; who < crowd+3*maxStrangers; who++ { // those that it has
			if d := leaves(who); r.authors[d.Author] != nil && !r.authors[d.Author].buried() {
				r.bury(r.authors[d.Author], d, &change{})
			}
		}
		checkHeld(t, r, 0)
		if n := r.strangers.number; n != 0 {
			t.Errorf("%d strangers when all have departed", n)
		}
		_ = tells(crowd + 20_000)
		if n := graves(r, 0, maxAuthors); n != maxStrangers {
			t.Errorf("restarted %v: %d graves after a second crowd", restarted, n)
		}
		checkHeld(t, r, 0)
	}
}

// A departed host that begins again is a stranger again, in number and bytes, if it was never met; but not beyond the
// share of those.
func TestGravesBeginAgain(t *testing.T) {
	again := func(who int) []proven {
		ps := says(who, 2, 200, 1) // not whole
		for i := range ps {
			ps[i].Epoch = 2
		}
		return ps
	}
	r := newReplica()
	buries(t, r, 1, 2, false)
	if err := deliver(r, &change{}, again(1)); err != nil || r.strangers.number != 1 || r.strangers.bytes != 2*200+150 {
		t.Errorf("%v; %d strangers, %d bytes", err, r.strangers.number, r.strangers.bytes)
	}
	checkHeld(t, r, 0)
	for who := range maxStrangers - 1 {
		if err := deliver(r, &change{}, says(100+who, 1, 200, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := deliver(r, &change{}, again(2)); !errors.Is(err, errStranger) || graves(r, 2, 1) != 1 {
		t.Errorf("beyond the share: %v", err)
	}
	r.meet(leaves(2).Author)
	if err := deliver(r, &change{}, again(2)); err != nil || graves(r, 2, 1) != 0 {
		t.Errorf("one that is there: %v", err)
	}
	checkHeld(t, r, 0)
}

// When all places are taken by hosts that were met, the operator is told.
func TestNoPlaceIsTold(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.mu.Lock()
	for who := range maxAuthors - 1 {
		if err := m.logs.learn(someone(who)); err != nil {
			t.Fatal(err)
		}
		m.logs.meet(peer.IDOf(someone(who)))
	}
	m.mu.Unlock()
	s := newScribe(t, m.o.Secret)
	raw, err := SignRecord(s.id, m.o.Secret, Record{Epoch: 1, ProtoMin: 1, ProtoMax: 1})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := VerifyRecord(raw, m.o.Secret)
	if err != nil {
		t.Fatal(err)
	}
	told := func() bool {
		return slices.ContainsFunc(m.State().Notices, func(n string) bool { return strings.Contains(n, "finds no place here") })
	}
	come := func() {
		if err := m.accept(&link{id: rec.ID(), rec: rec, raw: raw}, hello{}); err != nil {
			t.Fatal(err)
		}
	}
	if come(); !told() {
		t.Error("the operator is not told")
	}
	d := leaves(7)
	m.mu.Lock()
	m.notices.clear("crowded")
	m.logs.bury(m.logs.authors[d.Author], d, &change{})
	m.publishLocked()
	m.mu.Unlock()
	if come(); told() || m.logs.authors[rec.ID()] == nil {
		t.Error("no place where a grave was")
	}
	if n := m.Counters()["graves_forgotten"]; n != 1 {
		t.Errorf("%d graves are counted that made room", n)
	}
}
