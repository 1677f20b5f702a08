package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"weft/peer"
)

// turns is talks whose time and order a test sets.
type turns struct {
	*talks
	t     *testing.T
	clock time.Time
}

func newTurns(t *testing.T, self byte) *turns {
	return &turns{newTalks(peer.ID{self}), t, time.Unix(1, 0)}
}

// ask asks for a turn of a host's talk, from an address of 192.168.48.0/24; 0: this
// host's own.
func (x *turns) ask(id, from byte) *talk {
	k := &talk{all: x.talks, id: peer.ID{id}, mine: from == 0, lane: &x.outside, moved: new(progress), started: make(chan struct{})}
	if k.from = netip.AddrFrom4([4]byte{192, 168, 48, from}); k.mine {
		k.lane = &x.joins
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clock = x.clock.Add(time.Second)
	x.askLocked(k, x.clock)
	x.startLocked()
	return k
}

// gone is one that is sent away.
func (x *turns) gone(k *talk) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, w := range x.waiting {
		if w == k {
			x.waiting = append(x.waiting[:i:i], x.waiting[i+1:]...)
		}
	}
}

func (x *turns) goes(what string, k *talk, want bool) {
	x.t.Helper()
	got := false
	select {
	case <-k.started:
		got = true
	default:
	}
	if got != want {
		x.t.Errorf("%s: goes on %v, want %v", what, got, want)
	}
}

func TestTurnsOfOneHost(t *testing.T) {
	const low, self, high = 1, 2, 3
	x := newTurns(t, self)
	first, again := x.ask(high, 7), x.ask(high, 7)
	x.goes("the first", first, true)
	x.goes("one beside it", again, false)
	mine := x.ask(high, 0)
	first.end()
	x.goes("the second", again, true)
	again.end()
	x.goes("this host's own", mine, true)
	theirs := x.ask(high, 7)
	x.goes("the higher one's, begun at the same time", theirs, false)
	mine.end()
	x.goes("the higher one's", theirs, true)

	mine = x.ask(low, 0)
	theirs = x.ask(low, 8)
	x.goes("the lower one's, begun at the same time", theirs, true)
	theirs.end()
	mine.goesOn()
	late := x.ask(low, 8)
	x.goes("the lower one's, when this host's own goes on", late, false)
	mine.end()
	x.goes("the lower one's", late, true)
	mine.end()
	late.end()
	if n := x.outside.n; n != 1 || x.with(peer.ID{low}) || !x.with(peer.ID{high}) {
		t.Errorf("%d are under way", n)
	}
}

func TestTurnsAreFair(t *testing.T) {
	x := newTurns(t, 1)
	busy := make([]*talk, served)
	for i := range busy {
		busy[i] = x.ask(byte(10+i), byte(10+i))
		x.goes("one of so many", busy[i], true)
	}
	sentAway := x.ask(100, 100)
	x.gone(sentAway)
	second := x.ask(101, 101)
	own := x.ask(102, 0)
	x.goes("this host's own", own, true)
	third := x.ask(100, 100) // it had asked before the second
	busy[0].end()
	x.goes("the one that was sent away", third, true)
	x.goes("the second", second, false)
	busy[1].end()
	x.goes("the second, then", second, true)

	x.gone(x.ask(103, 103))
	x.clock = x.clock.Add(turnMemory)
	fourth, fifth := x.ask(104, 104), x.ask(103, 103) // that it has asked is forgotten
	third.end()
	x.goes("who has waited", fourth, true)
	x.goes("who was away", fifth, false)
	for i := range 2 * maxTurns {
		k := &talk{id: peer.ID{1, byte(i), byte(i >> 8)}}
		x.askLocked(k, x.clock)
		x.gone(k)
	}
	if len(x.asked) > maxTurns {
		t.Errorf("%d are remembered", len(x.asked))
	}
}

// Who has many identities has them at one address, and others get their turn.
func TestTurnsOfOneAddress(t *testing.T) {
	x := newTurns(t, 1)
	for i := range served {
		x.goes(fmt.Sprint("identity ", i), x.ask(byte(10+i), 9), i < servedEach)
	}
	x.goes("another address", x.ask(100, 10), true)
}

// Of those that wait, the one whose address has the fewest places is next; of those with as many, who has asked first.
func TestTurnsAreSharedByAddresses(t *testing.T) {
	x := newTurns(t, 1)
	busy := make([]*talk, served)
	for i := range busy {
		busy[i] = x.ask(byte(10+i), byte(9+i/3)) // three, three and two
	}
	again, two, fresh, later := x.ask(100, 9), x.ask(101, 11), x.ask(102, 100), x.ask(103, 101)
	for i, next := range []*talk{fresh, later, again, two} { // when address 9 has two, one, none
		x.goes(fmt.Sprint("not yet ", i), next, false)
		busy[i].end()
		x.goes(fmt.Sprint("next ", i), next, true)
	}
}

// Who begins another exchange has none. One that it has begun before ends at once, and
// one that this host has begun with its former start; this host's own may go on.
func TestTurnsOfWhoIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		mine   bool
		start  uint64
		heard  bool
		silent time.Duration
		goes   bool
	}{
		"a former start's":                         {false, 1, true, 0, true},
		"this host's own with a former start":      {true, 1, true, 0, true},
		"its own, that broke off":                  {false, 2, true, 0, true},
		"this host's own, that goes on":            {true, 2, true, cutWait - 1, false},
		"this host's own, that has fallen silent":  {true, 2, true, cutWait, true},
		"this host's own, whose turn is to come":   {true, 2, false, cutAfter - 1, false},
		"this host's own, whose turn did not come": {true, 2, false, cutAfter, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *world) {
				x := newTurns(t, 1)
				from := byte(7)
				if c.mine {
					from = 0
				}
				old := x.ask(2, from)
				old.start, old.heard, old.cut = c.start, c.heard, old.end
				time.Sleep(c.silent)
				k := &talk{all: x.talks, id: old.id, start: 2, lane: &x.outside, started: make(chan struct{})}
				start, soonest := time.Now(), turnWait
				if c.goes {
					soonest = 0
				}
				if got := k.begin(t.Context(), turnWait); got != c.goes || time.Since(start) != soonest {
					t.Errorf("goes on %v after %v", got, time.Since(start))
				}
			})
		})
	}
}

// One machine has a /64 of IPv6 for itself, and is one source.
func TestTurnsOfOneNetwork(t *testing.T) {
	for _, net := range []string{"2001:db8:0:%d::1", "fdab:cdef:12:%d::1"} {
		t.Run(net, func(t *testing.T) {
			turnsOfOneNetwork(t, netip.MustParseAddr(fmt.Sprintf(net, 0)), netip.MustParseAddr(fmt.Sprintf(net, 1)))
		})
	}
}

func turnsOfOneNetwork(t *testing.T, a, other netip.Addr) {
	x, h := newTurns(t, 1), newHolds(servedEach)
	for i := range served {
		k := &talk{all: x.talks, id: peer.ID{byte(10 + i)}, lane: &x.outside, from: sourceOf(a, false), started: make(chan struct{})}
		x.mu.Lock()
		x.askLocked(k, x.clock)
		x.startLocked()
		x.mu.Unlock()
		x.goes(a.String(), k, i < servedEach)
		if h.take(sourceOf(a, false)) != (i < servedEach) {
			t.Errorf("hold %d of %v", i, a)
		}
		a = a.Next()
	}
	if !h.take(sourceOf(other, false)) || sourceOf(other, false) == sourceOf(a, false) {
		t.Error("another network has no place")
	}
	if v4 := netip.MustParseAddr("192.0.2.1"); sourceOf(v4, false) != v4 {
		t.Errorf("%v is a source", sourceOf(v4, false))
	}
	if in := peer.ControlAddr([5]byte{1}, peer.ID{1}); sourceOf(in, true) != in {
		t.Errorf("%v is a source", sourceOf(in, true))
	}
}

// Nobody's exchange is cut for one that could not have its place.
func TestNobodyIsCutInVain(t *testing.T) {
	bubble(t, func(t *testing.T, _ *world) {
		x := newTurns(t, 1)
		cut := 0
		for i := range served {
			from := byte(9)
			if i >= servedEach {
				from = byte(20 + i)
			}
			k := x.ask(byte(10+i), from)
			k.cut = func() { cut++ }
		}
		time.Sleep(10 * time.Second)
		ask := func(from byte) {
			k := &talk{all: x.talks, id: peer.ID{200, from}, lane: &x.outside, from: netip.AddrFrom4([4]byte{192, 168, 48, from}), moved: new(progress), started: make(chan struct{})}
			if k.begin(t.Context(), turnWait) {
				t.Errorf("a place for one of address %d", from)
			}
		}
		if ask(9); cut > 0 {
			t.Errorf("%d exchanges are cut for one whose address has its share", cut)
		}
		if ask(10); cut != 1 {
			t.Errorf("%d exchanges are cut for one that waits", cut)
		}
	})
}

// One that broke off has its turn soon, however many come that never did.
func TestBrokenOffComesAgain(t *testing.T) {
	x := newTurns(t, 1)
	ask := func(id int) *talk {
		k := &talk{all: x.talks, id: peer.ID{2, byte(id), byte(id >> 8)}, mine: true, lane: &x.joins, moved: new(progress), started: make(chan struct{})}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.clock = x.clock.Add(100 * time.Millisecond)
		x.askLocked(k, x.clock)
		x.startLocked()
		return k
	}
	honest := ask(0)
	honest.end()
	var busy []*talk
	for i := range joiners {
		busy = append(busy, ask(1+i))
	}
	honest = ask(0)
	for i := range 2 * int(brokeWait/(100*time.Millisecond)) {
		next := ask(1000 + i)
		busy[i%joiners].end()
		select {
		case <-honest.started:
			if i < joiners {
				t.Errorf("after %d others", i)
			}
			return
		case <-next.started:
			busy[i%joiners] = next
		}
	}
	t.Error("never")
}
