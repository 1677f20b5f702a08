package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// newPair is a founder, which owns the range, and a host that has joined it and owns nothing: two
// routers on a simulated network that pass nothing on to their machines. It is for bubbles.
func newPair(t *testing.T) (first, second *Router) {
	t.Helper()
	net := simnet.New(1)
	f, other := newFounder(t), newFounder(t)
	first = f.lives(net, netip.MustParseAddr("192.168.1.1"))
	other.member = membership{Secret: f.member.Secret}
	second = other.lives(net, netip.MustParseAddr("192.168.1.2"))
	p, err := encodeGrant(ipam.Seed(wholeRange, ipam.Owner(f.id.ID())))
	f.said(first, p, err)
	if err := second.mesh.Connect([]string{"192.168.1.1:6783"}, false); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Second)
	second.restoreAllocations(second.mesh.State().Founding)
	for _, x := range []*Router{first, second} {
		x.stopped = true
		x.mu.Lock()
		x.unproven = false
		x.alloc.Suspend(false)
		x.mu.Unlock()
		x.looks(t)
		x.asks.order, x.asks.may = x.donors, x.mayAsk
		x.asks.call = func(ctx context.Context, id peer.ID, w want) (bool, error) {
			got, err := x.askOne(ctx, id, w)
			x.looks(t)
			return got, err
		}
	}
	return first, second
}

// looks is what a pass does for the allocator.
func (r *Router) looks(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.spaceNowLocked(); err != nil {
		t.Error(err)
	}
}

// give1 is one address of the first host's that the second is given.
func give1(t *testing.T, first, second *Router, addr string) gift {
	t.Helper()
	answer, err := first.give(second.id.ID(), pfx(addr+"/32"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := parseGift(answer)
	if err != nil || len(g.Grants) != 1 {
		t.Fatal(g, err)
	}
	return g
}

func claim(ctx context.Context, r *Router, addr string) error {
	_, _, err := r.obtain(ctx, "c", ipam.AddrArg{Kind: ipam.ArgIP, Prefix: pfx(addr)})
	return err
}

// A free address of the range may be claimed on any host, also on one that allocates nothing, and comes back when it is free.
func TestClaimsMove(t *testing.T) {
	for _, noIPAM := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			first, second := newPair(t)
			second.o.NoIPAM = noIPAM
			if err := claim(t.Context(), second, "10.32.0.9/12"); err != nil {
				t.Fatal(describe(err))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := claim(ctx, first, "10.32.0.9/12"); err == nil || !strings.Contains(err.Error(), "does not give it") {
				t.Errorf("while it is in use: %v", err)
			}
			second.free("c", netip.MustParseAddr("10.32.0.9"))
			if err := claim(ctx, first, "10.32.0.9/12"); err == nil || !strings.Contains(err.Error(), "does not give it") {
				t.Errorf("while it is held: %v", err)
			}
			time.Sleep(ipam.Hold)
			second.mu.Lock()
			second.alloc.Expire(time.Now())
			second.mu.Unlock()
			if err := claim(ctx, first, "10.32.0.9/12"); err != nil {
				t.Error(describe(err))
			}
		})
	}
}

// The answer to who has asked is lost: what it was given is in the log.
func TestGiftsAreNotLost(t *testing.T) {
	for _, noIPAM := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			first, second := newPair(t)
			second.o.NoIPAM = noIPAM
			give1(t, first, second, "10.32.0.9")
			for range 30 {
				time.Sleep(time.Second)
				for _, err := range second.deliberate() {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			second.looks(t)
			if err := claim(t.Context(), second, "10.32.0.9/12"); err != nil {
				t.Errorf("a router without a range %v: %s", noIPAM, describe(err))
			}
		})
	}
}

// Space that was not asked for is not taken.
func TestGiftsAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newPair(t)
		g := give1(t, first, second, "10.32.0.77")
		g.In = pfx("10.33.0.0/16")
		if err := second.carry(t.Context(), first.id.ID(), g, peer.ID{}); err == nil || !strings.Contains(err.Error(), "asked for space in 10.33.0.0/16") {
			t.Errorf("it is taken: %v", err)
		}
		g.In = pfx("10.32.0.0/16")
		if err := second.carry(t.Context(), first.id.ID(), g, peer.ID{}); err != nil {
			t.Error(err)
		}
	})
}

// A gift often comes by the giver's log before the answer of the call: it is one all the same.
func TestGiftsThatComeByTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, second := newPair(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for ctx.Err() == nil {
				second.applyMu.Lock()
				second.deliberate()
				second.applyMu.Unlock()
				second.looks(t)
				time.Sleep(time.Millisecond)
			}
		}()
		a := netip.MustParseAddr("10.32.0.9")
		for range 50 {
			if err := claim(t.Context(), second, a.String()+"/12"); err != nil {
				t.Error(describe(err))
			}
			a = a.Next().Next()
			time.Sleep(time.Second)
		}
		for i := range 8 { // each host that is asked gives, so that one is enough
			before := len(second.owns(t))
			got, err := second.askOne(t.Context(), second.mesh.State().Founding.Founder, want{subnet: pfx("10.33.0.0/16")})
			if err != nil || got != (len(second.owns(t)) > before) {
				t.Errorf("%d: got %v (%v), and has %v", i, got, err, second.owns(t))
			}
			time.Sleep(time.Second)
		}
	})
}

func (r *Router) owns(t *testing.T) []netip.Prefix {
	t.Helper()
	ring, err := r.ringNow()
	if err != nil {
		t.Fatal(err)
	}
	return ring.Owned(ipam.Owner(r.id.ID()))
}

// While others here ask, a claim waits for its turn, and is refused only when the owner was asked.
func TestClaimsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		asked := 0
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(context.Context, peer.ID, want) (bool, error) { asked++; return false, nil }
		unlock, err := r.asks.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done := call(func() error { return claim(t.Context(), r, "10.32.0.11/12") })
		for range 10 {
			time.Sleep(3 * time.Second)
			r.asks.given.Add(1)
		}
		if ended, err := done(); ended || r.waiting() != 1 {
			t.Errorf("ended %v: %v; %d are counted as waiting", ended, err, r.waiting())
		}
		unlock()
		time.Sleep(2 * askEvery)
		if ended, err := done(); !ended || err == nil || asked != 1 {
			t.Errorf("ended %v: %v; the owner was asked %d times", ended, err, asked)
		}
	})
}

// An owner that gives and gives, and nothing comes of it, keeps nobody busy, and nobody waits for it without end.
func TestGiftsOfNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		calls := 0
		r.asks.order = func(want) ([]peer.ID, error) { return []peer.ID{{9}}, nil }
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(context.Context, peer.ID, want) (bool, error) { calls++; return true, nil }
		start := time.Now()
		if err := claim(t.Context(), r, "10.32.0.11/12"); err == nil || !strings.Contains(err.Error(), "does not give it") || time.Since(start) > 2*ownerPatience {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if calls > 20 {
			t.Errorf("it was asked %d times for the claim", calls)
		}
		calls = 0
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		done := call(func() error { _, _, err := r.obtain(ctx, "d", ipam.AddrArg{}); return err })
		time.Sleep(5 * time.Second)
		if ended, err := done(); ended || r.waiting() != 1 {
			t.Errorf("ended %v: %v; %d are counted as waiting", ended, err, r.waiting())
		}
		time.Sleep(6 * time.Second)
		if ended, err := done(); !ended || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended %v: %v", ended, err)
		}
		if calls > 11*maxGifts {
			t.Errorf("it was asked %d times in 10 s", calls)
		}
	})
}

// Whoever ends a claim that asks the owner is told why it ended.
func TestClaimEndsWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(ctx context.Context, _ peer.ID, _ want) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}
		cause := errors.New("the container has stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := call(func() error { return claim(ctx, r, "10.32.0.11/12") })
		if ended, err := done(); ended {
			t.Fatal(err)
		}
		cancel(cause)
		if ended, err := done(); !ended || !errors.Is(err, cause) {
			t.Errorf("ended %v: %v", ended, err)
		}
	})
}

// Patience with an owner begins when there is one to ask.
func TestPatienceBeginsWithTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		r.mu.Lock()
		r.alloc.Suspend(true)
		r.mu.Unlock()
		r.asks.may = func(peer.ID) (bool, error) { return false, nil }
		done := call(func() error { return claim(t.Context(), r, "10.32.0.11/12") })
		time.Sleep(2 * ownerPatience)
		r.mu.Lock()
		r.alloc.Suspend(false)
		r.mu.Unlock()
		r.passes.wake()
		if ended, err := done(); ended {
			t.Errorf("a moment after this host's state was proven: %v", err)
		}
		time.Sleep(ownerPatience + askEvery)
		if ended, err := done(); !ended || err == nil || !strings.Contains(err.Error(), "out of reach") {
			t.Errorf("ended %v: %v", ended, err)
		}
	})
}

// Addresses that were claimed are no part of the ring: a host whose first address is such a one gets its part all the same.
func TestClaimBeforeThePart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, second := newPair(t)
		for _, addr := range []string{"10.32.0.8/12", "10.32.0.9/12"} { // neighbours
			if err := claim(t.Context(), second, addr); err != nil {
				t.Fatal(describe(err))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = second.gatherSpace(ctx)
		if owns := second.owns(t); len(owns) < 2 {
			t.Errorf("it has %v", owns)
		}
	})
}

// keeps gives all of the range to others but for one part of it, which first keeps.
func keeps(t *testing.T, first *Router, part netip.Prefix) {
	t.Helper()
	f := &founder{t: t, id: first.id, member: first.member}
	for p := wholeRange; p.Bits() < part.Bits(); {
		low, high := netip.PrefixFrom(p.Addr(), p.Bits()+1), p.Addr().As4()
		high[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
		rest := netip.PrefixFrom(netip.AddrFrom4(high), p.Bits()+1)
		if p = low; !low.Contains(part.Addr()) {
			p, rest = rest, low
		}
		f.gives(first, peer.ID{1}, rest.String())
	}
	time.Sleep(10 * time.Second)
	first.looks(t)
}

// gather lets hosts ask for space for a while, and says how many entries about the ring that made.
func gather(t *testing.T, d time.Duration, rs ...*Router) (said int) {
	t.Helper()
	for _, r := range rs {
		said -= saidOfRing(r.mesh.State())
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for _, r := range rs {
		go func() { _ = r.gatherSpace(ctx) }()
	}
	<-ctx.Done()
	time.Sleep(10 * time.Second)
	for _, r := range rs {
		said += saidOfRing(r.mesh.State())
	}
	return said
}

// Two hosts without space but for one address that no container which waits can have do not pass it to each other.
func TestTheLastAddressStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newPair(t)
		keeps(t, first, pfx("10.45.0.0/32")) // nobody can have the first of 10.45.0.0/24
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, x := range []*Router{first, second} {
			go func() { _, _, _ = x.obtain(ctx, "waits", ipam.AddrArg{Kind: ipam.ArgNet, Prefix: pfx("10.45.0.0/24")}) }()
		}
		if n := gather(t, time.Minute, first, second); n > 4 {
			t.Errorf("%d entries in a minute", n)
		}
	})
}

// Nor do two hosts whose addresses are all in use but for one.
func TestFullHostsKeepWhatIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newPair(t)
		keeps(t, first, pfx("10.45.0.16/28"))
		if got, err := second.askOne(t.Context(), first.id.ID(), want{subnet: wholeRange}); err != nil || !got {
			t.Fatal(got, err)
		}
		second.looks(t)
		time.Sleep(5 * time.Second)
		first.looks(t)
		free := 1
		for _, r := range []*Router{first, second} {
			for _, p := range r.owns(t) {
				for a := p.Addr(); p.Contains(a); a = a.Next() {
					if free--; free < 0 {
						if err := claim(t.Context(), r, a.String()+"/12"); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		if first.isFull() || !second.isFull() {
			t.Errorf("full: %v, %v", first.isFull(), second.isFull())
		}
		if n := gather(t, 10*time.Minute, first, second); n > 4 {
			t.Errorf("%d entries in ten minutes", n)
		}
	})
}

// While containers wait for what nobody has, and all hosts are asked for it again and again, a claim has its turn.
func TestClaimsAreNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		r.asks.order = func(want) (ids []peer.ID, _ error) {
			for i := range byte(30) {
				ids = append(ids, peer.ID{10 + i})
			}
			return ids, nil
		}
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(ctx context.Context, _ peer.ID, _ want) (bool, error) {
			time.Sleep(300 * time.Millisecond)
			return false, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, subnet := range []string{"10.33.0.0/24", "10.33.1.0/24", "10.33.2.0/24"} {
			go func() { _, _, _ = r.obtain(ctx, subnet, ipam.AddrArg{Kind: ipam.ArgNet, Prefix: pfx(subnet)}) }()
		}
		time.Sleep(5 * time.Second)
		start := time.Now()
		if err := claim(ctx, r, "10.32.0.11/12"); err == nil || !strings.Contains(err.Error(), "does not give it") || time.Since(start) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		cancel()
		time.Sleep(time.Second) // the call that is under way
	})
}

// Nor while more wait than are asked in ten seconds, of hosts that answer slowly.
func TestClaimsWaitBehindSlowHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		r.asks.order = func(want) ([]peer.ID, error) { return []peer.ID{{10}}, nil }
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(ctx context.Context, id peer.ID, _ want) (bool, error) {
			if id == (peer.ID{10}) {
				time.Sleep(askPatience - 100*time.Millisecond)
			}
			return false, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, subnet := range []string{"10.33.0.0/24", "10.33.1.0/24", "10.33.2.0/24", "10.33.3.0/24", "10.33.4.0/24"} {
			go func() { _, _, _ = r.obtain(ctx, subnet, ipam.AddrArg{Kind: ipam.ArgNet, Prefix: pfx(subnet)}) }()
			time.Sleep(100 * time.Millisecond)
		}
		start := time.Now()
		if err := claim(ctx, r, "10.32.0.11/12"); err == nil || !strings.Contains(err.Error(), "does not give it") || time.Since(start) > time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		cancel()
		time.Sleep(time.Minute) // the calls that are under way
	})
}

// A host that owns what it may not use, since it was taken over, asks all for a part.
func TestDonorsOfWhoWasTakenOver(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	f.seeded(r)
	f.gives(r, peer.ID{1}, "10.47.0.0/16")
	idle := want{subnet: wholeRange}
	if ids, err := r.donors(idle); err != nil || len(ids) != 0 {
		t.Errorf("who has far more than others asks %v (%v)", ids, err)
	}
	self := ipam.Owner(r.id.ID())
	b, err := r.booksNow()
	if err != nil {
		t.Fatal(err)
	}
	facts := append(slices.Clone(b.folded.Facts), ipam.Fact{By: ipam.Owner{1}, Kind: ipam.FactForce,
		Vote: ipam.Vote{Instance: 1, Value: ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{self, {1}}}}})
	void := *b
	void.ledger = ipam.NewLedger(self, self, wholeRange, facts)
	r.books.Store(&void)
	if len(void.ledger.Usable()) > 0 || len(void.ledger.Ring().Owned(self)) == 0 {
		t.Fatalf("it may use %v and owns %v", void.ledger.Usable(), void.ledger.Ring().Owned(self))
	}
	if ids, err := r.donors(idle); err != nil || !slices.Equal(ids, []peer.ID{{1}}) {
		t.Errorf("who may use nothing asks %v (%v)", ids, err)
	}
}

// A turn that comes late leaves the owner time to answer; and whom the address belongs to meanwhile is asked, too.
func TestClaimsOfWhatChangesHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := joined(t)
		share(r, peer.ID{9})
		asked := ""
		r.asks.may = func(peer.ID) (bool, error) { return true, nil }
		r.asks.call = func(ctx context.Context, id peer.ID, _ want) (bool, error) {
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-time.After(askPatience / 2):
			}
			asked += string('0' + id[0])
			share(r, peer.ID{8})
			return false, nil
		}
		end, err := r.asks.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done := call(func() error { return claim(t.Context(), r, "10.32.0.11/12") })
		time.Sleep(roundPatience - time.Millisecond)
		end()
		time.Sleep(3 * askPatience)
		if ended, err := done(); !ended || err == nil || !strings.Contains(err.Error(), peer.ID{8}.String()) || asked != "98" {
			t.Errorf("ended %v: %v; asked %s", ended, err, asked)
		}
	})
}

// A member that asks again and again for a takeover that nobody agrees to does not keep another's waiting.
func TestRenewedWishesWaitTheirTurn(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.taking, r.began = map[peer.ID]wish{}, time.Now().Add(-2*deadAfter)
	st := r.mesh.State()
	for _, id := range []peer.ID{{1}, {2}} {
		st.Hosts = append(st.Hosts, mesh.Host{ID: id, Liveness: mesh.Failed})
	}
	sortHosts(st.Hosts)
	self := ipam.Owner(r.id.ID())
	facts := []ipam.Fact{{By: self, Kind: ipam.FactGrant, Grant: ipam.Seed(wholeRange, self)}}
	b := &books{st: st, folded: folded{Gone: map[peer.ID]bool{}, Facts: facts}}
	b.ledger = ipam.NewLedger(self, self, wholeRange, facts)
	r.books.Store(b)
	ask := func(asker, dead byte) {
		d := peer.ID{dead}
		if err := r.proposeFor(peer.ID{asker}, d[:]); err != nil {
			t.Fatal(err)
		}
	}
	got := ""
	ask(90, 2)
	for range 8 {
		ask(91, 1)
		r.mu.Lock()
		v := r.wishLocked(b, func(ipam.Owner) bool { return true })
		r.triedLocked(v)
		r.nextBallot = time.Time{}
		r.mu.Unlock()
		got += string('0' + v.Hosts[0][0])
	}
	if strings.Count(got, "2") != 4 {
		t.Errorf("ballots are for %s", got)
	}
}
