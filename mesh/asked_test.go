package mesh

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"weft/peer"
)

func TestAsked(t *testing.T) {
	who, forked := peer.ID{1}, peer.ID{2}
	ours := []mark{{author: who, epoch: 20, seq: 5}, {author: forked, epoch: 20, seq: 5}}
	theirs := []mark{{author: who, epoch: 20, seq: 7}, {author: forked, epoch: 20, seq: 5, sum: [8]byte{1}}}
	a := newAsked(ours, theirs)
	for i, c := range []struct {
		author     peer.ID
		epoch, seq uint64
		want       bool
	}{
		{who, 20, 6, true},
		{who, 20, 7, true},
		{who, 20, 7, false}, // again
		{who, 30, 1, false}, // another epoch of the author: some of that is well
		{who, 30, 2, true},
		{who, 10, 3, false}, // superseded
		{who, 20, 5, false}, // the digest says that it is there
		{forked, 20, 1, true},
		{forked, 20, 2, true},
		{forked, 20, 2, false},
		{peer.ID{3}, 1, 1, true}, // not known before
	} {
		if got := a.takes(Entry{Author: c.author, Epoch: c.epoch, Seq: c.seq}); got != c.want {
			t.Errorf("entry %d: %v", i, got)
		}
	}
}

// holding gives hosts logs of others that are gone, as large as they may be or less.
func (w *world) holding(bs []*box, authors, each int) {
	w.t.Helper()
	for i := range authors {
		log := newScribe(w.t, w.secret).epochOf(w.t, 1<<32, each, 0, func(j int) []byte { return fmt.Appendf(nil, "%d-%d", i, j) })
		for _, x := range bs {
			x.mesh.mu.Lock()
			mergeAll(w.t, x.mesh.logs, log)
			x.mesh.mu.Unlock()
		}
	}
}

// A newcomer with several targets is told everything by each at the same time, and
// blames nobody for it.
func TestThreeTargetsTellTheSame(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(3)
		w.holding(bs, 7, MaxSnapshot)
		n := w.box("new")
		n.join(bs...)
		w.within(time.Minute, "in", func() bool { return n.sees(bs[0]) == Alive && n.root() == bs[0].root() })
		w.within(time.Second, "three joins", func() bool { return n.mesh.Counters()["joins"] == 3 })
		if got := n.mesh.Rejections(); len(got) > 0 {
			t.Errorf("it blames %v", got)
		}
		for _, x := range n.mesh.Targets() {
			if x.State != stateEstablished {
				t.Errorf("target %+v", x)
			}
		}
	})
}

// Epochs that were superseded long ago, told again and again in an exchange, are no news:
// they are not kept, nothing is written, and whoever does so is named.
func TestRogueReplaysOldEpochs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		b := bs[1]
		r := newRogue(t, w, bs[0])
		w.within(20*time.Second, "three hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		s := newScribe(t, w.secret)
		old := [][]proven{s.epoch(t, 1<<32, 1000, 0), s.epoch(t, 2<<32, 1000, 0)}
		b.mesh.mu.Lock()
		mergeAll(t, b.mesh.logs, s.epoch(t, 3<<32, 3, 0))
		b.mesh.mu.Unlock()
		time.Sleep(5 * time.Second)
		before := b.mesh.Stats()
		told := func(times int) (es []Entry) {
			for range times {
				for _, ps := range old {
					for _, p := range ps {
						es = append(es, p.Entry)
					}
				}
			}
			return es
		}
		if err := r.exchange(b, nil, told(1)); err != nil {
			t.Fatal(err)
		}
		if s := b.mesh.Stats(); s.LogBytes != before.LogBytes || s.Entries != before.Entries || s.DiskQueue != 0 {
			t.Errorf("before %+v, then %+v", before, s)
		}
		if got := b.rejected(r); len(got) > 0 { // an honest host may know no better
			t.Errorf("once is too often: %v", got)
		}
		if err := r.exchange(b, nil, told(maxUseless/2000+1)); err == nil || b.rejected(r)[reasonFlood] == 0 {
			t.Errorf("it goes on for ever: %v, rejected %v", err, b.rejected(r))
		}
	})
}
