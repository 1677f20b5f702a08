package mesh

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// leftTip tells that a host's operator is told that it has left for good.
func (b *box) leftTip() bool {
	return slices.ContainsFunc(b.mesh.State().Notices, func(n string) bool { return strings.Contains(n, "weft reset --force") })
}

// countsLeft tells that a host's log, as b has it, has a departure, or is removed.
func (b *box) countsLeft(x *box) bool {
	es := b.mesh.State().Logs[x.id.ID()]
	return len(es) == 0 || slices.ContainsFunc(es, func(e Entry) bool { return e.Kind == KindDepart })
}

// depart resets a host but for its identity, and has the others bury it or not.
func (w *world) depart(b *box, buried bool, others ...*box) {
	w.t.Helper()
	if _, err := b.mesh.Append(Draft{KindDepart, nil}); err != nil {
		w.t.Fatal(err)
	}
	w.within(10*time.Second, "the departure", func() bool { return others[0].countsLeft(b) && others[len(others)-1].countsLeft(b) })
	if n := b.mesh.State().Notices; len(n) > 0 {
		w.t.Errorf("while it leaves: %q", n)
	}
	b.stop()
	time.Sleep(time.Minute)
	for _, x := range others {
		if buried { // as the watch does after a day
			x.mesh.mu.Lock()
			x.mesh.buryLocked(time.Now())
			x.mesh.buryLocked(time.Now().Add(departKeep))
			x.mesh.publishLocked()
			x.mesh.mu.Unlock()
		}
		if gone := len(x.mesh.State().Logs[b.id.ID()]) == 0; gone != buried {
			w.t.Fatalf("its log is removed at %s: %v", x.name, gone)
		}
	}
}

// A host that was reset, and is put back from a backup of before that, stays departed for the
// others, whatever its next epoch's number, and its operator is told what to do.
func TestBackFromTheGrave(t *testing.T) {
	for name, c := range map[string]struct {
		buried bool
		starts int // after the backup
	}{
		"not yet buried, of its last epoch": {false, 0},
		"not yet buried, older":             {false, 2},
		"buried, of its last epoch":         {true, 0},
		"buried, older":                     {true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.log = slog.New(slog.DiscardHandler)
				bs := w.meet(3)
				a, b := bs[0], bs[2]
				if _, err := b.mesh.Append(Draft{KindGrant, []byte("a grant")}, Draft{KindName, []byte("old")}); err != nil {
					t.Fatal(err)
				}
				w.within(20*time.Second, "told", func() bool { return oneMesh(bs...) })
				backup := b.disk.copy()
				for range c.starts {
					b.kill()
					time.Sleep(time.Second)
					b.join(a)
					w.within(20*time.Second, "back", func() bool { return oneMesh(bs...) })
				}
				w.depart(b, c.buried, a, bs[1])
				b.disk = backup
				b.join(a)
				w.within(time.Minute, "known to all", func() bool {
					return b.leftTip() && b.countsLeft(b) && a.countsLeft(b) && bs[1].countsLeft(b) && a.root() == b.root() && a.root() == bs[1].root()
				})
				epoch := b.mesh.own.epoch
				time.Sleep(noticeAge + time.Minute)
				if b.mesh.own.epoch != epoch {
					t.Error("it opens one epoch after the other")
				}
				if !b.leftTip() {
					t.Error("its operator is told no more after a while")
				}
				b.kill()
				time.Sleep(time.Second)
				b.join() // nobody tells it
				w.within(time.Minute, "a notice after a restart", b.leftTip)
			})
		})
	}
}

// Who has joined after a host was buried takes its backup for a host like any; those that
// know better tell it, and the host.
func TestBackFromTheGraveByANewcomer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(3)
		a, b := bs[0], bs[2]
		backup := b.disk.copy()
		w.depart(b, true, a, bs[1])
		n := w.box("new")
		n.join(a)
		w.within(20*time.Second, "in", func() bool { return oneMesh(a, bs[1], n) })
		all := []*box{a, bs[1], n}
		w.cut([]*box{b}, []*box{a, bs[1]})
		b.disk = backup
		b.join(n)
		w.within(30*time.Second, "taken for a host", func() bool { return n.sees(b) == Alive && !n.countsLeft(b) })
		w.within(30*time.Second, "one root", func() bool { return a.root() == n.root() && bs[1].root() == n.root() })
		before := n.mesh.Counters()["repairs"]
		b.kill() // before anybody else has met it
		time.Sleep(time.Minute)
		if did := n.mesh.Counters()["repairs"] - before; did > 4 {
			t.Errorf("%d exchanges of logs in a minute, and nobody agrees", did)
		}
		b.launch()
		w.within(30*time.Second, "told", func() bool {
			return b.leftTip() && !slices.ContainsFunc(all, func(x *box) bool { return !x.countsLeft(b) || x.root() != b.root() })
		})
	})
}

// A departure lasts over restarts of those that know of it, also beside a part of an epoch that does not know of it, or behind the whole.
func TestGravesLastOverRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, other := w.box("host1"), w.box("host2")
		a.found()
		other.join(a) // a host alone forgets less
		w.within(10*time.Second, "two hosts", func() bool { return oneMesh(a, other) })
		s := newScribe(t, w.secret)
		id := s.id.ID()
		before, later := s.farewell(t, 10, "a"), s.past(t, 20, []string{"a"}, []string{"b"})
		deals := func(ps []proven) {
			t.Helper()
			var es []Entry
			for _, p := range ps {
				es = append(es, p.Entry)
			}
			if _, err := a.mesh.takeOf(es, other.id.ID(), true, nil); err != nil {
				t.Fatal(err)
			}
		}
		restart := func(what string) {
			t.Helper()
			a.kill()
			a.join(other)
			w.within(10*time.Second, what, func() bool { return a.sees(other) == Alive })
			a.mesh.mu.Lock()
			defer a.mesh.mu.Unlock()
			if au := a.mesh.logs.authors[id]; au == nil || au.leaves() == nil {
				t.Errorf("%s: it is not known that the host has left", what)
			}
		}
		deals(before)
		a.mesh.mu.Lock()
		ch := &change{}
		a.mesh.logs.bury(a.mesh.logs.authors[id], before[len(before)-1].Entry, ch)
		a.mesh.storeLocked(ch)
		a.mesh.mu.Unlock()
		restart("buried")
		deals(later[:2])
		time.Sleep(10 * time.Second)
		restart("with a part of an epoch of later")
		deals(later[2:])
		time.Sleep(10 * time.Second)
		restart("with an epoch of later")
		if es := a.mesh.State().Logs[id]; len(es) != 4 || es[3].Kind != KindDepart {
			t.Errorf("its log has %d entries", len(es))
		}
	})
}
