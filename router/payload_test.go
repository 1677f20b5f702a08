package router

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// host is an identity that signs entries, as another host's router does.
type signer struct {
	id   *peer.Identity
	mesh mesh.MeshID
	seq  uint64
}

func newSigner(t testing.TB, s mesh.Secret) *signer {
	t.Helper()
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return &signer{id: id, mesh: s.MeshID(), seq: 1}
}

func (s *signer) entry(t testing.TB, kind mesh.Kind, payload []byte) mesh.Entry {
	t.Helper()
	s.seq++
	return s.entryAt(t, 1, s.seq, kind, payload)
}

func (s *signer) entryAt(t testing.TB, epoch, seq uint64, kind mesh.Kind, payload []byte) mesh.Entry {
	t.Helper()
	e, err := mesh.SignEntry(s.id, s.mesh, mesh.Entry{Author: s.id.ID(), Epoch: epoch, Seq: seq, Kind: kind, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (s *signer) grant(t testing.TB, g ipam.Grant) mesh.Entry {
	t.Helper()
	b, err := encodeGrant(g)
	if err != nil {
		t.Fatal(err)
	}
	return s.entry(t, mesh.KindGrant, b)
}

func TestNameRoundTrip(t *testing.T) {
	for _, k := range []nameKey{
		{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1"), Container: "eebd81120ee4"},
		{Name: "x.", Addr: netip.MustParseAddr("fd00::1")},
		{Name: "web.weft.local.", Container: "eebd81120ee4", Type: typeSRV, Port: 8080, Data: "web.weft.local."},
		{Name: "web.weft.local.", Container: "eebd81120ee4", Type: typeTXT, Data: "version=1"},
		{Name: "www.weft.local.", Type: typeCNAME, Data: "web.weft.local."},
		{Container: "eebd81120ee4", Type: typeUnhealthy},
		{Name: strings.Repeat("a", 255), Container: strings.Repeat("c", 255), Type: typeTXT, Data: strings.Repeat("d", 255)},
		{Name: strings.Repeat("a", 255), Addr: netip.MustParseAddr("10.0.0.0"), Container: strings.Repeat("c", 255)},
	} {
		b, err := encodeName(opSet, k)
		if err != nil {
			t.Fatal(err)
		}
		o, got, err := parseName(b)
		if err != nil || o != opSet || got != k {
			t.Errorf("%v came back as %v %v %v", k, o, got, err)
		}
	}
	if _, err := encodeName(opSet, nameKey{Name: strings.Repeat("a", 256), Addr: netip.MustParseAddr("10.0.0.1")}); err == nil {
		t.Error("a name too long to encode was encoded")
	}
	if _, _, err := parseName([]byte{2, 1, 0, 99}); !errors.Is(err, errNewer) {
		t.Errorf("a type from the future: %v", err)
	}
	if _, _, err := parseName([]byte{3, 1, 4}); !errors.Is(err, errNewer) {
		t.Errorf("a newer version gives %v", err)
	}
}

func TestGrantsAreTakenFromTheirGiverOnly(t *testing.T) {
	s := mesh.NewSecret()
	a, b, c := newSigner(t, s), newSigner(t, s), newSigner(t, s)
	A, B, C := ipam.Owner(a.id.ID()), ipam.Owner(b.id.ID()), ipam.Owner(c.id.ID())
	half := netip.MustParsePrefix("10.40.0.0/13")
	ab := ipam.Grant{Prefix: half, From: A, To: B, Version: 2}
	good := a.grant(t, ab)
	carried := func(key []byte, e mesh.Entry) []byte { return encodeCarried(key, e) }

	forged := b.grant(t, ab) // B says that A gave
	cases := []struct {
		what    string
		author  peer.ID
		payload []byte
		ok      bool
	}{
		{"the giver's own", a.id.ID(), good.Payload, true},
		{"the taker's proof", b.id.ID(), carried(a.id.Public(), good), true},
		{"a grant in another's name", b.id.ID(), forged.Payload, false},
		{"a proof that the taker signed", b.id.ID(), carried(b.id.Public(), forged), false},
		{"a proof with the wrong key", b.id.ID(), carried(c.id.Public(), good), false},
		{"another's proof", c.id.ID(), carried(a.id.Public(), good), false},
		{"a proof in a proof", b.id.ID(), carried(b.id.Public(), b.entry(t, mesh.KindGrant, carried(a.id.Public(), good))), false},
		{"a seed to oneself", c.id.ID(), c.grant(t, ipam.Seed(netip.MustParsePrefix("10.32.0.0/12"), C)).Payload, true},
		{"a seed to another", c.id.ID(), c.grant(t, ipam.Seed(netip.MustParsePrefix("10.32.0.0/12"), A)).Payload, false},
		{"nothing", a.id.ID(), nil, false},
	}
	for _, tc := range cases {
		if _, err := parseGrant(tc.author, tc.payload, s.MeshID()); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	if _, err := parseGrant(b.id.ID(), carried(a.id.Public(), good), mesh.NewSecret().MeshID()); err == nil {
		t.Error("a proof of another mesh was taken")
	}
}

// Only the founder's seed counts: a member that seeds the ring for itself owns
// nothing.
func TestFoldTakesOnlyTheFoundersSeed(t *testing.T) {
	s := mesh.NewSecret()
	founder, liar := newSigner(t, s), newSigner(t, s)
	whole := netip.MustParsePrefix("10.32.0.0/12")
	st := &mesh.State{Self: founder.id.ID(), Founding: mesh.Founding{Founder: founder.id.ID(), Nonce: 7, Range: whole, Subnet: whole},
		Logs: map[peer.ID][]mesh.Entry{
			founder.id.ID(): {founder.grant(t, ipam.Seed(whole, ipam.Owner(founder.id.ID())))},
			liar.id.ID():    {liar.grant(t, ipam.Seed(whole, ipam.Owner(liar.id.ID())))},
		}}
	cache := new(grantCache)
	for range 2 { // the second time from the cache
		f := fold(st, s.MeshID(), cache)
		l := ipam.NewLedger(ipam.Owner(liar.id.ID()), ipam.Owner(founder.id.ID()), whole, f.Facts)
		if got := l.Ring().Owned(ipam.Owner(founder.id.ID())); len(got) != 1 || got[0] != whole || len(l.Conflicts()) > 0 {
			t.Errorf("the founder owns %v, conflicts %v", got, l.Conflicts())
		}
		if f.Bad != 1 {
			t.Errorf("%d bad entries, want the liar's seed", f.Bad)
		}
	}
	delete(st.Logs, liar.id.ID())
	fold(st, s.MeshID(), cache)
	if len(cache.m) != 1 {
		t.Errorf("the cache keeps %d grants of 1", len(cache.m))
	}
}

func TestFoldNamesClaimsAndDeparture(t *testing.T) {
	s := mesh.NewSecret()
	a, b := newSigner(t, s), newSigner(t, s)
	name := func(o op, n string) []byte {
		p, err := encodeName(o, nameKey{Name: n, Addr: netip.MustParseAddr("10.32.0.1"), Container: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	claim := netip.MustParsePrefix("172.30.5.1/24")
	st := &mesh.State{Self: a.id.ID(), Logs: map[peer.ID][]mesh.Entry{
		a.id.ID(): {a.entry(t, mesh.KindName, name(opSet, "x.weft.local.")), a.entry(t, mesh.KindName, name(opSet, "y.weft.local.")),
			a.entry(t, mesh.KindName, name(opDel, "x.weft.local.")), a.entry(t, 4711, []byte("from the future")), a.entry(t, mesh.KindName, []byte{9, 9}),
			a.entry(t, mesh.KindName, []byte{1})},
		b.id.ID(): {b.entry(t, mesh.KindClaim, encodeClaim(opSet, claim))},
	}}
	z := newZone("weft.local.", true)
	z.sync(stateIs(st), func(mesh.Host) bool { return false })
	if got := z.all(); len(got) != 1 || got[0].Name != "y.weft.local." || z.bad.Load() != 1 {
		t.Errorf("names %v, bad %d", got, z.bad.Load())
	}
	y, w := z.all()[0].nameKey, nameKey{Name: "w.weft.local.", Addr: netip.MustParseAddr("10.32.0.9")}
	if gone, come := z.differs(st.Self, map[nameKey]bool{y: true}); len(gone)+len(come) > 0 {
		t.Errorf("what is the same differs: %v %v", gone, come)
	}
	if gone, come := z.differs(st.Self, map[nameKey]bool{w: true}); !slices.Equal(gone, []nameKey{y}) || !slices.Equal(come, []nameKey{w}) {
		t.Errorf("withdrawn %v, announced %v", gone, come)
	}
	f := fold(st, s.MeshID(), new(grantCache))
	if len(f.Claims) != 1 || f.Claims[0].Addr != claim || f.Claims[0].Host != b.id.ID() {
		t.Errorf("claims %v", f.Claims)
	}
	st.Logs[b.id.ID()] = append(st.Logs[b.id.ID()], b.entry(t, mesh.KindDepart, nil))
	if f = fold(st, s.MeshID(), new(grantCache)); len(f.Claims) != 0 || !f.Gone[b.id.ID()] {
		t.Errorf("a departed host still claims %v", f.Claims)
	}
}

// What is announced follows what is wanted, with no entry for what stays.
func TestDraftsTurnAnnouncedIntoWanted(t *testing.T) {
	addr := func(name, addr, container string) nameKey {
		return nameKey{Name: name, Addr: netip.MustParseAddr(addr), Container: container}
	}
	srv := func(name, target, container string) nameKey {
		return nameKey{Name: name, Type: typeSRV, Port: 80, Data: target, Container: container}
	}
	sick := nameKey{Container: "one", Type: typeUnhealthy}
	for _, c := range []struct {
		what                 string
		withdrawn, announced []nameKey
		want                 string
	}{
		{"one goes, another comes", []nameKey{addr("a.", "10.32.0.1", "one")}, []nameKey{addr("c.", "10.32.0.2", "two")}, "-a. +c."},
		{"a name moves", []nameKey{addr("a.", "10.32.0.1", "one"), srv("a.", "one.a.", "one")}, []nameKey{addr("a.", "10.32.0.2", "two"), srv("a.", "two.a.", "two")}, "+a.SRV +a. -a.SRV -a."},
		{"a name becomes an alias", []nameKey{addr("a.", "10.32.0.1", "one")}, []nameKey{{Name: "a.", Type: typeCNAME, Data: "c."}}, "+a. -a."},
		{"its services do not", []nameKey{addr("a.", "10.32.0.1", "one"), srv("a.", "one.a.", "one")}, []nameKey{addr("a.", "10.32.0.2", "two")}, "-a.SRV +a. -a."},
		{"an address moves", []nameKey{addr("a.", "10.32.0.1", "one")}, []nameKey{addr("c.", "10.32.0.1", "two")}, "-a. +c."},
		{"both move, apart", []nameKey{addr("a.", "10.32.0.1", "one")}, []nameKey{addr("a.", "10.32.0.2", "two"), addr("c.", "10.32.0.1", "three")}, "-a. +a. +c."},
		{"a container gets another address", []nameKey{addr("a.", "10.32.0.1", "one")}, []nameKey{addr("a.", "10.32.0.2", "one"), addr("c.", "10.32.0.1", "one")}, "+a. +c. -a."},
		{"it is well", []nameKey{sick}, nil, "-"},
		{"it is sick from the start", nil, []nameKey{addr("a.", "10.32.0.1", "one"), sick}, "+ +a."},
		{"it is sick, and goes", []nameKey{addr("a.", "10.32.0.1", "one"), sick}, nil, "-a. -"},
		{"it is sick, and another takes its name", []nameKey{addr("a.", "10.32.0.1", "one"), sick}, []nameKey{addr("a.", "10.32.0.2", "two")}, "+a. -a. -"},
		{"another is sick that takes its address", []nameKey{addr("a.", "10.32.0.1", "two")}, []nameKey{addr("c.", "10.32.0.1", "one"), sick}, "+ -a. +c."},
	} {
		ds, err := nameDrafts(c.withdrawn, c.announced)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range ds {
			o, k, err := parseName(d.Payload)
			s := map[op]string{opSet: "+", opDel: "-"}[o] + k.Name
			if k.Type == typeSRV {
				s += "SRV"
			}
			got = append(got, s)
			if err != nil {
				t.Error(err)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.what, got, c.want)
		}
	}
}

func FuzzParseName(f *testing.F) {
	b, _ := encodeName(opSet, nameKey{Name: "web.weft.local.", Type: typeSRV, Port: 80, Data: "a.", Container: "c"})
	f.Add(b)
	b, _ = encodeName(opSet, nameKey{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1"), Container: "c"})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, k, err := parseName(b)
		if err != nil {
			return
		}
		again, err := encodeName(o, k)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x parsed and encoded is %x (%v)", b, again, err)
		}
	})
}

func FuzzParseClaim(f *testing.F) {
	f.Add(encodeClaim(opDel, netip.MustParsePrefix("172.30.5.1/24")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, p, err := parseClaim(b); err == nil && !bytes.Equal(encodeClaim(o, p), b) {
			t.Errorf("%x parsed and encoded is %x", b, encodeClaim(o, p))
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	s := mesh.NewSecret()
	a, b := newSigner(f, s), newSigner(f, s)
	e := a.grant(f, ipam.Grant{Prefix: netip.MustParsePrefix("10.40.0.0/13"), From: ipam.Owner(a.id.ID()), To: ipam.Owner(b.id.ID()), Version: 2})
	f.Add(e.Payload)
	f.Add(encodeCarried(a.id.Public(), e))
	f.Fuzz(func(t *testing.T, p []byte) {
		g, err := parseGrant(b.id.ID(), p, s.MeshID())
		if err == nil && g.From != (ipam.Owner{}) && g.From != ipam.Owner(b.id.ID()) && g.From != ipam.Owner(a.id.ID()) {
			t.Errorf("a grant by %v, who signed nothing", g.From)
		}
	})
}

func FuzzParseEntries(f *testing.F) {
	a := newSigner(f, mesh.NewSecret())
	f.Add(encodeEntries([]mesh.Entry{a.entry(f, mesh.KindName, []byte("x")), a.entry(f, mesh.KindClaim, nil)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if es, err := parseEntries(b); err == nil && !bytes.Equal(encodeEntries(es), b) {
			t.Errorf("%x came back different", b)
		}
	})
}

func FuzzParsePrefix(f *testing.F) {
	f.Add(encodePrefix(netip.MustParsePrefix("10.32.0.0/12")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePrefix(b); err == nil && !bytes.Equal(encodePrefix(p), b) {
			t.Errorf("%x came back different", b)
		}
	})
}

// A departed host announces nothing again: what its own log says of names is
// read without the departure.
func TestOwnNamesAfterADeparture(t *testing.T) {
	s := mesh.NewSecret()
	a := newSigner(t, s)
	b, err := encodeName(opSet, nameKey{Name: "x.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	st := &mesh.State{Self: a.id.ID(), Logs: map[peer.ID][]mesh.Entry{a.id.ID(): {a.entry(t, mesh.KindName, b), a.entry(t, mesh.KindDepart, nil)}}}
	z := newZone("weft.local.", true)
	z.sync(stateIs(st), func(mesh.Host) bool { return false })
	if names, _ := z.differs(st.Self, nil); len(names) != 1 || len(z.all()) != 0 || z.table.Load().Lookup("x") != nil {
		t.Errorf("own names %v, want the one that the log has; answered are %v", names, z.all())
	}
}
