package mesh

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

// A member cannot say that the tunnel of another is its own: whichever way its record
// comes, it is not taken, and the member is named.
func TestRogueNamesAnothersKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		r := newRogue(t, w, a)
		w.within(20*time.Second, "three hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		r.quit()
		log := b.mesh.State().Logs[r.id.ID()]
		rec, seq := r.mesh.own.rec, uint64(len(log))
		keyOf := func(at, x *box) (peer.Key, bool) {
			h, _ := at.mesh.State().Host(x.id.ID())
			return h.Record.WireGuard, h.Record.ProvesKey()
		}
		unmoved := func(what string) {
			t.Helper()
			time.Sleep(time.Second)
			for _, at := range bs {
				for _, x := range []*box{a, b, r.box} {
					if k, proven := keyOf(at, x); k != x.id.WireGuardPublic() || !proven {
						t.Errorf("%s: at %s the key of %s is %v, proven %v", what, at.name, x.name, k, proven)
					}
				}
			}
		}
		unmoved("in the beginning")

		rec.WireGuard = a.id.WireGuardPublic()
		for i, proof := range [][]byte{r.id.KeyProof(), a.id.KeyProof(), make([]byte, 64), nil} {
			rec.Serial++
			rec.Ext = []TLV{{extKeyProof, proof}}
			lie := sealed(t, r.id, rec)
			seq++
			r.say(b, AppendEntries([]byte{gossipMagic, gossipDirect}, r.entry(Entry{Epoch: log[0].Epoch, Seq: seq, Kind: KindHost, Payload: lie})))
			n := &memberlist.Node{Name: rec.Name(), Addr: r.control().AsSlice(), Port: DefaultGossipPort, Meta: lie}
			if err := (&delegate{b.mesh}).NotifyAlive(n); err == nil {
				t.Errorf("gossip takes record %d", i)
			}
			r.mesh.own.raw = lie
			if l, err := r.mesh.open(t.Context(), purposeJoin, b.id.ID(), netip.AddrPortFrom(b.addr, DefaultPort)); err == nil {
				l.close()
				t.Errorf("a session takes record %d", i)
			}
			unmoved("after the lie")
			if got := b.rejected(r)[reasonPayload]; got != uint64(i+1) {
				t.Errorf("record %d: the member is named %d times: %v", i, got, b.mesh.Rejections())
			}
		}
		if got := b.mesh.Counters(); got["node_rejected_record"] < 4 || got["join_failed"] < 4 {
			t.Errorf("counted: %v", got)
		}
		b.quit()
		b.launch()
		w.within(20*time.Second, "both again", func() bool { return a.sees(b) == Alive && b.sees(a) == Alive })
		unmoved("after a restart")
	})
}

// Who names another's key without a proof is named if it was met; else anybody could have
// made it up, and any number like it.
func TestRejectKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(2)
		a, b := bs[0].mesh, bs[1]
		a.RejectKey(b.id.ID(), errors.New("the key is another's"))
		for range 3 {
			a.RejectKey(newIdentity(t).ID(), errors.New("the key is another's"))
		}
		want := []Rejection{{Reason: reasonKey, Count: 3}, {Peer: b.id.ID(), Reason: reasonKey, Count: 1}}
		if got := a.Rejections(); !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
	})
}
