package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weft/peer"
)

// scribe writes logs for tests.
type scribe struct {
	id      *peer.Identity
	secret  Secret
	written map[[3]int][]proven // signing is most of a property's time
}

// epoch is entries of one epoch: a snapshot of n, and more behind it.
func (s scribe) epoch(t fataler, number uint64, n, more int) []proven {
	t.Helper()
	key := [3]int{int(number), n, more}
	if ps := s.written[key]; ps != nil {
		return ps
	}
	out := s.epochOf(t, number, n, more, func(i int) []byte { return fmt.Appendf(nil, "%d/%d", number, i) })
	s.written[key] = out
	return out
}

// epochOf is one whose names are as payload says.
func (s scribe) epochOf(t fataler, number uint64, n, more int, payload func(i int) []byte) []proven {
	t.Helper()
	b := NewBegin(s.id, s.secret, 0, number, uint32(n))
	begin, err := b.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var out []proven
	for i := range n + more {
		e := Entry{Epoch: number, Seq: uint64(i + 1), Kind: KindName, Payload: payload(i)}
		p := proven{}
		if i == 0 {
			e.Kind, e.Payload, p.begin = KindBegin, begin, &b
		}
		if p.Entry, err = SignEntry(s.id, s.secret.MeshID(), e); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// fataler is what testing's T and rapid's have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newScribe(t testing.TB, s Secret) scribe {
	return scribe{newIdentity(t), s, make(map[[3]int][]proven)}
}

func mergeAll(t fataler, r *replica, ps []proven) *change {
	t.Helper()
	ch := &change{}
	for _, p := range ps {
		if err := r.merge(p, false, ch); err != nil {
			t.Fatalf("merge %d/%d: %v", p.Epoch, p.Seq, err)
		}
	}
	return ch
}

// What waits beyond a gap counts as held: a member can make up many hosts.
func TestHeldCountsWhatWaits(t *testing.T) {
	s := newScribe(t, NewSecret())
	r := newReplica()
	e1, e2 := s.epoch(t, 10, 3, 5), s.epoch(t, 20, 2, 0)
	size := func(ps ...[]proven) (n int) {
		for _, p := range slices.Concat(ps...) {
			n += len(p.raw)
		}
		return n
	}
	for _, c := range []struct {
		what string
		in   []proven
		held int
	}{
		{"a snapshot and two beyond a gap", slices.Concat(e1[:3], e1[5:7]), size(e1[:3], e1[5:7])},
		{"one of them again", e1[5:6], size(e1[:3], e1[5:7])},
		{"the gap filled", e1[3:5], size(e1[:7])},
		{"another beyond a gap, of an epoch that is not complete", e2[1:], size(e1[:7], e2[1:])},
		{"that epoch complete", e2[:1], size(e2)},
	} {
		mergeAll(t, r, c.in)
		if r.held != c.held {
			t.Errorf("%s: %d bytes are held, want %d", c.what, r.held, c.held)
		}
	}
	r.forget(s.id.ID(), &change{})
	if r.held != 0 {
		t.Errorf("%d bytes are held of nobody", r.held)
	}
}

func TestFold(t *testing.T) {
	s := newScribe(t, NewSecret())
	e1, e2, e3, e4 := s.epoch(t, 10, 3, 2), s.epoch(t, 20, 3, 1), s.epoch(t, 30, 4, 0), s.epoch(t, 40, 2, 0)
	e5 := s.epoch(t, 50, 3, 0)
	cat := func(ps ...[]proven) []proven { return slices.Concat(ps...) }
	for _, c := range []struct {
		name     string
		in       []proven
		epoch    uint64 // effective; 0: none
		entries  int
		put, del int
	}{
		{"nothing complete", e1[:2], 0, 0, 2, 0},
		{"complete", e1[:3], 10, 3, 3, 0},
		{"beyond the snapshot", e1, 10, 5, 5, 0},
		{"a gap does not count", cat(e1[:3], e1[4:]), 10, 3, 3, 0},
		{"a gap is filled", cat(e1[:3], e1[4:], e1[3:4]), 10, 5, 5, 0},
		{"backwards", []proven{e1[4], e1[3], e1[2], e1[1], e1[0]}, 10, 5, 5, 0},
		{"a higher epoch is not complete", cat(e1, e2[:2]), 10, 5, 7, 0},
		{"a higher epoch is complete", cat(e1, e2), 20, 4, 9, 5},
		{"a lower epoch comes late", cat(e2, e1), 20, 4, 4, 0},
		{"twice", cat(e1, e1, e2, e2), 20, 4, 9, 5},
		{"only the highest of those begun counts", cat(e1, e2[:2], e3), 30, 4, 11, 7},
		{"many begun", cat(e1[:1], e2[:1], e3[:1], e4), 40, 2, 5, 3},
		{"too many begun: the idle one goes", cat(e5[:1], e4[:1], e3[:1], e2[:1], e5[1:2], e1), 10, 5, 10, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReplica()
			if err := r.learn(s.id.Public()); err != nil {
				t.Fatal(err)
			}
			ch := mergeAll(t, r, c.in)
			es := r.log(s.id.ID())
			if len(es) != c.entries || (len(es) > 0 && es[0].Epoch != c.epoch) {
				t.Errorf("effective: %d entries, want %d of epoch %d", len(es), c.entries, c.epoch)
			}
			if len(ch.put) != c.put || len(ch.del) != c.del {
				t.Errorf("put %d and deleted %d, want %d and %d", len(ch.put), len(ch.del), c.put, c.del)
			}
			for i, e := range es {
				if e.Seq != uint64(i+1) {
					t.Fatalf("entry %d has sequence %d", i, e.Seq)
				}
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	secret := NewSecret()
	s, other := newScribe(t, secret), newScribe(t, secret)
	e := s.epoch(t, 10, 2, 1)
	r := newReplica()
	mergeAll(t, r, e)

	fork := e[2]
	forked, err := SignEntry(s.id, secret.MeshID(), Entry{Epoch: 10, Seq: 3, Kind: KindName, Payload: []byte("other")})
	if err != nil {
		t.Fatal(err)
	}
	fork.Entry = forked
	big := s.epoch(t, 20, 1, 0)[0]
	big.begin.Snapshot = MaxSnapshot + 1
	far := e[2]
	far.Entry, _ = SignEntry(s.id, secret.MeshID(), Entry{Epoch: 10, Seq: maxLogEntries + 1, Kind: KindName})
	for _, c := range []struct {
		name string
		p    proven
		want error
	}{
		{"a fork", fork, errFork},
		{"an unknown author", other.epoch(t, 1, 1, 1)[1], errUnknownAuthor},
		{"a snapshot over the quota", big, errQuota},
		{"a sequence over the quota", far, errQuota},
	} {
		if err := r.merge(c.p, false, &change{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if len(r.log(s.id.ID())) != 3 {
		t.Error("what was refused has changed the log")
	}
}

func TestProve(t *testing.T) {
	secret := NewSecret()
	s, forger, stranger := newScribe(t, secret), newScribe(t, secret), newScribe(t, NewSecret())
	e := s.epoch(t, 10, 2, 0)
	forged := forger.epoch(t, 10, 2, 0)
	raw := slices.Clone(forged[1].raw)
	id := s.id.ID()
	copy(raw[1:11], id[:])
	bad, err := ParseEntry(raw)
	if err != nil {
		t.Fatal(err)
	}
	var rejected []error
	in := []Entry{e[0].Entry, e[1].Entry, bad, stranger.epoch(t, 1, 1, 0)[0].Entry, forger.epoch(t, 5, 1, 1)[1].Entry}
	out := prove(in, map[peer.ID]ed25519.PublicKey{}, secret, func(_ Entry, err error) bool {
		rejected = append(rejected, err)
		return true
	})
	if len(out) != 2 || len(rejected) != 3 {
		t.Errorf("took %d, rejected %v", len(out), rejected)
	}
}

// In whatever order and however often entries come, the outcome is the same.
func TestMergeIsOrderFree(t *testing.T) {
	secret := NewSecret()
	scribes := []scribe{newScribe(t, secret), newScribe(t, secret), newScribe(t, secret)}
	rapid.Check(t, func(t *rapid.T) {
		var all []proven
		for i, s := range scribes {
			number := uint64(0)
			for range rapid.IntRange(1, 4).Draw(t, fmt.Sprint("epochs", i)) {
				number += uint64(rapid.IntRange(1, 3).Draw(t, "step"))
				all = append(all, s.epoch(t, number, rapid.IntRange(1, 4).Draw(t, "snapshot"), rapid.IntRange(0, 4).Draw(t, "more"))...)
			}
		}
		var roots [2][32]byte
		for i := range roots {
			r := newReplica()
			for _, s := range scribes {
				if err := r.learn(s.id.Public()); err != nil {
					t.Fatal(err)
				}
			}
			in := slices.Concat(all, all[:rapid.IntRange(0, len(all)).Draw(t, "repeated")])
			rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
			rng.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
			ch := &change{}
			disk := map[string]bool{}
			for _, p := range in {
				*ch = change{}
				if err := r.merge(p, false, ch); err != nil {
					t.Fatal(err)
				}
				for _, e := range ch.put {
					disk[logKey(e)] = true
				}
				for _, e := range ch.del {
					delete(disk, logKey(e))
				}
			}
			roots[i] = r.root()
			n := 0
			for _, s := range scribes {
				n += len(r.log(s.id.ID()))
				for _, ep := range r.authors[s.id.ID()].next {
					n += len(ep.entries)
				}
			}
			if n != len(disk) {
				t.Fatalf("%d entries in memory, %d on disk", n, len(disk))
			}
		}
		if roots[0] != roots[1] {
			t.Fatal("two orders, two outcomes")
		}
	})
}

// One exchange of digests makes two hosts equal, whatever each had.
func TestExchangeMakesEqual(t *testing.T) {
	secret := NewSecret()
	scribes := []scribe{newScribe(t, secret), newScribe(t, secret), newScribe(t, secret)}
	rapid.Check(t, func(t *rapid.T) {
		rs := []*replica{newReplica(), newReplica()}
		for _, s := range scribes {
			number := uint64(0)
			for range rapid.IntRange(1, 3).Draw(t, "epochs") {
				number++
				ps := s.epoch(t, number, rapid.IntRange(1, 4).Draw(t, "snapshot"), rapid.IntRange(0, 4).Draw(t, "more"))
				for _, r := range rs {
					mergeAll(t, r, ps[:rapid.IntRange(0, len(ps)).Draw(t, "known")])
				}
			}
		}
		a, b := rs[0].digest(), rs[1].digest()
		send := func(from, to *replica, digest []mark) {
			logs := from.missing(digest, peer.ID{})
			for _, es := range logs {
				for _, e := range es {
					if err := to.merge(provenEntry(t, secret, e), true, &change{}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		send(rs[1], rs[0], a)
		send(rs[0], rs[1], b)
		if rs[0].root() != rs[1].root() {
			t.Fatalf("not equal:\n%v\n%v", rs[0].digest(), rs[1].digest())
		}
	})
}

func TestForkShowsInDigest(t *testing.T) {
	secret := NewSecret()
	s := newScribe(t, secret)
	e := s.epoch(t, 10, 1, 0)
	other, err := SignEntry(s.id, secret.MeshID(), Entry{Epoch: 10, Seq: 2, Kind: KindName, Payload: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	another, err := SignEntry(s.id, secret.MeshID(), Entry{Epoch: 10, Seq: 2, Kind: KindName, Payload: []byte("two")})
	if err != nil {
		t.Fatal(err)
	}
	a, b := newReplica(), newReplica()
	mergeAll(t, a, append(slices.Clone(e), proven{Entry: other}))
	mergeAll(t, b, append(slices.Clone(e), proven{Entry: another}))
	if a.root() == b.root() {
		t.Error("roots do not differ")
	}
	// Each tells the other its log; then both have the proof, and agree without it.
	c := newReplica()
	mergeAll(t, c, append(slices.Clone(e), proven{Entry: other}))
	for _, err := range []error{tell(t, secret, a, b), tell(t, secret, b, a)} {
		if !errors.Is(err, errFork) {
			t.Errorf("the fork shows as %v", err)
		}
	}
	if a.root() != b.root() {
		t.Error("the fork is not settled")
	}
	if err := tell(t, secret, b, c); !errors.Is(err, errFork) { // who has seen one side only is told of the other
		t.Errorf("to a third host it shows as %v", err)
	}
	if c.root() != a.root() {
		t.Error("a third host does not learn of the fork")
	}
	if got := a.missing(b.digest(), peer.ID{}); len(got) != 0 {
		t.Errorf("still tells %v", got)
	}
	// The author's next epoch is a log like any other.
	mergeAll(t, a, s.epoch(t, 20, 1, 0))
	if len(a.log(s.id.ID())) != 1 || a.root() == b.root() {
		t.Error("a new epoch does not count")
	}
}

func TestSnapshot(t *testing.T) {
	e := func(k Kind, p string) Entry { return Entry{Kind: k, Payload: []byte(p)} }
	d := func(k Kind, p string) Draft { return Draft{k, []byte(p)} }
	old := []Entry{e(KindBegin, "b"), e(KindHost, "h"), e(KindGrant, "g1"), e(KindName, "+web"), e(KindName, "-web"), e(KindName, "+web"), e(99, "x"), e(KindClaim, "c")}
	show := func(ds []Draft) (s []string) {
		for _, d := range ds {
			s = append(s, fmt.Sprintf("%d:%s", d.Kind, d.Payload))
		}
		return s
	}
	for _, c := range []struct {
		name  string
		base  []Draft
		based bool
		want  []string
	}{
		{"without a base all stays", nil, false, []string{"3:g1", "4:-web", "4:+web", "99:x", "5:c"}},
		{"an empty base keeps grants and the unknown", nil, true, []string{"3:g1", "99:x"}},
		{"a base", []Draft{d(KindName, "+db"), d(KindGrant, "g1"), d(KindGrant, "g2"), d(KindHost, "not mine")}, true, []string{"99:x", "4:+db", "3:g1", "3:g2"}},
	} {
		if got := show(snapshot(c.base, c.based, old)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// What comes and goes while the disk refuses does not add up, and the disk has what is
// held once it takes it again.
func TestDiskQueueIsBounded(t *testing.T) {
	m := quietMesh(t, NewSecret())
	d := m.o.Store.(*disk)
	s := newScribe(t, m.o.Secret)
	const names = 50
	for e := range 40 {
		if e == 2 {
			d.refuse(errPowerCut) // what was written before is to be deleted
		}
		var es []Entry
		for _, p := range s.epochOf(t, uint64(e+1)<<32, names, 0, func(i int) []byte { return fmt.Appendf(nil, "%d/%d", e, i) }) {
			es = append(es, p.Entry)
		}
		if _, err := m.take(es, s.id.ID(), false); err != nil {
			t.Fatal(err)
		}
		m.write()
		for range 3 { // and hosts that come and go
			raw, err := SignRecord(newIdentity(t), m.o.Secret, Record{Epoch: 1, ProtoMin: 1, ProtoMax: 1})
			if err != nil {
				t.Fatal(err)
			}
			rec, err := VerifyRecord(raw, m.o.Secret)
			if err != nil {
				t.Fatal(err)
			}
			m.mu.Lock()
			m.noteRecordLocked(rec, raw, byGossip)
			m.forgetHostLocked(rec.ID())
			m.mu.Unlock()
		}
	}
	if n := m.Stats().DiskQueue; n > 2*names+3*2 {
		t.Errorf("%d values wait for the disk", n)
	}
	d.refuse(nil)
	if !m.write() || m.Stats().DiskQueue != 0 {
		t.Error("the disk takes it, and something still waits")
	}
	held, own := m.logs.log(s.id.ID()), len(m.logs.log(m.id))
	if len(d.buckets[bucketLog]) != names+own || len(held) != names {
		t.Errorf("%d entries are on the disk, %d held", len(d.buckets[bucketLog]), len(held)+own)
	}
	for _, e := range held {
		if string(d.buckets[bucketLog][logKey(e)]) != string(e.raw) {
			t.Fatalf("entry %d is not on the disk", e.Seq)
		}
	}
	for k := range d.buckets[bucketMesh] {
		if strings.HasPrefix(k, keyPeer) {
			t.Errorf("%s is on the disk", k)
		}
	}
}
