package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/peer"
)

// FuzzMerge merges the logs of two hosts in orders and with repetitions that the
// input chooses: the outcome is the same in each, merging all again changes
// nothing, and two replicas that hold parts of it agree after they have told each
// other what is missing. One of the epochs has forgotten a grant of the one before.
func FuzzMerge(f *testing.F) {
	secret := NewSecret()
	var pool []proven
	scribes := []scribe{newScribe(f, secret), newScribe(f, secret)}
	for _, s := range scribes {
		for i, grants := range [][]string{{"g1"}, {"g1", "g2"}, {"g1"}, {"g1", "g2", "g3"}} { // the third has forgotten g2
			es := s.epochOf(f, uint64(i+1)<<32, len(grants)+1, 2, func(j int) []byte {
				if j >= 1 && j <= len(grants) {
					return []byte(grants[j-1])
				}
				return fmt.Appendf(nil, "+%d/%d", i, j)
			})
			for j := range es[1 : len(grants)+1] {
				e := es[j+1].Entry
				signed, err := SignEntry(s.id, secret.MeshID(), Entry{Epoch: e.Epoch, Seq: e.Seq, Kind: KindGrant, Payload: e.Payload})
				if err != nil {
					f.Fatal(err)
				}
				es[j+1].Entry = signed
			}
			pool = append(pool, es...)
		}
	}
	merge := func(t *testing.T, ps []proven) *replica {
		r := newReplica()
		for _, s := range scribes {
			if err := r.learn(s.id.Public()); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range ps {
			if err := r.merge(p, true, &change{}); err != nil && err != errWithdrawal {
				t.Fatal(err)
			}
		}
		return r
	}
	f.Add([]byte{}, uint64(1))
	f.Add([]byte{3, 2, 1, 0, 20, 21, 20}, uint64(2))
	f.Fuzz(func(t *testing.T, first []byte, seed uint64) {
		if len(first) > 4*len(pool) {
			return
		}
		want := merge(t, pool).root()
		var in []proven
		for _, b := range first {
			in = append(in, pool[int(b)%len(pool)])
		}
		rest := slices.Clone(pool)
		rng := rand.New(rand.NewPCG(seed, 0))
		rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		r := merge(t, slices.Concat(in, rest))
		if r.root() != want {
			t.Fatal("two orders, two outcomes")
		}
		for _, p := range pool {
			ch := &change{}
			if err := r.merge(p, true, ch); err != nil && err != errWithdrawal {
				t.Fatal(err)
			}
		}
		if r.root() != want {
			t.Fatal("merging again changes the outcome")
		}

		cut := rng.IntN(len(rest) + 1)
		a, b := merge(t, slices.Concat(in, rest[:cut])), merge(t, rest[cut:])
		for range 3 { // each time a host may come to know that an epoch lacks something
			tell(t, a, b)
			tell(t, b, a)
		}
		if a.root() != b.root() {
			t.Fatal("two replicas that have told each other everything differ")
		}
	})
}

// tell gives to what it lacks of what from has.
func tell(t *testing.T, from, to *replica) {
	logs := from.missing(to.digest(), peer.ID{})
	for _, e := range slices.Concat(logs...) {
		p := proven{Entry: e}
		if e.Kind == KindBegin {
			b, err := ParseBegin(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			p.begin = &b
		}
		if err := to.merge(p, true, &change{}); err != nil && err != errWithdrawal {
			t.Fatal(err)
		}
	}
}
