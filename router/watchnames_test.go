package router

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/mesh"
	"weft/peer"
)

// A program that does to the first line of /names/watch what the others say has what this host answers: as names come and go,
// hosts are hidden and tables made anew, however slowly it reads.
func TestWatchedNamesAreTheTables(t *testing.T) {
	secret := mesh.NewSecret()
	hosts := []*signer{newSigner(t, secret), newSigner(t, secret), newSigner(t, secret)}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := &Router{zone: newZone("weft.local.", true)}
		st := &mesh.State{Self: hosts[0].id.ID(), Logs: map[peer.ID][]mesh.Entry{}}
		for _, h := range hosts {
			st.Hosts = append(st.Hosts, mesh.Host{ID: h.id.ID(), Self: h == hosts[0], Liveness: mesh.Alive})
		}
		slices.SortFunc(st.Hosts, func(a, b mesh.Host) int { return a.ID.Compare(b.ID) })
		away := map[peer.ID]bool{}
		hidden := func(h mesh.Host) bool { return away[h.ID] }
		r.zone.sync(stateIs(st), hidden)

		ctx, cancel := context.WithCancel(t.Context())
		lines, done := make(chan nameEvent), make(chan struct{})
		go func() {
			defer close(done)
			r.watchNames(ctx, func(v any) error {
				select {
				case lines <- v.(nameEvent):
				case <-ctx.Done():
				}
				return ctx.Err()
			})
		}()
		have := map[nameRecord]bool{}
		read := func(wantType string) {
			t.Helper()
			select {
			case e := <-lines:
				if e.Type != wantType {
					t.Fatalf("seed %d: a line of type %q, want %q", seed, e.Type, wantType)
				}
				for _, n := range e.Removed {
					if !have[n] {
						t.Fatalf("seed %d: %+v is removed and was not there", seed, n)
					}
					delete(have, n)
				}
				for _, n := range e.Added {
					if have[n] {
						t.Fatalf("seed %d: %+v is added and was there", seed, n)
					}
					have[n] = true
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("seed %d: the table has %+v, and the reader is left with %+v", seed, r.zone.table.Load().Records(), have)
			}
		}
		read("snapshot")
		same := func() bool {
			want := nameRecords(r.zone.table.Load().Records())
			return len(want) == len(have) && !slices.ContainsFunc(want, func(n nameRecord) bool { return !have[n] })
		}
		ranges := [][]netip.Prefix{nil, {pfx("10.32.0.0/12")}}
		for range 30 {
			h := hosts[rnd.IntN(len(hosts))]
			id := h.id.ID()
			switch rnd.IntN(5) {
			case 0:
				slices.Reverse(ranges)
				r.zone.setRanges(ranges[0], stateIs(st), hidden)
			case 1:
				away[id] = !away[id]
				r.zone.look(stateIs(st), hidden)
			default:
				k := nameKey{Name: []string{"a.weft.local.", "b.weft.local."}[rnd.IntN(2)], Container: "c1", Addr: netip.AddrFrom4([4]byte{10, 32, 0, byte(rnd.IntN(3))})}
				if rnd.IntN(6) == 0 {
					k = nameKey{Container: "c1", Type: typeUnhealthy}
				}
				b, err := encodeName(op(1+rnd.IntN(2)), k)
				if err != nil {
					t.Fatal(err)
				}
				next := *st
				next.Logs = map[peer.ID][]mesh.Entry{}
				for _, o := range hosts {
					next.Logs[o.id.ID()] = slices.Clone(st.Logs[o.id.ID()])
				}
				next.Logs[id] = append(next.Logs[id], h.entryAt(t, 1, uint64(2+len(next.Logs[id])), mesh.KindName, b))
				st = &next
				r.zone.sync(stateIs(st), hidden)
			}
			if rnd.IntN(3) == 0 {
				for !same() {
					read("change")
				}
			}
		}
		cancel()
		<-done
	}
}
