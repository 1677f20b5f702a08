package router

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// heirs5 is what host 1 knows of a mesh of five: the founder, 1, has given a part to each. Host 5 is dead, and taken over by host 2 by
// decision; host 4 is out of reach, and has not heard of it.
func heirs5(t *testing.T, more ...ipam.Fact) (*Router, *books) {
	t.Helper()
	whole := pfx("10.0.0.0/24")
	o := func(i byte) ipam.Owner { return ipam.Owner{i} }
	facts := []ipam.Fact{{By: o(1), Kind: ipam.FactGrant, Grant: ipam.Seed(whole, o(1))}}
	for i, p := range []string{"10.0.0.128/27", "10.0.0.160/27", "10.0.0.192/27", "10.0.0.224/27"} {
		g := ipam.Grant{Prefix: pfx(p), From: o(1), To: o(byte(i + 2)), Version: 2}
		facts = append(facts, ipam.Fact{By: o(1), Kind: ipam.FactGrant, Grant: g}, ipam.Fact{By: g.To, Kind: ipam.FactAccept, Grant: g})
	}
	take := func(instance uint32, dead, by byte) ipam.Fact {
		v := ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{o(dead), o(by)}}
		ballot := ipam.Ballot{Round: 1, By: o(1)} // the only elector
		return ipam.Fact{By: o(1), Kind: ipam.FactVote, Vote: ipam.Vote{Instance: instance, Promised: ballot, Intent: v, Accepted: ballot, Value: v}}
	}
	facts = append(append(facts, take(1, 5, 2), take(2, 4, 3)), more...)
	st := &mesh.State{Self: peer.ID{1}, Logs: map[peer.ID][]mesh.Entry{}}
	for i := range byte(5) {
		h := mesh.Host{ID: peer.ID{i + 1}, Self: i == 0, Record: mesh.Record{Nickname: "host" + string('1'+rune(i))}, Liveness: mesh.Alive}
		if i > 2 {
			h.Liveness = mesh.Failed
		}
		st.Hosts = append(st.Hosts, h)
	}
	r := &Router{taking: map[peer.ID]wish{}, lastAlive: map[peer.ID]time.Time{}, wasAlive: map[peer.ID]bool{}, began: time.Now().Add(-time.Hour)}
	b := &books{st: st, folded: folded{Gone: map[peer.ID]bool{}, Facts: facts}}
	b.ledger = ipam.NewLedger(o(1), o(1), whole, facts)
	r.books.Store(b)
	if n := len(b.ledger.Takeovers()); n != 2 {
		t.Fatalf("%d takeovers", n)
	}
	return r, b
}

func seen(h byte, ids ...uint32) (fs []ipam.Fact) {
	for _, id := range ids {
		fs = append(fs, ipam.Fact{By: ipam.Owner{h}, Kind: ipam.FactSeen, Count: id})
	}
	return fs
}

func TestWhatATakeoverWaitsFor(t *testing.T) {
	all := slices.Concat(seen(1, 5), seen(2, 5), seen(3, 5))
	forced := ipam.Fact{By: ipam.Owner{6}, Kind: ipam.FactForce, Vote: ipam.Vote{Instance: 1, Value: ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{{5}, {6}}}}}
	for name, c := range map[string]struct {
		more  []ipam.Fact
		state func(*books)
		of    int
		want  []string
	}{
		"others have not heard": {seen(1, 5), nil, 0, []string{"(host3) may have been given space", "rmpeer each of them"}},
		"an earlier one": {all, nil, 1,
			[]string{"(host2) is to take over from ", "(host5)", "its taker has not said yet"}},
		"an earlier one whose taker is out of reach": {all, func(b *books) { b.st.Hosts[1].Liveness = mesh.Failed }, 1,
			[]string{"(host2) is to take over", "(host2) is out of reach itself", "if it is dead, too: weft rmpeer " + peer.ID{2}.String()}},
		"not an earlier one by force": {all, func(b *books) {
			b.ledger = ipam.NewLedger(ipam.Owner{1}, ipam.Owner{1}, pfx("10.0.0.0/24"), append(b.folded.Facts, forced))
		}, 2, []string{"first", "(host5): its taker has not said yet"}},
		"a taker that is out of reach": {all, func(b *books) { b.st.Hosts[1].Liveness = mesh.Failed }, 0,
			[]string{"(host2) is out of reach itself", "weft rmpeer " + peer.ID{2}.String()}},
		"a taker that has left": {all, func(b *books) { b.folded.Gone[peer.ID{2}] = true }, 0,
			[]string{"(host2) has left the mesh", "weft rmpeer " + peer.ID{2}.String()}},
		"an earlier one whose taker has left": {all, func(b *books) { b.folded.Gone[peer.ID{2}] = true }, 1,
			[]string{"(host2) is to take over", "(host2) has left the mesh", "weft rmpeer " + peer.ID{2}.String()}},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := heirs5(t, c.more...)
			if c.state != nil {
				c.state(b)
			}
			r.mu.Lock()
			e := r.envLocked(b)
			r.mu.Unlock()
			why, tip := r.waitsFor(b, e, b.ledger.Takeovers()[c.of])
			for _, w := range c.want {
				if !strings.Contains(why+"; "+tip, w) {
					t.Errorf("%s; %s: want %q in it", why, tip, w)
				}
			}
		})
	}
}

// A host that is to take over from another, and can not yet, is not reset; its log is
// kept if it is all the same.
func TestHeirsStay(t *testing.T) {
	r, b := heirs5(t)
	if err := r.heirLocked(); err != nil {
		t.Errorf("a host that is to take nothing: %v", err)
	}
	self := *b
	self.st = &mesh.State{Self: peer.ID{2}, Hosts: b.st.Hosts}
	self.ledger = ipam.NewLedger(ipam.Owner{2}, ipam.Owner{1}, pfx("10.0.0.0/24"), b.folded.Facts)
	r.books.Store(&self)
	if err := r.heirLocked(); err == nil || !strings.Contains(err.Error(), "(host5), and can not yet") {
		t.Errorf("the heir is reset: %v", err)
	}
	if err := r.beginReset(t.Context(), false); err == nil || !strings.Contains(err.Error(), "(host5), and can not yet") || r.resetting {
		t.Errorf("a reset of the heir: %v", err)
	}
	if err := r.beginReset(t.Context(), true); err != nil || !r.resetting {
		t.Errorf("a reset by force: %v", err)
	}
	r.resetting = false
	took := append(slices.Clone(b.folded.Facts), ipam.Fact{By: ipam.Owner{2}, Kind: ipam.FactTook, Count: b.ledger.Takeovers()[0].ID})
	self.ledger = ipam.NewLedger(ipam.Owner{2}, ipam.Owner{1}, pfx("10.0.0.0/24"), took)
	if err := r.heirLocked(); err != nil {
		t.Errorf("it has taken all: %v", err)
	}

	r.books.Store(nil)
	if !r.rests(peer.ID{9}) {
		t.Error("nothing is known, and a log goes")
	}
	r.books.Store(b)
	for id, want := range map[byte]bool{1: true, 2: true, 3: true, 5: true, 9: false} {
		if got := r.rests(peer.ID{id}); got != want {
			t.Errorf("host %d is needed: %v", id, got)
		}
	}
}

// What a look at the hosts has found does not change with the next look: it is used without the lock.
func TestEnvIsOfOneMoment(t *testing.T) {
	r, b := heirs5(t)
	r.mu.Lock()
	e := r.envLocked(b)
	r.lastAlive[peer.ID{5}] = time.Now()
	r.mu.Unlock()
	if !e.Dead(ipam.Owner{5}) || e.Dead(ipam.Owner{3}) {
		t.Error("who is dead follows the router")
	}
}

// Whoever asks between a takeover's decision and its execution waits for that, and not for ever.
func TestCarriedOutSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pending := heirs5(t, seen(1, 5)...)
		_, done := heirs5(t, append(seen(1, 5), ipam.Fact{By: ipam.Owner{2}, Kind: ipam.FactTook, Count: 3})...)
		first := pending.ledger.Takeovers()[0]
		if !pending.ledger.Pending(first) || done.ledger.Pending(first) {
			t.Fatal("the first is pending, or is not")
		}
		var now atomic.Pointer[books]
		now.Store(pending)
		wait := func() (*books, time.Duration) {
			start := time.Now()
			b := r.carriedOut(t.Context(), pending, first, func() (*books, error) { return now.Load(), nil })
			return b, time.Since(start)
		}
		if b, took := wait(); b != pending || took != settlePatience {
			t.Errorf("gave up after %v", took)
		}
		time.AfterFunc(time.Second, func() {
			now.Store(done)
			r.passes.wake()
		})
		if b, took := wait(); b != done || took != time.Second {
			t.Errorf("went on after %v", took)
		}
	})
}

// A host was taken over before, by one that has left since, and came back; why the second takeover waits has nothing to do with that.
func TestWhyTheSecondTakeoverWaits(t *testing.T) {
	o := func(i byte) ipam.Owner { return ipam.Owner{i} }
	v := ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{o(5), o(1)}}
	ballot := ipam.Ballot{Round: 1, By: o(1)}
	r, b := heirs5(t, append(seen(5, 3),
		ipam.Fact{By: o(2), Kind: ipam.FactTook, Count: 3}, ipam.Fact{By: o(3), Kind: ipam.FactTook, Count: 5},
	)...)
	facts := append(b.folded.Facts, ipam.Fact{By: o(1), Kind: ipam.FactVote, Vote: ipam.Vote{Instance: 3, Promised: ballot, Intent: v, Accepted: ballot, Value: v}})
	b.ledger = ipam.NewLedger(o(1), o(1), pfx("10.0.0.0/24"), facts)
	b.folded.Gone[peer.ID{2}] = true
	r.books.Store(b)
	h, _ := b.st.Host(peer.ID{5})
	if taken, _ := takenBefore(b, o(5)); taken.To != o(1) || !b.ledger.Pending(taken) {
		t.Fatal(b.ledger.Takeovers())
	}
	err := r.whyNotTaken(b, h, "host5", nil)
	if strings.Contains(err.Error(), "left the mesh") || !strings.Contains(err.Error(), "may have been given space") {
		t.Errorf("%v", err)
	}
}

// Enough of those that decide are in reach, but not all of them have missed the host for long enough: that is a matter of a minute, not of force.
func TestWhyAMajorityInReachIsNotEnough(t *testing.T) {
	r, b := heirs5(t)
	h, _ := b.st.Host(peer.ID{3})
	err := r.whyNotTaken(b, h, "host3", nil)
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Msg, "1 of the 1 hosts that own addresses have to take host3 for dead; so many are in reach") || strings.Contains(e.Tip, "force") || !strings.Contains(e.Tip, "try again in a minute") {
		t.Errorf("%v", err)
	}
	b.st.Hosts[0].Liveness, b.st.Hosts[0].Self = mesh.Failed, false // the only one that decides
	if err := r.whyNotTaken(b, h, "host3", nil); !errors.As(err, &e) || !strings.Contains(e.Msg, "1 of 1 are needed, and 0 are in reach (not: ") || !strings.Contains(e.Tip, "--force") {
		t.Errorf("%v", err)
	}
}

// Who is to take what its takeover by force has left over is not reset before it has; without it, that is nobody's, and said.
func TestLeftOver(t *testing.T) {
	r, b := heirs5(t)
	o, whole := func(i byte) ipam.Owner { return ipam.Owner{i} }, pfx("10.0.0.0/24")
	facts := []ipam.Fact{{By: o(1), Kind: ipam.FactGrant, Grant: ipam.Seed(whole, o(1))}}
	part := ipam.Grant{Prefix: pfx("10.0.0.128/25"), From: o(1), To: o(5), Version: 2}
	gift := ipam.Grant{Prefix: pfx("10.0.0.192/26"), From: o(5), To: o(2), Version: 3} // not accepted yet
	facts = append(facts, ipam.Fact{By: o(1), Kind: ipam.FactGrant, Grant: part}, ipam.Fact{By: o(5), Kind: ipam.FactAccept, Grant: part}, ipam.Fact{By: o(5), Kind: ipam.FactGrant, Grant: gift})
	fold := func() {
		b.folded.Facts = facts
		b.ledger = ipam.NewLedger(o(1), o(1), whole, facts)
		r.books.Store(b)
	}
	fold()
	facts = append(facts, b.ledger.Force(o(5)))
	for range 3 {
		fold()
		r.mu.Lock()
		e := r.envLocked(b)
		r.mu.Unlock()
		facts = append(facts, b.ledger.Next(e)...)
	}
	fold()
	if ps, taker := b.ledger.LeftOver(); len(ps) != 1 || ps[0] != gift.Prefix || taker != o(1) {
		t.Fatalf("left over is %v, for %v", ps, taker)
	}
	var e *Error
	if err := r.heirLocked(); !errors.As(err, &e) || !strings.Contains(e.Msg, "this host is to take what takeovers have left over (10.0.0.192/26)") || !strings.Contains(e.Tip, "weft reset --force") {
		t.Errorf("a reset: %v", err)
	}
	notices := func() string {
		return strings.Join(r.spaceNotices(&view{Ledger: b.ledger, Folded: b.folded, Ring: b.ledger.Ring()}, b.st), "\n")
	}
	if s := notices(); strings.Contains(s, "left over") {
		t.Errorf("notices %q", s)
	}
	b.st.Hosts[0].Liveness, b.st.Hosts[0].Self = mesh.Failed, false // as another host sees it
	if s := notices(); !strings.Contains(s, "host1), which was to take what takeovers have left over (10.0.0.192/26), is out of reach or has left") || !strings.Contains(s, "weft rmpeer "+peer.ID{1}.String()) {
		t.Errorf("notices %q", s)
	}
}
