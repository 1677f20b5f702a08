package mesh

import (
	"errors"
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
			if err := errors.Join(tell(t, secret, a, b), tell(t, secret, b, a)); err != nil {
				t.Fatal(err)
			}
		}
		if a.root() != b.root() {
			t.Fatal("two replicas that have told each other everything differ")
		}
	})
}

// tell gives to what it lacks of what from has, as an exchange does. An epoch without
// grants is no error: it may come before the one that has them.
func tell(t fataler, s Secret, from, to *replica) (err error) {
	t.Helper()
	for _, e := range slices.Concat(from.missing(to.digest(), peer.ID{})...) {
		if e := to.merge(provenEntry(t, s, e), true, &change{}); e != nil && e != errWithdrawal {
			err = errors.Join(err, e)
		}
	}
	return err
}

// provenEntry is what prove makes of a good entry.
func provenEntry(t fataler, s Secret, e Entry) proven {
	t.Helper()
	p := proven{Entry: e}
	if e.Kind == KindBegin {
		g, err := VerifyBegin(e, s)
		if err != nil {
			t.Fatal(err)
		}
		p.begin = &g
	}
	return p
}
