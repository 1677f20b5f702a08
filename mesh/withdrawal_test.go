package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/peer"
)

// past is one epoch with grants in its snapshot, and more behind it.
func (s scribe) past(t fataler, number uint64, snapshot, behind []string) []proven {
	t.Helper()
	var ds []Draft
	for _, g := range slices.Concat(snapshot, behind) {
		ds = append(ds, Draft{KindGrant, []byte(g)})
	}
	return s.write(t, number, 1+len(snapshot), ds...)
}

// write is one epoch of a Begin and drafts; the first n entries are its snapshot.
func (s scribe) write(t fataler, number uint64, n int, ds ...Draft) []proven {
	t.Helper()
	b := NewBegin(s.id, s.secret, 0, number, uint32(n))
	payload, err := b.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var out []proven
	for i, d := range append([]Draft{{KindBegin, payload}}, ds...) {
		out = append(out, s.entry(t, number, i+1, d))
	}
	out[0].begin = &b
	return out
}

// entry is one that is no Begin.
func (s scribe) entry(t fataler, number uint64, seq int, d Draft) proven {
	t.Helper()
	e, err := SignEntry(s.id, s.secret.MeshID(), Entry{Epoch: number, Seq: uint64(seq), Kind: d.Kind, Payload: d.Payload})
	if err != nil {
		t.Fatal(err)
	}
	return proven{Entry: e}
}

// deal merges entries as an exchange brings them, and returns the last complaint.
func deal(r *replica, pss ...[]proven) (complaint error) {
	for _, ps := range pss {
		for _, p := range ps {
			if err := r.merge(p, true, &change{}); err != nil {
				complaint = err
			}
		}
	}
	return complaint
}

func TestGrantsAreNotWithdrawn(t *testing.T) {
	s := newScribe(t, NewSecret())
	id := s.id.ID()
	before := s.past(t, 10, []string{"a"}, []string{"b"})
	forgot := s.past(t, 20, []string{"a"}, nil)
	mended := s.past(t, 30, []string{"b", "a"}, nil)
	later := s.past(t, 20, []string{"a"}, []string{"b"})
	epoch := func(r *replica) uint64 { return r.log(id)[0].Epoch }

	one := newReplica()
	if err := deal(one, before, forgot); !errors.Is(err, errWithdrawal) || epoch(one) != 10 {
		t.Fatalf("an epoch without a grant: %v, effective is %d", err, epoch(one))
	}
	if !one.authors[id].forgotten(20) {
		t.Error("the author would not be told")
	}
	// Who has heard of the forgetful epoch only is told of the older one.
	two := newReplica()
	if err := deal(two, forgot); err != nil || epoch(two) != 20 {
		t.Fatalf("%v, %d", err, epoch(two))
	}
	logs := one.missing(two.digest(), newIdentity(t).ID())
	if len(logs) != 1 || logs[0][0].Epoch != 10 {
		t.Fatalf("tells %v", logs)
	}
	deal(two, before)
	if epoch(two) != 10 || one.root() != two.root() {
		t.Errorf("effective is %d, roots equal: %v", epoch(two), one.root() == two.root())
	}
	// Gossip does not bring old epochs back: only who asked gets them.
	three := newReplica()
	deal(three, forgot)
	for _, p := range before {
		if err := three.merge(p, false, &change{}); err != nil {
			t.Fatal(err)
		}
	}
	if epoch(three) != 20 {
		t.Error("an old epoch was taken unasked")
	}
	for name, heal := range map[string][]proven{"in a new epoch": mended, "behind the snapshot": later} {
		r := newReplica()
		deal(r, before, forgot, heal)
		if epoch(r) == 10 {
			t.Errorf("the author made the grant again %s, and is not believed", name)
		}
	}
}

// An older epoch comes in pieces, and its other grants last. An exchange that is over, or cut
// off, meanwhile takes nothing away from the one that tells it.
func TestOlderEpochsComeInPieces(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s, other := newScribe(t, m.o.Secret), newScribe(t, m.o.Secret)
	older := s.past(t, 10, []string{"a"}, []string{"b"})
	tell := func(ps []proven) {
		t.Helper()
		for _, p := range ps {
			if _, err := m.take([]Entry{p.Entry}, newIdentity(t).ID(), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	tell(s.past(t, 20, []string{"a"}, nil))
	tell(older[:2])
	beside := newAsked(nil, nil)
	for _, p := range other.past(t, 10, nil, nil) {
		tell([]proven{p})
		beside.takes(p.Entry)
	}
	m.settleOlder(beside)
	tell(older[2:])
	if es := m.State().Logs[s.id.ID()]; len(es) != 3 || es[0].Epoch != 10 {
		t.Errorf("effective are %d entries of epoch %d", len(es), es[0].Epoch)
	}

	tell(s.past(t, 30, []string{"a", "b"}, nil))
	tell(older)
	held := m.Stats().LogBytes
	itself := newAsked(nil, nil)
	for _, p := range older {
		itself.takes(p.Entry)
	}
	m.settleOlder(itself)
	if now := m.Stats().LogBytes; now >= held || m.logs.authors[s.id.ID()].older != nil {
		t.Error("an older epoch that adds nothing is kept")
	}
}

// An epoch that takes effect again is on the disk again, for the next start.
func TestOlderEpochIsWritten(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := newScribe(t, m.o.Secret)
	for _, ps := range [][]proven{s.past(t, 20, []string{"a"}, nil), s.past(t, 10, []string{"a"}, []string{"b"})} {
		var es []Entry
		for _, p := range ps {
			es = append(es, p.Entry)
		}
		if _, err := m.take(es, s.id.ID(), true); err != nil {
			t.Fatal(err)
		}
		m.write()
	}
	again, err := New(m.o)
	if err != nil {
		t.Fatal(err)
	}
	if es := again.State().Logs[s.id.ID()]; len(es) != 3 || es[0].Epoch != 10 {
		t.Errorf("after a restart: %v", es)
	}
}

// In whatever order a forgetful author's epochs come in exchanges, all end with the
// same once its last one has everything.
func TestForgetfulAuthorsAreOrderFree(t *testing.T) {
	s := newScribe(t, NewSecret())
	rapid.Check(t, func(t *rapid.T) {
		var epochs [][]proven
		var all []string
		for i := range rapid.IntRange(1, 4).Draw(t, "epochs") {
			var gs []string
			for _, g := range all {
				if rapid.Bool().Draw(t, "remembers") {
					gs = append(gs, g)
				}
			}
			fresh := fmt.Sprint("g", i)
			all = append(all, fresh)
			epochs = append(epochs, s.past(t, uint64(10+i), gs, []string{fresh}))
		}
		epochs = append(epochs, s.past(t, 100, all, nil))
		in := slices.Concat(epochs...)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		rng.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		r := newReplica()
		if err := r.learn(s.id.Public()); err != nil {
			t.Fatal(err)
		}
		deal(r, in)
		deal(r, epochs[len(epochs)-1]) // what the bounds made it forget comes again
		if es := r.log(s.id.ID()); len(es) != 1+len(all) || es[0].Epoch != 100 {
			t.Fatalf("%d entries of epoch %d", len(es), es[0].Epoch)
		}
	})
}

// Exchanges make hosts agree on a forgetful author who is gone for good, too,
// whatever each had heard, in whatever order.
func TestForgetfulAuthorsAreAgreedOn(t *testing.T) {
	secret := NewSecret()
	s := newScribe(t, secret)
	rapid.Check(t, func(t *rapid.T) {
		var epochs [][]proven
		var all []string
		for i := range rapid.IntRange(1, 4).Draw(t, "epochs") {
			var gs []string
			for _, g := range all {
				if rapid.Bool().Draw(t, "remembers") {
					gs = append(gs, g)
				}
			}
			var behind []string
			if rapid.Bool().Draw(t, "grants") {
				behind = []string{fmt.Sprint("g", i)}
				all = append(all, behind...)
			}
			epochs = append(epochs, s.past(t, uint64(10+i), gs, behind))
		}
		rs := []*replica{newReplica(), newReplica(), newReplica()}
		for i, r := range rs {
			if err := r.learn(s.id.Public()); err != nil {
				t.Fatal(err)
			}
			for _, k := range rapid.SliceOfN(rapid.IntRange(0, len(epochs)-1), 0, 5).Draw(t, fmt.Sprint("heard by ", i)) {
				asked := rapid.Bool().Draw(t, "asked")
				for _, p := range epochs[k] {
					_ = r.merge(p, asked, &change{})
				}
			}
		}
		for range 12 {
			for i := range rs {
				for j := range rs {
					if i != j && rs[i].root() != rs[j].root() {
						if err := errors.Join(tell(t, secret, rs[i], rs[j]), tell(t, secret, rs[j], rs[i])); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		if rs[0].root() != rs[1].root() || rs[1].root() != rs[2].root() {
			for _, r := range rs {
				t.Logf("%v", r.digest())
			}
			t.Fatal("they do not agree")
		}
	})
}

// Two epochs that each lack a grant of the other, as an author leaves them who lost
// its disk and came back before it was told: everybody holds both, and the author, who
// has one, hears of the other (found by the simulations, seed 9428).
func TestNeitherEpochIsForgotten(t *testing.T) {
	s := newScribe(t, NewSecret())
	id := s.id.ID()
	first, second := s.past(t, 10, []string{"a"}, nil), s.past(t, 20, []string{"b"}, nil)
	one, two, author := newReplica(), newReplica(), newReplica()
	deal(one, first, second)
	deal(two, second, first)
	deal(author, first)
	if one.root() != two.root() {
		t.Error("the order decides")
	}
	if one.root() == author.root() {
		t.Error("the author would not be told")
	}
	logs := one.missing(author.digest(), id)
	if len(logs) != 1 || len(logs[0]) != 2 || logs[0][0].Epoch != 20 {
		t.Errorf("the author is told %v", logs)
	}
	if logs := one.missing(two.digest(), peer.ID{1}); len(logs) != 0 {
		t.Errorf("who has both is told %v", logs)
	}
	deal(one, s.past(t, 30, []string{"a", "b"}, nil))
	if one.log(id)[0].Epoch != 30 || len(one.authors[id].next) != 0 {
		t.Error("an epoch that has both does not take effect")
	}
}

// What an epoch may say that it has taken is nothing to fear, whatever it is.
func FuzzTaken(f *testing.F) {
	mark := append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 10), 1), make([]byte, 8)...)
	f.Add(mark, uint8(2))
	f.Add(bytes.Repeat(mark, 3)[:50], uint8(1))
	f.Add(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 10), math.MaxUint64), uint8(0))
	f.Fuzz(func(t *testing.T, payload []byte, n uint8) {
		later := &epoch{number: 11, snapshot: 2, entries: []Entry{{Kind: KindBegin}, {Kind: KindTaken, Payload: payload}}}
		marks := later.taken()
		if len(payload)%takenLen == 0 && len(marks) != len(payload)/takenLen || len(payload)%takenLen != 0 && marks != nil {
			t.Fatalf("%d marks of %d bytes", len(marks), len(payload))
		}
		ep := &epoch{number: 10}
		for i := range int(n) {
			ep.entries = append(ep.entries, Entry{Kind: KindGrant, raw: []byte{byte(i)}})
		}
		if c := ep.coveredBy(marks); c < 0 || c > len(ep.entries) {
			t.Fatalf("%d of %d are covered", c, len(ep.entries))
		}
	})
}

// saidGrants are the grants of an author that count.
func saidGrants(r *replica, id peer.ID) (out []string) {
	for _, e := range r.said(id) {
		if e.Kind == KindGrant {
			out = append(out, string(e.Payload))
		}
	}
	slices.Sort(out)
	return out
}

// Three epochs, of which the last has the grants of the first only: none is forgotten, in whatever
// order they come.
func TestNoEpochIsDroppedForItsNumber(t *testing.T) {
	s := newScribe(t, NewSecret())
	id := s.id.ID()
	one, two, four := s.past(t, 10, []string{"a"}, nil), s.past(t, 20, []string{"b"}, nil), s.past(t, 40, []string{"a"}, nil)
	for i, order := range [][][]proven{{one, two, four}, {two, one, four}, {two, four, one}, {one, four, two}, {four, two, one}, {four, one, two}} {
		r := newReplica()
		deal(r, order...)
		r.settleOlder(id)
		if gs := saidGrants(r, id); !slices.Equal(gs, []string{"a", "b"}) {
			t.Errorf("order %d: the grants are %q", i, gs)
		}
		checkHeld(t, r, 0)
		deal(r, s.past(t, 50, []string{"a", "b"}, nil))
		if len(r.authors[id].next) != 0 || r.log(id)[0].Epoch != 50 {
			t.Errorf("order %d: an epoch that has all does not take effect", i)
		}
	}
}

// Whichever epochs an author has written, and in whatever order they come: hosts that have
// told each other keep the same, and all grants count.
func TestAllGrantsCount(t *testing.T) {
	secret := NewSecret()
	s := newScribe(t, secret)
	id := s.id.ID()
	rapid.Check(t, func(t *rapid.T) {
		var epochs [][]proven
		all := make(map[string]bool)
		for i := range rapid.IntRange(1, maxNext).Draw(t, "epochs") {
			grants := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, "grants")
			for _, g := range grants {
				all[g] = true
			}
			n := rapid.IntRange(0, len(grants)).Draw(t, "in the snapshot")
			epochs = append(epochs, s.past(t, uint64(10+i), grants[:n], grants[n:]))
		}
		rs := []*replica{newReplica(), newReplica(), newReplica()}
		for _, r := range rs {
			deal(r, rapid.Permutation(epochs).Draw(t, "order")...)
		}
		for range 6 {
			for i := range rs {
				for j := range rs {
					if i != j && rs[i].root() != rs[j].root() {
						if err := errors.Join(tell(t, secret, rs[i], rs[j]), tell(t, secret, rs[j], rs[i])); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		for _, r := range rs {
			if r.root() != rs[0].root() {
				t.Fatalf("one keeps %v, another %v", r.digest(), rs[0].digest())
			}
			if gs := saidGrants(r, id); !slices.Equal(gs, slices.Sorted(maps.Keys(all))) {
				t.Fatalf("the grants are %q", gs)
			}
			checkHeld(t, r, 0)
		}
	})
}

// An old copy of a host whose log had become shorter meets one host that was away, and dies before it
// hears of anything: what the host has said since counts all the same, on every host.
func TestOldCopyTakesNothingAway(t *testing.T) {
	secret := NewSecret()
	s := newScribe(t, secret)
	id := s.id.ID()
	full := s.past(t, 10, []string{"old", "kept"}, nil)
	var es []Entry
	for _, p := range full {
		es = append(es, p.Entry)
	}
	sum := chain(es)
	taken := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 10), uint64(len(es)))
	taken = append(taken, sum[:]...)
	short := s.write(t, 30, 4, Draft{KindGrant, []byte("kept")}, Draft{KindTaken, taken}, Draft{KindGrant, []byte("new")})
	copied := s.past(t, 20, []string{"old", "kept"}, nil)
	rs := []*replica{newReplica(), newReplica(), newReplica()}
	deal(rs[0], full, short)
	deal(rs[1], full, short)
	deal(rs[2], full, copied)
	if gs := saidGrants(rs[0], id); !slices.Equal(gs, []string{"kept", "new"}) {
		t.Fatalf("the shorter log has %q", gs)
	}
	for range 6 {
		for i := range rs {
			for j := range rs {
				if i != j && rs[i].root() != rs[j].root() {
					if err := tell(t, secret, rs[i], rs[j]); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	for i, r := range rs {
		if gs := saidGrants(r, id); !slices.Equal(gs, []string{"kept", "new", "old"}) || r.root() != rs[0].root() {
			t.Errorf("host %d: the grants are %q", i, gs)
		}
	}
	behind := s.entry(t, 30, len(short)+1, Draft{KindGrant, []byte("newer")})
	deal(rs[0], []proven{behind})
	if gs := saidGrants(rs[0], id); !slices.Contains(gs, "newer") {
		t.Errorf("what comes in an epoch that waits does not count: %q", gs)
	}
}

// What counts of epochs that wait is in the State, behind the effective log.
func TestStateHasGrantsOfEpochsThatWait(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := newScribe(t, m.o.Secret)
	for _, ps := range [][]proven{s.past(t, 10, []string{"a", "b"}, nil), s.write(t, 20, 1, Draft{KindName, []byte("a name")}, Draft{KindGrant, []byte("b")}, Draft{KindGrant, []byte("c")})} {
		told(t, m, s.id.ID(), ps)
	}
	var said []string
	for _, e := range m.State().Logs[s.id.ID()][1:] {
		said = append(said, string(e.Payload))
	}
	if !slices.Equal(said, []string{"a", "b", "c"}) {
		t.Errorf("the log says %q", said)
	}
}

// Old epochs that come again and again cost nothing that grows with the log they are compared with.
func TestGrantsAreLookedUp(t *testing.T) {
	s := newScribe(t, NewSecret())
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("grant ", i))
	}
	r := newReplica()
	mergeAll(t, r, s.past(t, 20, many, nil))
	own := r.authors[s.id.ID()].current
	for _, c := range []struct {
		grant string
		kept  bool
	}{{many[999], true}, {"another", false}} {
		old := newReplica()
		mergeAll(t, old, s.past(t, 10, []string{c.grant}, nil))
		ep := old.authors[s.id.ID()].current
		if n := testing.AllocsPerRun(10, func() {
			if ep.keptBy(own) != c.kept {
				t.Errorf("%s is kept: %v", c.grant, !c.kept)
			}
		}); n > 10 {
			t.Errorf("%v allocations", n)
		}
	}
	if c := own.copy(); c.grants.sums != nil {
		t.Error("a copy writes to the same set")
	}
}
