package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/peer"
)

// plant has a made-up host tell c an entry, in an exchange of logs that it breaks off.
func (w *world) plant(r, c *box, e Entry) {
	w.t.Helper()
	m, err := New(Options{
		Identity: r.id, Secret: w.secret, Store: newDisk(), Tunnel: r, Network: r.host,
		Endpoints: func() []netip.AddrPort { return nil }, Log: w.log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := m.openEpoch(); err != nil {
		w.t.Fatal(err)
	}
	l, err := m.open(w.t.Context(), purposeJoin, c.id.ID(), netip.AddrPortFrom(c.addr, DefaultPort))
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.close()
	_ = l.write(msgRoot, make([]byte, 32))
	if _, _, err = l.read(1+maxRefusal, msgRoot); err != nil {
		w.t.Fatal(err)
	}
	_ = l.write(msgDigest, nil)
	for ty := msgDigest; err == nil && ty != msgDone; {
		ty, _, err = l.read(1+maxChunk, msgDigest, msgEntries, msgDone)
	}
	if err := l.write(msgEntries, AppendEntries(nil, e)); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
}

// An entry of an epoch of long ago, sent by somebody who has no more of it, holds a host that
// was asleep up for a while, and not for ever.
func TestOldEntryBeforeASleep(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(3)
		c := bs[2]
		old := c.mesh.State().Logs[c.id.ID()][0]
		for range 2 {
			c.kill()
			time.Sleep(time.Second)
			c.join(bs[0])
			w.within(20*time.Second, "back", func() bool { return oneMesh(bs...) && c.mesh.State().Heard })
		}
		w.plant(w.box("rogue"), c, old)
		time.Sleep(6 * time.Hour)
		c.mesh.Doubt()
		changes := 0
		w.setWatch(func(b *box) {
			if b == c && c.mesh.State().Heard {
				changes++
			}
		})
		took := w.within(pastDoubt+30*time.Second, "heard", func() bool { return c.mesh.State().Heard })
		t.Logf("heard after %v", took)
		w.setWatch(nil)
		if changes == 0 {
			t.Error("nobody was told")
		}
	})
}

// What was told in whole and waits to be taken up is not pushed out by what others tell in
// part, and a member whose exchange never ends does not keep it waiting.
func TestPastIsNotPushedOut(t *testing.T) {
	bubble(t, func(t *testing.T, _ *world) {
		m := quietMesh(t, NewSecret())
		s := scribe{id: m.o.Identity, secret: m.o.Secret}
		rogue, other := newIdentity(t).ID(), newIdentity(t).ID()
		tell := func(from peer.ID, x *asked, ps []proven) {
			var es []Entry
			for _, p := range ps {
				es = append(es, p.Entry)
			}
			if _, err := m.takeTold(es, from, x); err != nil {
				t.Fatal(err)
			}
		}
		endless, honest := newAsked(nil, nil), newAsked(nil, nil)
		tell(rogue, endless, s.past(t, 5, []string{"old"}, nil)[:1])
		past := s.past(t, 50<<32, []string{"a", "b"}, nil)
		tell(other, honest, past)
		m.endTelling(honest)
		time.Sleep(doubtDrain)
		m.hear(other, markOf(m, past))
		if m.State().Heard {
			t.Error("heard, and it was not taken up")
		}
		for i := range uint64(2 * maxPast) {
			tell(rogue, endless, s.past(t, 6+i, []string{"old"}, nil)[:1])
		}
		time.Sleep(pastDoubt + time.Second)
		select {
		case <-m.reroll:
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
		default:
			t.Error("it is not asked for")
		}
		if gs := grantsIn(m); !slices.Contains(gs, "a") || !slices.Contains(gs, "b") || !m.State().Heard {
			t.Errorf("heard %v, with the grants %q", m.State().Heard, gs)
		}
	})
}

// Who says that it has told all, in the middle of another's exchange, has what that tells neither
// taken up in part nor thrown away.
func TestNothingIsSettledWhileItIsTold(t *testing.T) {
	for name, n := range map[string]int{"no grant yet": 1, "some": 4} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *world) {
				m := quietMesh(t, NewSecret())
				time.Sleep(doubtDrain)
				s := scribe{id: m.o.Identity, secret: m.o.Secret}
				rogue, honest := newIdentity(t).ID(), newIdentity(t).ID()
				var grants []string
				for i := range 20 {
					grants = append(grants, fmt.Sprint(i))
				}
				old, exchange := s.past(t, 50<<32, grants, nil), newAsked(nil, nil)
				tell := func(ps []proven) {
					for _, p := range ps {
						if _, err := m.takeTold([]Entry{p.Entry}, honest, exchange); err != nil {
							t.Fatal(err)
						}
					}
				}
				tell(old[:n])
				if _, err := m.take([]Entry{old[0].Entry}, rogue, false); err != nil { // it has told of it, too
					t.Fatal(err)
				}
				m.hear(rogue, nil)
				if len(m.reroll) > 0 {
					t.Error("an epoch is asked for")
				}
				tell(old[n:])
				m.endTelling(exchange)
				m.hear(honest, markOf(m, old))
				if len(m.reroll) == 0 {
					t.Error("none is asked for when it is over")
				}
				if err := m.openEpoch(); err != nil {
					t.Fatal(err)
				}
				if n := len(grantsIn(m)); n != len(grants) || !m.State().Heard || len(m.past.telling) > 0 {
					t.Errorf("%d grants of %d, heard %v, told of %v", n, len(grants), m.State().Heard, m.past.telling)
				}
			})
		})
	}
}

// What anybody replays of a host's old epochs leaves a place for what it does not have: that of
// a machine put back with its memory, and that of a host which has lost its disk.
func TestOldEpochsLeaveAPlace(t *testing.T) {
	full := func(t *testing.T) (*Mesh, scribe) {
		m := quietMesh(t, NewSecret())
		s := scribe{id: m.o.Identity, secret: m.o.Secret}
		for i := range uint64(maxPast) {
			told(t, m, peer.ID{1}, s.past(t, 5+i, nil, nil))
		}
		if m.lacksPastLocked() {
			t.Fatal("it lacks something of them")
		}
		return m, s
	}
	t.Run("with its memory", func(t *testing.T) {
		m, _ := full(t)
		twinWrites(t, m)
		if !m.continuedLocked() {
			t.Error("it goes on in the epoch that others have more of")
		}
	})
	t.Run("without its disk", func(t *testing.T) {
		m, s := full(t)
		last := s.past(t, 50<<32, []string{"a", "b"}, nil)
		told(t, m, peer.ID{2}, last)
		m.hear(peer.ID{2}, markOf(m, last))
		select {
		case <-m.reroll:
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
		default:
			t.Error("its last epoch is not taken up")
		}
		if gs := grantsIn(m); len(gs) != 2 || !m.State().Heard {
			t.Errorf("grants %q, heard %v", gs, m.State().Heard)
		}
	})
}

// A higher epoch than this host's own that was told in part is waited for without end.
func TestPartOfAHigherEpochIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, _ *world) {
		m := quietMesh(t, NewSecret())
		s := scribe{id: m.o.Identity, secret: m.o.Secret}
		gone, other := newIdentity(t).ID(), newIdentity(t).ID()
		time.Sleep(doubtDrain)
		for _, c := range []struct {
			epoch uint64
			want  bool
		}{{5, true}, {50 << 32, false}} {
			told(t, m, gone, s.past(t, c.epoch, []string{"a", "b"}, nil)[:2])
			m.hear(other, nil)
			if m.State().Heard {
				t.Errorf("epoch %d: heard at once", c.epoch)
			}
			time.Sleep(pastDoubt + time.Second)
			if heard := m.State().Heard; heard != c.want {
				t.Errorf("epoch %d: heard %v, want %v", c.epoch, heard, c.want)
			}
			m.Doubt()
			time.Sleep(doubtDrain)
		}
	})
}
