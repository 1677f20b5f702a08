package router

import (
	"net/netip"
	"slices"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// A host that was taken over by force had given space here; its taker had not heard of that, and has it now. What is cut off is named.
func TestStrayWithoutBeingTakenOver(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.taking = map[peer.ID]wish{}
	f.seeded(r)
	self := ipam.Owner(f.id.ID())
	dead, by := newSigner(t, f.member.Secret), newSigner(t, f.member.Secret)
	d, to := ipam.Owner(dead.id.ID()), ipam.Owner(by.id.ID())
	p, err := encodeGrant(ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: self, To: d, Version: 2})
	f.said(r, p, err)
	f.said(r, encodeCarried(dead.id.Public(), dead.grant(t, ipam.Grant{Prefix: pfx("10.44.0.0/14"), From: d, To: self, Version: 3})), nil)
	r.mu.Lock()
	b, err := r.spaceNowLocked()
	r.mu.Unlock()
	if err != nil || !slices.Contains(b.ledger.Usable(), pfx("10.44.0.0/14")) {
		t.Fatalf("%v %v", b.ledger.Usable(), err)
	}
	if _, _, err := r.tryClaim("c", pfx("10.44.0.9/12")); err != nil {
		t.Fatal(err)
	}
	r.attached = map[string]*attachment{"c": {Key: "c", Name: "web", Addrs: []netip.Prefix{pfx("10.44.0.9/12")}}}
	force := ipam.Fact{By: to, Kind: ipam.FactForce, Vote: ipam.Vote{Instance: b.ledger.Instance(), Value: ipam.Value{Op: ipam.OpTake, Hosts: []ipam.Owner{d, to}}}}
	p, err = encodeFact(force)
	f.said(r, encodeKept(by.id.Public(), by.entry(t, mesh.KindGrant, p)), err)
	b, _ = r.booksNow()
	ts := b.ledger.Takeovers()
	if len(ts) != 1 {
		t.Fatal(ts)
	}
	p, err = encodeFact(ipam.Fact{By: to, Kind: ipam.FactAccept, Grant: ipam.Grant{Prefix: pfx("10.40.0.0/13"), From: d, To: to, Version: ts[0].ID << 13}}) // see ipam.Takeover.Brings
	if err != nil {
		t.Fatal(err)
	}
	f.said(r, encodeKept(by.id.Public(), by.entry(t, mesh.KindGrant, p)), nil)
	r.mu.Lock()
	b, _ = r.spaceNowLocked()
	stray := r.alloc.Stray()
	r.mu.Unlock()
	if len(stray) != 1 {
		t.Fatal("nothing is cut off")
	}
	v := &view{Ledger: b.ledger, Folded: b.folded, Ring: b.ledger.Ring(), Stray: stray}
	notices := r.spaceNotices(v, b.st)
	if want := "web is out of reach: its address 10.44.0.9 is " + r.show(b.st, to) + "'s; detach and attach it again"; !slices.Contains(notices, want) {
		t.Errorf("%q is not in %q", want, notices)
	}
}
