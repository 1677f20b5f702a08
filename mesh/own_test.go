package mesh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A host whose goodbye is one entry too many for its epoch, or that opens one while it
// leaves, has left for the others all the same.
func TestLeaveAtTheEndOfAnEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		a, b, c := bs[0], bs[1], bs[2]
		b.mesh.SetBase(func() []Draft { return nil })
		length := func() (n, snapshot int) {
			b.mesh.mu.Lock()
			defer b.mesh.mu.Unlock()
			cur := b.mesh.logs.authors[b.id.ID()].current
			return len(cur.entries), int(cur.snapshot)
		}
		for i := 0; ; i++ {
			n, snapshot := length()
			if n >= 2*snapshot+rollAfter {
				break
			}
			b.append(fmt.Sprint("n", i))
		}
		w.within(30*time.Second, "all told", func() bool { return oneMesh(bs...) })
		b.stop()
		for range 20 {
			if a.sees(b) != Left || c.sees(b) != Left {
				t.Fatalf("it is %v and %v", a.sees(b), c.sees(b))
			}
			time.Sleep(time.Second)
		}

		c.mesh.mu.Lock()
		c.mesh.leaving = true
		c.mesh.mu.Unlock()
		if err := c.mesh.openEpoch(); err != nil {
			t.Fatal(err)
		}
		c.mesh.mu.Lock()
		raw := c.mesh.own.raw
		c.mesh.mu.Unlock()
		if rec, err := ParseRecord(raw); err != nil || !rec.left() {
			t.Errorf("an epoch that is opened by a host which leaves: %+v, %v", rec, err)
		}
	})
}

// written has a host hear of an entry that somebody else has signed with its identity.
func written(t *testing.T, m *Mesh, epoch, seq uint64, payload string) {
	t.Helper()
	e, err := SignEntry(m.o.Identity, m.mesh, Entry{Epoch: epoch, Seq: seq, Kind: KindGrant, Payload: []byte(payload)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.take([]Entry{e}, newIdentity(t).ID(), true); err != nil {
		t.Fatal(err)
	}
}

// twinWrites has a host hear of one entry more than it has in its open epoch.
func twinWrites(t *testing.T, m *Mesh) {
	t.Helper()
	log := m.State().Logs[m.id]
	last := log[len(log)-1]
	written(t, m, last.Epoch, last.Seq+1, fmt.Sprint("twin ", last.Epoch))
}

// A host takes up its past once or twice in its life. One that must again and again has
// a twin: it is slowed down, and its operator told.
func TestTwinsDoNotRace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := quietMesh(t, w.secret)
		tries := 0
		write := func() error {
			tries++
			_, err := m.Append(Draft{KindName, fmt.Append(nil, tries)})
			return err
		}
		for i := range mendsFree {
			twinWrites(t, m)
			if err := write(); err != nil {
				t.Fatalf("after %d times: %v", i, err)
			}
		}
		for i := range 8 {
			twinWrites(t, m)
			before := m.own.epoch
			time.Sleep(mendPause<<min(i, 5) - time.Millisecond)
			if err := write(); !errors.Is(err, errTwin) || m.own.epoch != before {
				t.Fatalf("after %d more times it does not wait: %v", i, err)
			}
			time.Sleep(time.Millisecond)
			if err := write(); err != nil || m.own.epoch == before {
				t.Fatalf("it waits longer: %v", err)
			}
		}
		if ns := m.State().Notices; !slices.ContainsFunc(ns, func(n string) bool { return strings.Contains(n, "reset --force") }) {
			t.Errorf("its operator reads %q", ns)
		}
		if err := m.openEpoch(); err != nil || write() != nil {
			t.Errorf("an epoch for another reason: %v", err)
		}
	})
}

// A disk that refuses to take a new epoch is no twin.
func TestFullDiskIsNoTwin(t *testing.T) {
	m := quietMesh(t, NewSecret())
	d := m.o.Store.(*disk)
	twinWrites(t, m)
	full := errors.New("no space left")
	d.refuse(full)
	for range 2 * mendsFree {
		if _, err := m.Append(Draft{KindName, []byte("two")}); !errors.Is(err, full) {
			t.Fatalf("append: %v", err)
		}
	}
	d.refuse(nil)
	if _, err := m.Append(Draft{KindName, []byte("two")}); err != nil {
		t.Error(err)
	}
	for _, n := range m.State().Notices {
		if strings.Contains(n, "copy") {
			t.Errorf("its operator reads %q", n)
		}
	}
}

// What this host has written before it was put back, and then overwritten, is in its new epoch,
// in whatever order others tell it.
func TestOverwrittenIsTakenUp(t *testing.T) {
	for _, order := range [][]uint64{{1, 2}, {2, 1}} {
		m := quietMesh(t, NewSecret())
		es, err := m.Append(Draft{KindGrant, []byte("since")})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range order {
			written(t, m, es[0].Epoch, es[0].Seq-1+n, fmt.Sprint("before ", n))
		}
		if _, err := m.Append(Draft{KindGrant, []byte("then")}); err != nil {
			t.Fatal(err)
		}
		var grants []string
		for _, e := range m.State().Logs[m.id] {
			if e.Kind == KindGrant && e.Epoch > es[0].Epoch {
				grants = append(grants, string(e.Payload))
			}
		}
		if slices.Sort(grants); !slices.Equal(grants, []string{"before 1", "before 2", "since", "then"}) {
			t.Errorf("told in the order %v: %q", order, grants)
		}
	}
}

// What is taken back needs no room in the next epoch, and a full log is no reason to go on
// telling it.
func TestWithdrawFromAFullLog(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.SetBase(func() []Draft { return nil })
	var names, back []Draft
	for i := range maxLasting - spare {
		names = append(names, Draft{KindName, fmt.Appendf(nil, "+name%d", i)})
		back = append(back, Draft{KindName, fmt.Appendf(nil, "-name%d", i)})
	}
	if _, err := m.Append(names...); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Append(back[:2]...); !errors.Is(err, ErrLogFull) {
		t.Fatalf("more than would fit into the next epoch: %v", err)
	}
	before := len(m.State().Logs[m.id])
	if _, err := m.Withdraw(back...); err != nil || len(m.State().Logs[m.id]) != before+len(back) {
		t.Fatalf("withdraw: %v", err)
	}
	if _, err := m.Withdraw(names...); !errors.Is(err, ErrLogFull) { // others would not keep it
		t.Errorf("more than an epoch holds: %v", err)
	}
	if _, err := m.Withdraw(Draft{KindGrant, []byte("grant")}); err == nil {
		t.Error("a grant is withdrawn")
	}
	select {
	case <-m.reroll:
	default:
		t.Error("no new epoch is asked for")
	}
	if err := m.openEpoch(); err != nil || len(m.State().Logs[m.id]) != 2 {
		t.Errorf("the next epoch: %d entries, %v", len(m.State().Logs[m.id]), err)
	}
}
