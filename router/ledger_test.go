package router

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// said appends to r's log.
func (f *founder) said(r *Router, payload []byte, err error) {
	f.t.Helper()
	if err == nil {
		_, err = r.mesh.Append(mesh.Draft{Kind: mesh.KindGrant, Payload: payload})
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// taken has r know that another host took over from dead by force, and returns what r read then.
func (f *founder) taken(r *Router, dead ipam.Owner) *books {
	f.t.Helper()
	b, err := r.booksNow()
	if err != nil {
		f.t.Fatal(err)
	}
	by := newSigner(f.t, f.member.Secret)
	force := ipam.Fact{By: ipam.Owner(by.id.ID()), Kind: ipam.FactForce, Vote: ipam.Vote{Instance: b.ledger.Instance(),
		Value: ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{dead, ipam.Owner(by.id.ID())}}}}
	p, err := encodeFact(force)
	if err != nil {
		f.t.Fatal(err)
	}
	f.said(r, encodeKept(by.id.Public(), by.entry(f.t, mesh.KindGrant, p)), nil)
	if b, err = r.booksNow(); err != nil || len(b.ledger.Takeovers()) != 1 {
		f.t.Fatalf("takeovers %v, %v", b.ledger.Takeovers(), err)
	}
	return b
}

// seenBy counts how often r has said that it knows of a takeover.
func (f *founder) seenBy(r *Router) (n int) {
	f.t.Helper()
	b, err := r.booksNow()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, fact := range b.folded.Facts {
		if fact.By == ipam.Owner(f.id.ID()) && fact.Kind == ipam.FactSeen {
			n++
		}
	}
	return n
}

// A newcomer hears of a takeover with the first logs, when it has no allocator yet.
func TestNewcomerHearsOfATakeover(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	f.seeded(r)
	f.taken(r, ipam.Owner(f.id.ID()))
	r.alloc = nil // until adoptFounding has run
	for _, err := range r.deliberate() {
		t.Error(err)
	}
	if n := f.seenBy(r); n != 1 {
		t.Errorf("it says %d times that it knows", n)
	}
	r.restoreAllocations(f.member.Founding)
	if as, _, err := r.tryAllocate("c", netip.Prefix{}); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("before it has looked at the ring, it gives out %v (%v)", as, err)
	}
}

// What a host gives to another while it speaks about the ring is not its own afterwards.
func TestNoOlderRingAfterASpeech(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.began = time.Now().Add(-2 * deadAfter)
	f.seeded(r)
	dead := newSigner(t, f.member.Secret)
	p, err := encodeGrant(ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: ipam.Owner(f.id.ID()), To: ipam.Owner(dead.id.ID()), Version: 2})
	f.said(r, p, err)
	b := f.taken(r, ipam.Owner(dead.id.ID()))
	r.mu.Lock()
	e := r.envLocked(b)
	r.mu.Unlock()
	answer, err := r.give(peer.ID{9}, wholeRange)
	if err != nil {
		t.Fatal(err)
	}
	given, err := parseGift(answer)
	if err != nil || len(given.Grants) != 1 {
		t.Fatalf("%d grants, %v", len(given.Grants), err)
	}
	for _, err := range r.speak(b, e) {
		t.Error(err)
	}
	if n := f.seenBy(r); n != 1 {
		t.Fatalf("it says %d times that it knows of the takeover", n)
	}
	g, err := parseGrant(f.id.ID(), given.Grants[0].Payload, f.member.Secret.MeshID())
	if err != nil {
		t.Fatal(err)
	}
	if as, _, err := r.tryAllocate("c", g.Prefix); !errors.Is(err, ipam.ErrNoSpace) {
		t.Errorf("%v was given to another host, and %v is given out here (%v)", g.Prefix, as, err)
	}
}

// watchedStore shows what goes into the log before it is on disk.
type watchedStore struct {
	mesh.Store
	look func(raw []byte)
}

func (s watchedStore) Apply(bucket string, put map[string][]byte, del []string) error {
	if bucket == "log" {
		for _, raw := range put {
			s.look(raw)
		}
	}
	return s.Store.Apply(bucket, put, del)
}

// A host that was taken over gives out nothing of what it had from before it says that it knows.
func TestSeenAfterTheSpaceIsGone(t *testing.T) {
	f := newFounder(t)
	look := func([]byte) {}
	f.store = func(s mesh.Store) mesh.Store { return watchedStore{s, func(raw []byte) { look(raw) }} }
	r := f.start()
	f.seeded(r)
	if _, _, err := r.tryAllocate("c", netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	f.taken(r, ipam.Owner(f.id.ID()))
	looked := 0
	look = func(raw []byte) {
		e, err := mesh.ParseEntry(raw)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseFact(f.id.ID(), e, f.member.Secret.MeshID())
		if err != nil || s.Fact.Kind != ipam.FactSeen {
			return
		}
		looked++
		if as, _, err := r.tryAllocate("d", netip.Prefix{}); err == nil {
			t.Errorf("it gives out %v while it says that it knows of its takeover", as)
		}
	}
	for _, err := range r.deliberate() {
		t.Error(err)
	}
	if looked != 1 {
		t.Errorf("it says %d times that it knows", looked)
	}
}
