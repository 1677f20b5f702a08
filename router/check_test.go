package router

import (
	"net/netip"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

func TestCheckEntry(t *testing.T) {
	s := mesh.NewSecret()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	r := &Router{o: Options{Domain: "weft.local"}, member: membership{Secret: s}}
	author := id.ID()
	name := func(n string) []byte {
		b, err := encodeName(opSet, nameKey{Name: n, Addr: netip.MustParseAddr("10.32.0.1"), Container: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	claim := func(p string) []byte { return encodeClaim(opSet, netip.MustParsePrefix(p)) }
	grant := func(from, to peer.ID) []byte {
		b, err := encodeGrant(ipam.Grant{Prefix: netip.MustParsePrefix("10.32.0.0/16"), From: ipam.Owner(from), To: ipam.Owner(to), Version: 2})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other := peer.ID{1}
	for _, c := range []struct {
		name    string
		kind    mesh.Kind
		payload []byte
		ok      bool
	}{
		{"a name", mesh.KindName, name("web.weft.local."), true},
		{"a name of another domain", mesh.KindName, name("www.example.org."), false},
		{"a wildcard", mesh.KindName, name("*.web.weft.local."), true},
		{"a name with a space", mesh.KindName, name("a b.weft.local."), false},
		{"a torn name", mesh.KindName, name("web.weft.local.")[:9], false},
		{"a name of a later version", mesh.KindName, []byte{99, 1, 2}, true},
		{"a claim", mesh.KindClaim, claim("192.0.2.9/24"), true},
		{"a claim of loopback", mesh.KindClaim, claim("127.0.0.1/8"), false},
		{"a claim of multicast", mesh.KindClaim, claim("224.0.0.1/4"), false},
		{"a grant", mesh.KindGrant, grant(author, other), true},
		{"a grant of what another owns", mesh.KindGrant, grant(other, author), false},
		{"a later release's kind", mesh.Kind(900), []byte("whatever"), true},
	} {
		if err := r.checkEntry(author, c.kind, c.payload); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
