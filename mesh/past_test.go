package mesh

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/peer"
)

// grantsIn are those of this host's own log.
func grantsIn(m *Mesh) (out []string) {
	for _, e := range m.State().Logs[m.id] {
		if e.Kind == KindGrant {
			out = append(out, string(e.Payload))
		}
	}
	return out
}

// told has a host hear of its own log, as an exchange brings it.
func told(t *testing.T, m *Mesh, from peer.ID, ps []proven) {
	t.Helper()
	var es []Entry
	for _, p := range ps {
		es = append(es, p.Entry)
	}
	if _, err := m.take(es, from, true); err != nil {
		t.Fatal(err)
	}
}

// markOf is what the digest of somebody says who holds an epoch of this host's.
func markOf(m *Mesh, ps []proven) []mark {
	r := newReplica()
	deal(r, ps)
	return slices.DeleteFunc(r.digest(), func(k mark) bool { return k.author != m.id })
}

// A log that is told in several messages: an epoch that is opened after the first of them does not
// let the host believe that it has heard all of its past.
func TestHeardAllOfThePast(t *testing.T) {
	for _, when := range []string{"between two messages", "while it is written"} {
		t.Run(when, func(t *testing.T) {
			s := NewSecret()
			m := quietMesh(t, s)
			var grants []Draft
			for i := range 400 {
				grants = append(grants, Draft{KindGrant, fmt.Appendf(nil, "grant %d", i)})
			}
			old := scribe{id: m.o.Identity, secret: s}.write(t, 5, 2, grants...)
			from := newIdentity(t).ID()
			told(t, m, from, old[:100])
			if !m.lacksPastLocked() {
				t.Fatal("no new epoch is asked for")
			}
			if when == "while it is written" {
				m.o.Store = hooked{m.o.Store, func() { told(t, m, from, old[100:]) }}
			}
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
			m.hear(from, markOf(m, old))
			if m.State().Heard {
				t.Error("it has heard of its past from one that has told a part of it")
			}
			if when == "between two messages" {
				told(t, m, from, old[100:])
			}
			m.hear(from, markOf(m, old)) // the exchange is over
			if m.State().Heard {
				t.Error("it has heard of its past, and its log does not have it")
			}
			if err := m.openEpoch(); err != nil {
				t.Fatal(err)
			}
			if n := len(grantsIn(m)); n != len(grants) || !m.State().Heard {
				t.Errorf("it has %d grants of %d, heard %v", n, len(grants), m.State().Heard)
			}
			told(t, m, from, old[:50]) // by one who does not know of the new epoch, and is cut off
			if !m.State().Heard {
				t.Error("what is known is told again, and in doubt")
			}
		})
	}
}

// hooked calls f when the log is written.
type hooked struct {
	Store
	f func()
}

func (h hooked) Apply(b string, put map[string][]byte, del []string) error {
	if b == bucketLog {
		h.f()
	}
	return h.Store.Apply(b, put, del)
}

// A host that has lost its disk, and whose log comes over a slow way: it waits for all of it.
func TestHeardAllOfThePastOverASlowWay(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.log = slog.New(slog.DiscardHandler)
		bs := w.meet(2)
		a, b := bs[0], bs[1]
		w.within(10*time.Second, "two hosts", func() bool { return oneMesh(bs...) })
		const n = 400
		for i := range n {
			if _, err := b.mesh.Append(Draft{KindGrant, fmt.Appendf(nil, "%d %0300d", i, i)}); err != nil {
				t.Fatal(err)
			}
		}
		w.within(30*time.Second, "all told", func() bool { return oneMesh(bs...) })
		a.host.SetUplink(64 << 10)
		b.crash()
		time.Sleep(time.Minute)
		b.host.Up()
		b.disk = newDisk()
		b.join(a)
		w.within(time.Minute, "its past", func() bool {
			st := b.mesh.State()
			have := len(grantsIn(b.mesh))
			if st.Heard && have < n {
				t.Fatalf("it has heard of its past, and has %d grants of %d", have, n)
			}
			if slices.ContainsFunc(st.Notices, func(s string) bool { return strings.HasPrefix(s, "somebody else writes") }) {
				t.Fatal("its operator is told of a twin")
			}
			return st.Heard && have == n && oneMesh(bs...)
		})
	})
}

// The author takes up all epochs that it is told of.
func TestAllPastsAreTakenUp(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	from := newIdentity(t).ID()
	one, two := s.past(t, 10, []string{"a"}, nil), s.past(t, 20, []string{"b"}, nil)
	told(t, m, from, slices.Concat(one, two))
	m.hear(from, markOf(m, slices.Concat(one, two)))
	if m.State().Heard {
		t.Error("it has heard of its past before it is in its log")
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	if gs := grantsIn(m); !slices.Equal(gs, []string{"a", "b"}) || !m.State().Heard {
		t.Errorf("its log has the grants %q, heard %v", gs, m.State().Heard)
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lacksPastLocked() || m.mends != 1 {
		t.Errorf("it lacks its past: %v, and was mended %d times", m.lacksPastLocked(), m.mends)
	}
}

// Who knows that there is a past, and not what is in it, has not told it, also when it
// holds the same as this host but for that.
func TestNotHeardFromWhoHasPartOfASnapshot(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	old := s.past(t, 5<<32, []string{"a", "b", "c"}, nil)
	from := newIdentity(t).ID()
	m.hear(from, markOf(m, old[:2]))
	if m.State().Heard {
		t.Error("it has heard of its past")
	}
	m.hear(from, nil)
	if m.State().Heard {
		t.Error("it has heard of its past from one whose root is the same")
	}
	told(t, m, newIdentity(t).ID(), old)
	m.hear(from, markOf(m, old[:2]))
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	if !m.State().Heard {
		t.Error("another has told all of it, and it has not heard")
	}
}

// What was told in part is in doubt until the rest comes, or who told it has taken a later epoch for it.
func TestPartOfThePast(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	from, other := newIdentity(t).ID(), newIdentity(t).ID()
	heard := func(want bool, when string) {
		t.Helper()
		if got := m.State().Heard; got != want {
			t.Errorf("%s: heard %v", when, got)
		}
	}
	m.hear(other, nil)
	heard(true, "another host has told")
	old := s.past(t, 5, []string{"a", "b", "c"}, nil)
	told(t, m, from, old[:2])
	heard(false, "a part is told")
	m.hear(other, nil)
	heard(false, "who does not know of it says the same")
	m.hear(from, nil)
	select {
	case <-m.reroll:
	default:
		t.Error("what was told is not taken up")
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	heard(false, "the part is in the log")
	m.hear(from, nil)
	heard(true, "who told it has what this host has")
	if gs := grantsIn(m); !slices.Equal(gs, []string{"a"}) {
		t.Errorf("the log has the grants %q", gs)
	}
}

// While an exchange tells of the past, no epoch is opened for a part of it; when it ends, one is.
func TestNoEpochForAPartOfAnExchange(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	from := newIdentity(t).ID()
	asksFor := func() bool {
		select {
		case <-m.reroll:
			return true
		default:
			return false
		}
	}
	m.hear(from, nil)
	exchange := newAsked(nil, nil)
	for _, p := range s.past(t, 5, nil, []string{"a", "b"}) {
		if _, err := m.takeTold([]Entry{p.Entry}, from, exchange); err != nil {
			t.Fatal(err)
		}
		if asksFor() || m.State().Heard {
			t.Errorf("after entry %d a new epoch is asked for, or the past counts as heard", p.Seq)
		}
	}
	m.endTelling(exchange)
	if !asksFor() {
		t.Error("no new epoch is asked for")
	}
	if err := m.openEpoch(); err != nil || !m.State().Heard || asksFor() {
		t.Errorf("when it is open: %v, heard %v", err, m.State().Heard)
	}
}

// More than one entry under one number: all are this host's word.
func TestOverwrittenTwiceIsTakenUp(t *testing.T) {
	m := quietMesh(t, NewSecret())
	es, err := m.Append(Draft{KindGrant, []byte("x")}, Draft{KindGrant, []byte("y")}, Draft{KindGrant, []byte("z")})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range []string{"u", "v", "w"} {
		written(t, m, es[0].Epoch, es[0].Seq+uint64(2-i), g)
	}
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	if gs := slices.Sorted(slices.Values(grantsIn(m))); !slices.Equal(gs, []string{"u", "v", "w", "x", "y", "z"}) {
		t.Errorf("the log has the grants %q", gs)
	}
}

// The past is bounded; what is open is kept whatever else comes.
func TestPastIsBounded(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	twinWrites(t, m)
	for i := range uint64(3 * maxPast) {
		told(t, m, peer.ID{1}, s.past(t, 5+i, []string{fmt.Sprint(i)}, nil))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.past.epochs); n != maxPast || !m.continuedLocked() {
		t.Errorf("%d epochs; the open one among them: %v", n, m.continuedLocked())
	}
	if n := maxPast * (maxLogBytes + (maxLogEntries+maxEarly)*maxEntry); n > 99<<20 {
		t.Errorf("%d bytes may be in them", n)
	}
}

// What is told of the past is counted, whatever becomes of it.
func TestPastIsCounted(t *testing.T) {
	m := quietMesh(t, NewSecret())
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	if n := m.Stats().PastBytes; n != 0 {
		t.Errorf("%d bytes of nothing", n)
	}
	one, other := s.past(t, 5, []string{"a", "b"}, nil), s.past(t, 5, []string{"c"}, []string{"d", "e"})
	ps := []proven{one[0], one[1], other[1], other[3]} // in order, twice under one number, and beyond a gap
	want := 0
	for _, p := range ps {
		want += len(p.raw)
	}
	told(t, m, peer.ID{1}, append(ps, ps...))
	if n := m.Stats().PastBytes; n != want {
		t.Errorf("%d bytes, want %d", n, want)
	}
}

// Others may hold the epoch before for a while, and say so when it is not open any more.
func TestHeardFromWhoHasTheEpochBefore(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.mu.Lock()
	before := slices.DeleteFunc(m.logs.digest(), func(k mark) bool { return k.author != m.id })
	m.mu.Unlock()
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(before)
	other[0].sum[0]++
	if m.hear(peer.ID{1}, other); m.State().Heard {
		t.Error("heard from one that has something else under the same numbers")
	}
	if m.hear(peer.ID{1}, before); !m.State().Heard {
		t.Error("not heard from one that has nothing more")
	}
}

// What was taken up once does not come back: the names of the past are over.
func TestPastIsTakenUpOnce(t *testing.T) {
	m := quietMesh(t, NewSecret())
	m.SetBase(func() []Draft { return nil })
	s := scribe{id: m.o.Identity, secret: m.o.Secret}
	told(t, m, peer.ID{1}, s.write(t, 5, 2, Draft{KindName, []byte("a name")}, Draft{KindGrant, []byte("a grant")}))
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	twinWrites(t, m)
	if _, err := m.Append(Draft{KindClaim, []byte("a claim")}); err != nil { // opens an epoch without a base
		t.Fatal(err)
	}
	for _, e := range m.State().Logs[m.id] {
		if e.Kind == KindName {
			t.Errorf("%q is back", e.Payload)
		}
	}
}
