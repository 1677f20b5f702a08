package mesh

import (
	"slices"
	"testing"
	"time"

	"weft/peer"
)

// farewell is a log that ends with a departure.
func (s scribe) farewell(t fataler, number uint64, grants ...string) []proven {
	t.Helper()
	ps := s.past(t, number, grants, nil)
	e, err := SignEntry(s.id, s.secret.MeshID(), Entry{Epoch: number, Seq: uint64(len(ps) + 1), Kind: KindDepart})
	if err != nil {
		t.Fatal(err)
	}
	return append(ps, proven{Entry: e})
}

func TestDepartedLogsGo(t *testing.T) {
	s := newScribe(t, NewSecret())
	id := s.id.ID()
	log := s.farewell(t, 10, "a", "b")
	last := log[len(log)-1].Entry
	empty := newReplica().root()

	here, away := newReplica(), newReplica()
	deal(here, log)
	deal(away, log[:3]) // it missed the end
	if here.root() != empty {
		t.Error("a departed host counts in the root")
	}
	if here.root() == away.root() {
		t.Error("who has not heard of the departure would not ask")
	}
	if logs := here.missing(away.digest(), peer.ID{1}); len(logs) != 1 || len(logs[0]) != 1 {
		t.Errorf("within its time the log is told to its end, not %v", logs)
	}

	ch := &change{}
	here.bury(here.authors[id], last, ch)
	if here.log(id) != nil || here.root() != empty || here.held != len(last.raw) || here.holds(log[0].Entry) || !here.holds(last) {
		t.Errorf("buried: %d bytes held, %d deleted", here.held, len(ch.del))
	}
	deal(here, log) // an old copy comes by
	if here.log(id) != nil {
		t.Error("back from the dead")
	}
	logs := here.missing(away.digest(), peer.ID{1})
	if len(logs) != 1 || len(logs[0]) != 1 {
		t.Fatalf("after its time only the departure is told, not %v", logs)
	}
	if logs := here.missing(nil, peer.ID{1}); len(logs) != 0 {
		t.Errorf("a newcomer is told of the dead: %v", logs)
	}
	if !away.takeDeparture(last, &change{}) || away.root() != empty {
		t.Error("the departure alone is not taken")
	}
	if len(away.log(id)) != 3 {
		t.Error("a departure that came alone has removed the log at once")
	}
	if logs := here.missing(away.digest(), peer.ID{1}); len(logs) != 1 {
		t.Errorf("the rest of the log cannot come any more: %v", logs)
	}
	away.bury(away.authors[id], last, ch)
	if logs := append(here.missing(away.digest(), peer.ID{1}), away.missing(here.digest(), peer.ID{1})...); len(logs) != 0 {
		t.Errorf("graves are told to graves: %v", logs)
	}
	keeps := newReplica()
	deal(keeps, log)
	if logs := keeps.missing(here.digest(), peer.ID{1}); len(logs) != 0 {
		t.Errorf("a removed log is told again: %v", logs)
	}
	deal(here, s.past(t, 20, []string{"a", "b"}, nil))
	if len(here.log(id)) != 3 || here.authors[id].gone != nil || here.root() != empty {
		t.Error("a later epoch of a departed identity is not taken, or counts")
	}
	here.unbury(id, ch)
	away.unbury(id, ch)
	if away.authors[id] != nil || here.authors[id] == nil {
		t.Error("graves")
	}
}

// An author that goes on from before its departure has departed all the same, in whatever order its epochs
// come, and is told.
func TestDepartureIsNotTakenBack(t *testing.T) {
	s := newScribe(t, NewSecret())
	id := s.id.ID()
	before, later := s.farewell(t, 10, "a"), s.past(t, 20, []string{"a"}, nil)
	last := before[len(before)-1].Entry
	told := func(r *replica, theirs []mark, to peer.ID) bool {
		return slices.ContainsFunc(slices.Concat(r.missing(theirs, to)...), func(e Entry) bool { return string(e.raw) == string(last.raw) })
	}
	knows := newReplica() // only of the epoch that followed
	deal(knows, later)
	for name, r := range map[string]*replica{"buried": newReplica(), "not buried": newReplica(), "the other way round": newReplica(), "alone": newReplica()} {
		switch name {
		case "the other way round":
			deal(r, later)
			for _, p := range before {
				if err := r.merge(p, true, &change{}); err != nil {
					t.Fatal(err)
				}
			}
			r.settleOlder(id)
		case "alone":
			deal(r, later)
			if !r.takeDeparture(last, &change{}) {
				t.Error("a departure from before the effective epoch is not taken")
			}
		default:
			deal(r, before)
			if name == "buried" {
				r.bury(r.authors[id], last, &change{})
			}
			if !told(r, knows.digest(), id) {
				t.Errorf("%s: the author is not told of it", name)
			}
			deal(r, later)
		}
		if es := r.said(id); r.root() != newReplica().root() || len(es) != 3 || es[2].Kind != KindDepart {
			t.Errorf("%s: it is back, with %d entries", name, len(es))
		}
		if !told(r, knows.digest(), id) || !told(r, knows.digest(), peer.ID{1}) {
			t.Errorf("%s: the author or who knows no better is not told of it", name)
		}
		grave := newReplica()
		deal(grave, before)
		grave.bury(grave.authors[id], last, &change{})
		if logs := r.missing(grave.digest(), peer.ID{1}); len(logs) != 0 {
			t.Errorf("%s: who has its grave is told of what followed: %v", name, logs)
		}
		mended := s.farewell(t, 30, "a")
		if deal(r, mended); len(r.said(id)) != len(mended) || r.authors[id].lone != nil || r.root() != newReplica().root() {
			t.Errorf("%s: it holds %d entries of an epoch that knows of the departure", name, len(r.said(id)))
		}
		checkHeld(t, r, 0)
	}
}

// A departed host's log is removed after its time, on the disk, too; one that
// merely failed keeps its log.
func TestDepartedHostsAreBuried(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c, d := w.box("host1"), w.box("host2"), w.box("host3"), w.box("host4")
		a.found()
		for _, x := range []*box{b, c, d} {
			x.join(a)
		}
		w.within(10*time.Second, "four hosts", func() bool { return oneMesh(a, b, c, d) })
		c.append("web")
		d.append("db")
		w.within(5*time.Second, "names", func() bool { return len(a.names(d)) == 1 && len(b.names(c)) == 1 })
		d.crash()
		if _, err := c.mesh.Append(Draft{Kind: KindDepart}); err != nil {
			t.Fatal(err)
		}
		c.stop()
		gone := func(x *box) bool {
			_, known := x.mesh.State().Host(c.id.ID())
			return !known && x.mesh.State().Logs[c.id.ID()] == nil
		}
		w.within(20*time.Second, "left and failed", func() bool { return a.sees(c) == Left && a.sees(d) == Failed && b.sees(d) == Failed })
		learnt := time.Now()
		look := func(now time.Time) { // as the watch does every 10 minutes
			for _, x := range []*box{a, b} {
				x.mesh.mu.Lock()
				x.mesh.buryLocked(now)
				x.mesh.publishLocked()
				x.mesh.mu.Unlock()
			}
		}
		look(learnt)
		look(learnt.Add(departKeep - time.Hour))
		if gone(a) || a.mesh.State().Logs[c.id.ID()] == nil {
			t.Error("gone before its time")
		}
		rests := true
		for _, x := range []*box{a, b} {
			x.mesh.o.Rests = func(id peer.ID) bool { return rests && id == c.id.ID() }
		}
		look(learnt.Add(departKeep + time.Minute))
		if gone(a) || gone(b) {
			t.Error("gone, though something rests on it")
		}
		rests = false
		look(learnt.Add(departKeep + time.Minute))
		if !gone(a) || !gone(b) {
			t.Errorf("not gone after its time\n%s", w.picture())
		}
		if len(a.names(d)) != 1 {
			t.Error("the log of a failed host is gone")
		}
		// Restarted, they know nothing of it but that it has left.
		time.Sleep(time.Second)
		b.kill()
		b.launch()
		w.within(10*time.Second, "back", func() bool { return oneMesh(a, b) })
		if !gone(b) {
			t.Error("back from the dead after a restart")
		}
		b.mesh.mu.Lock()
		grave := b.mesh.logs.authors[c.id.ID()]
		b.mesh.mu.Unlock()
		if grave == nil || grave.gone == nil {
			t.Error("the departure is forgotten")
		}
	})
}

// A departure that came without the log before it lasts over restarts and is no grave, whatever comes or
// goes beside it.
func TestLoneDeparturesLast(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []string
		log   int  // entries of the log, the departure included
		gone  bool // it is a grave
	}{
		{"alone", []string{"departure"}, 0, false},
		{"an epoch of later follows", []string{"departure", "later"}, 3, false},
		{"a part of one follows", []string{"departure", "part"}, 0, false},
		{"a part of one goes again", []string{"part", "departure", "drop"}, 0, false},
		{"its own log follows", []string{"departure", "log"}, 4, false},
		{"after its time", []string{"departure", "bury"}, 0, true},
		{"after its time, beside a part", []string{"part", "departure", "bury"}, 0, true},
		{"an epoch of later follows its grave", []string{"departure", "bury", "later"}, 3, false},
		{"a part of one follows its grave", []string{"departure", "bury", "part"}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := quietMesh(t, NewSecret())
			s := newScribe(t, m.o.Secret)
			id, log, later := s.id.ID(), s.farewell(t, 10, "a", "b"), s.past(t, 20, []string{"a"}, nil)
			last := log[len(log)-1].Entry
			if err := m.logs.learn(s.id.Public()); err != nil {
				t.Fatal(err)
			}
			for _, step := range c.steps {
				ch := &change{}
				m.mu.Lock()
				switch a := m.logs.authors[id]; step {
				case "departure":
					if !m.logs.takeDeparture(last, ch) {
						t.Error("it is not taken")
					}
				case "log", "later", "part":
					ps := map[string][]proven{"log": log, "later": later, "part": later[:1]}[step]
					if err := deliver(m.logs, ch, ps); err != nil {
						t.Error(err)
					}
				case "drop":
					m.logs.dropIdle(a, ch)
				case "bury":
					m.logs.bury(a, last, ch)
				}
				m.storeLocked(ch)
				m.mu.Unlock()
				if !m.write() {
					t.Fatal("the disk refuses")
				}
				for i := range 2 {
					again, err := New(m.o)
					if err != nil {
						t.Fatal(err)
					}
					a := again.logs.authors[id]
					if was := m.logs.authors[id]; (a == nil || a.leaves() == nil) != (was.leaves() == nil) {
						t.Fatalf("%s, %d restarts: it is not known that the host has left", step, i+1)
					} else if a != nil && (a.gone != nil) != (was.gone != nil) {
						t.Fatalf("%s, %d restarts: it is a grave: %v", step, i+1, a.gone != nil)
					}
					checkHeld(t, again.logs, 0)
					if again.write(); again.waitsForDisk() != 0 {
						t.Error("the disk refuses")
					}
				}
			}
			if a := m.logs.authors[id]; len(m.logs.said(id)) != c.log || (a.gone != nil) != c.gone {
				t.Errorf("%d entries, a grave: %v", len(m.logs.said(id)), a.gone != nil)
			}
		})
	}
}

// Builds before that kept such a departure as an entry.
func TestLoneDeparturesOfEarlierBuilds(t *testing.T) {
	for _, name := range []string{"with an epoch of later", "with a part of one", "with a part of its own"} {
		t.Run(name, func(t *testing.T) {
			m := quietMesh(t, NewSecret())
			s := newScribe(t, m.o.Secret)
			log, later := s.farewell(t, 10, "a", "b"), s.past(t, 20, []string{"a"}, nil)
			put := make(map[string][]byte)
			with := map[string][]proven{"with an epoch of later": later, "with a part of one": later[:1], "with a part of its own": log[:2]}[name]
			for _, p := range append(with[:len(with):len(with)], log[len(log)-1]) {
				put[logKey(p.Entry)] = p.raw
			}
			if err := m.o.Store.Apply(bucketLog, put, nil); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				again, err := New(m.o)
				if err != nil {
					t.Fatal(err)
				}
				if a := again.logs.authors[s.id.ID()]; a == nil || a.leaves() == nil {
					t.Errorf("%d restarts: it is not known that the host has left", i+1)
				}
				again.write()
			}
		})
	}
}
