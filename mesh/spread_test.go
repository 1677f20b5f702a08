package mesh

import (
	"slices"
	"testing"
	"time"
)

func numbered(kind Kind, from, to uint64) (es []Entry) {
	for i := from; i <= to; i++ {
		es = append(es, Entry{Kind: kind, Seq: i, raw: make([]byte, 200)})
	}
	return es
}

func seqs(es []Entry) (out []uint64) {
	for _, e := range es {
		out = append(out, e.Seq)
	}
	return out
}

// Own entries go before those that are handed on, twice more after a moment, and
// no more than so many in one go.
func TestOutbox(t *testing.T) {
	o := outbox{poked: make(chan struct{}, 1)}
	now := time.Now()
	if o.put(&o.own, numbered(KindName, 1, 1)); len(o.own) != 0 {
		t.Error("entries are kept while nobody sends")
	}
	o.setOpen(true)
	o.put(&o.relay, numbered(KindName, 100, 100+flushMax))
	o.put(&o.own, numbered(KindName, 1, 3))
	own, relay, wait := o.next(now)
	if !slices.Equal(seqs(own), []uint64{1, 2, 3}) || len(relay) != flushMax-3 || wait != flushPause {
		t.Errorf("sends %v and %d of others, comes again after %v", seqs(own), len(relay), wait)
	}
	own, relay, wait = o.next(now)
	if len(own) != 0 || len(relay) != 4 || wait != repeats[0] {
		t.Errorf("then %v and %d of others, comes again after %v", seqs(own), len(relay), wait)
	}
	for i, at := range repeats {
		now = now.Add(at)
		own, _, wait = o.next(now)
		if !slices.Equal(seqs(own), []uint64{1, 2, 3}) || (wait == 0) != (i == len(repeats)-1) {
			t.Errorf("repeat %d: %v, comes again after %v", i, seqs(own), wait)
		}
	}
	if own, relay, wait = o.next(now.Add(time.Hour)); len(own)+len(relay) != 0 || wait != 0 {
		t.Errorf("never done: %v, %v, %v", own, relay, wait)
	}

	if dropped := o.put(&o.own, numbered(KindName, 1, laneMax+10)); dropped != 10 {
		t.Errorf("%d found no room", dropped)
	}
	if n, _ := o.waiting(); n != laneMax {
		t.Errorf("%d wait", n)
	}
	if dropped := o.put(&o.relay, numbered(KindName, 1, 1)); dropped != 0 {
		t.Error("own entries take the place of others'")
	}
	o.setOpen(false)
	if n, m := o.waiting(); n+m != 0 {
		t.Error("entries outlive whoever sends them")
	}
}

func TestPack(t *testing.T) {
	for _, b := range pack(numbered(KindName, 1, 50), gossipDirect) {
		if len(b) > maxGossip || len(b) < maxGossip/2 {
			t.Errorf("a datagram of %d bytes", len(b))
		}
	}
	if out := pack([]Entry{{raw: make([]byte, maxEntry)}}, gossipRelay); len(out) != 1 || len(out[0]) > maxGossip {
		t.Error("the biggest entry does not fit a datagram")
	}
}
