package mesh

import (
	"errors"
	"testing"
)

// busyDisk is a Store that something happens beside.
type busyDisk struct {
	*disk
	beside func()
}

func (d *busyDisk) Apply(bucket string, put map[string][]byte, del []string) error {
	if d.beside != nil {
		d.beside()
	}
	return d.disk.Apply(bucket, put, del)
}

// What is on the disk, comes anew while a write of it fails, and goes before the next one, goes from
// the disk, too.
func TestGoesWhileAWriteFails(t *testing.T) {
	m := quietMesh(t, NewSecret())
	d := &busyDisk{disk: m.o.Store.(*disk)}
	m.o.Store = d
	s := newScribe(t, m.o.Secret)
	e := s.epoch(t, 10, 1, 0)[0].Entry
	wait := func(raw []byte, there bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waitLocked(bucketLog, logKey(e), raw, there)
	}
	wait(e.raw, false)
	if !m.write() {
		t.Fatal("the disk refuses")
	}
	wait(nil, true)
	d.refuse(errors.New("no space left"))
	d.beside = func() { wait(e.raw, false) }
	if m.write() {
		t.Fatal("the disk takes it")
	}
	d.refuse(nil)
	d.beside = nil
	wait(nil, false)
	m.write()
	if _, there := d.buckets[bucketLog][logKey(e)]; there {
		t.Error("it would come back at the next start")
	}
}

// Departures that come without their logs, and go again, leave nothing that waits for a disk that refuses.
func TestDeparturesDoNotAddUp(t *testing.T) {
	m := quietMesh(t, NewSecret())
	d := m.o.Store.(*disk)
	d.refuse(errors.New("no space left"))
	m.write()
	before := m.waitsForDisk()
	for range 100 {
		s := newScribe(t, m.o.Secret)
		log := s.farewell(t, 10, "a")
		for _, f := range []func(ch *change) bool{
			func(ch *change) bool {
				return m.logs.learn(s.id.Public()) == nil && m.logs.takeDeparture(log[len(log)-1].Entry, ch)
			},
			func(ch *change) bool { m.logs.lose(s.id.ID(), ch); return true },
		} {
			ch := &change{}
			m.mu.Lock()
			if !f(ch) {
				t.Error("a departure is not taken")
			}
			m.storeLocked(ch)
			m.mu.Unlock()
		}
		m.write()
	}
	if n := m.waitsForDisk(); n != before {
		t.Errorf("%d values wait, before %d", n, before)
	}
}
