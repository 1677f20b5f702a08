package mesh

import (
	"bytes"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"weft/peer"
)

func wireRecord() Record {
	return Record{BootNonce: 0xfedcba9876543210, Epoch: 7, Serial: 3, ProtoMin: 1, ProtoMax: 2, Nickname: "host1.example",
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6783"), netip.MustParseAddrPort("[2001:db8::1]:6783")},
		Ext:       []TLV{{Type: 200, Value: []byte("later")}, {Type: 201, Value: []byte{}}}}
}

func wireSigned(t testing.TB, id *peer.Identity, r Record) []byte {
	t.Helper()
	b, err := SignRecord(id, wireSecret(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecord(t *testing.T) {
	s, id := wireSecret(t), wireIdentity(t)
	b := wireSigned(t, id, wireRecord())
	got, err := VerifyRecord(b, s)
	if err != nil {
		t.Fatal(err)
	}
	want := wireRecord()
	want.Identity, want.WireGuard, want.Join = id.Public(), id.WireGuardPublic(), id.JoinPublic()
	want.Admission = s.admission(0, id.Public())
	want.Ext = append(want.Ext, TLV{extKeyProof, id.KeyProof()})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("record came back as %+v, want %+v", got, want)
	}
	if got.ID() != id.ID() || got.Name() != id.ID().String()+"/fedcba9876543210" {
		t.Errorf("ID %v, name %q", got.ID(), got.Name())
	}
	if parsed, err := ParseRecord(b); err != nil || !reflect.DeepEqual(parsed, got) {
		t.Errorf("ParseRecord gives %+v, %v", parsed, err)
	}

	if _, err := VerifyRecord(b, NewSecret()); err == nil || !strings.Contains(err.Error(), "admission") {
		t.Errorf("record of another mesh: %v", err)
	}
	if _, err := VerifyRecord(b, Secret{}); err == nil {
		t.Error("record verified without a secret")
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := VerifyRecord(bad, s); err == nil {
			t.Errorf("changed byte %d of %d not noticed", i, len(b))
		}
		if _, err := ParseRecord(b[:i]); err == nil {
			t.Errorf("cut to %d of %d bytes not noticed", i, len(b))
		}
	}
	b[30]++
	if !slices.Equal(got.Identity, id.Public()) {
		t.Error("the record shares the bytes that it was parsed from")
	}
}

// A member that holds the secret but not the identity's key can't speak for it.
func TestRecordOfAnother(t *testing.T) {
	victim, liar := wireIdentity(t), wireIdentity(t)
	r, _ := ParseRecord(wireSigned(t, victim, wireRecord()))
	r.WireGuard = liar.WireGuardPublic()
	if _, err := VerifyRecord(sealed(t, liar, r), wireSecret(t)); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("forged record: %v", err)
	}
}

// A member cannot say that another's tunnel is its own, and prove it. A record without
// a proof is an earlier build's.
func TestRecordProvesItsKey(t *testing.T) {
	s, id, victim := wireSecret(t), wireIdentity(t), newIdentity(t)
	own, err := VerifyRecord(wireSigned(t, id, wireRecord()), s)
	if err != nil || !own.ProvesKey() {
		t.Fatalf("own record: proof %v, %v", own.ProvesKey(), err)
	}
	again, err := ParseRecord(wireSigned(t, id, own))
	if err != nil || !reflect.DeepEqual(again, own) {
		t.Errorf("signed again: %+v, %v", again, err)
	}
	proof := func(b []byte) []TLV { return []TLV{{extKeyProof, b}} }
	for _, tt := range []struct {
		name   string
		key    peer.Key
		ext    []TLV
		taken  bool
		proven bool
	}{
		{"own", id.WireGuardPublic(), proof(id.KeyProof()), true, true},
		{"another's key", victim.WireGuardPublic(), proof(id.KeyProof()), false, false},
		{"another's key and proof", victim.WireGuardPublic(), proof(victim.KeyProof()), false, false},
		{"own key, another's proof", id.WireGuardPublic(), proof(victim.KeyProof()), false, false},
		{"an empty proof", id.WireGuardPublic(), proof(nil), false, false},
		{"a short proof", id.WireGuardPublic(), proof(id.KeyProof()[:63]), false, false},
		{"a bad one and a good one", id.WireGuardPublic(), append(proof(nil), proof(id.KeyProof())...), false, false},
		{"none", id.WireGuardPublic(), nil, true, false},
		{"none, another's key", victim.WireGuardPublic(), nil, true, false},
	} {
		r := wireRecord()
		r.Identity, r.Join, r.Admission = id.Public(), id.JoinPublic(), s.admission(0, id.Public())
		r.WireGuard, r.Ext = tt.key, tt.ext
		got, err := VerifyRecord(sealed(t, id, r), s)
		if (err == nil) != tt.taken || got.ProvesKey() != tt.proven || err != nil && !strings.Contains(err.Error(), "WireGuard key") {
			t.Errorf("%s: proof %v, %v", tt.name, got.ProvesKey(), err)
		}
	}
}

// sealed is the record as r says it, whatever that is, under the identity's signature.
func sealed(t testing.TB, id *peer.Identity, r Record) []byte {
	t.Helper()
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(b, id.Sign(append([]byte(recordDomain), b...))...)
}

func TestRecordRefused(t *testing.T) {
	s, id := wireSecret(t), wireIdentity(t)
	control := peer.ControlAddr(s.MeshID().Control(), id.ID())
	endpoint := func(text string) func(*Record) {
		return func(r *Record) { r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort(text)} }
	}
	nickname := func(text string) func(*Record) { return func(r *Record) { r.Nickname = text } }
	for _, tt := range []struct {
		name, want string
		change     func(*Record)
	}{
		{"loopback", "127.0.0.1:6783 is not", endpoint("127.0.0.1:6783")},
		{"loopback, IPv6", "not an address", endpoint("[::1]:6783")},
		{"unspecified", "not an address", endpoint("0.0.0.0:6783")},
		{"unspecified, IPv6", "not an address", endpoint("[::]:6783")},
		{"multicast", "not an address", endpoint("239.1.1.1:6783")},
		{"broadcast", "not an address", endpoint("255.255.255.255:6783")},
		{"link-local", "not an address", endpoint("169.254.53.1:6783")},
		{"zone", "has a zone", endpoint("[2001:db8::1%eth0]:6783")},
		{"IPv4 in IPv6", "IPv4 in IPv6", endpoint("[::ffff:192.0.2.1]:6783")},
		{"port 0", "no port", endpoint("192.0.2.1:0")},
		{"no address", "no address", func(r *Record) { r.Endpoints = make([]netip.AddrPort, 1) }},
		{"in the mesh", "inside the mesh", endpoint(netip.AddrPortFrom(control, 6783).String())},
		{"too many", "7 endpoints", func(r *Record) { r.Endpoints = make([]netip.AddrPort, 7) }},
		{"long nickname", "33 bytes", nickname(strings.Repeat("x", 33))},
		{"space", "spaces", nickname("a b")},
		{"no-break space", "spaces", nickname("a\u00a0b")},
		{"escape", "unprintable", nickname("a\x1b[31mb")},
		{"newline", "spaces", nickname("a\n")},
		{"right to left override", "unprintable", nickname("a\u202eb")},
		{"not UTF-8", "unprintable", nickname("a\xffb")},
		{"replacement character", "unprintable", nickname("a\ufffdb")},
		{"protocols upside down", "2 to 1", func(r *Record) { r.ProtoMin, r.ProtoMax = 2, 1 }},
		{"no protocol", "0 to 0", func(r *Record) { r.ProtoMin, r.ProtoMax = 0, 0 }},
		{"long extension", "more than 255", func(r *Record) { r.Ext = []TLV{{Value: make([]byte, 256)}} }},
		{"many extensions", "more than fit", func(r *Record) { r.Ext = slices.Repeat(r.Ext, 100) }},
		{"above 464 bytes", "more than 464", func(r *Record) { r.Ext = []TLV{{Value: make([]byte, 255)}} }},
	} {
		r := wireRecord()
		tt.change(&r)
		if _, err := SignRecord(id, s, r); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: SignRecord gives %v, want %q", tt.name, err, tt.want)
		}
		if tt.name == "zone" || tt.name == "IPv4 in IPv6" {
			continue // there are no bytes for it
		}
		// The same from a liar, who signs what we would not.
		r.Identity, r.WireGuard, r.Join = id.Public(), id.WireGuardPublic(), id.JoinPublic()
		r.Admission = s.admission(0, r.Identity)
		if _, err := r.encode(); err == nil {
			if _, err := VerifyRecord(sealed(t, id, r), s); err == nil {
				t.Errorf("%s: VerifyRecord takes it", tt.name)
			}
		}
	}
	if _, err := SignRecord(id, Secret{}, wireRecord()); err == nil {
		t.Error("signed without a secret")
	}
}

func TestRecordFull(t *testing.T) {
	r := wireRecord()
	r.Nickname, r.Endpoints = strings.Repeat("n", 32), nil
	r.Ext = append((&Options{Port: DefaultPort, Device: func() uint64 { return math.MaxUint64 }}).extensions(), TLV{Type: extLeft})
	for range maxEndpoints {
		r.Endpoints = append(r.Endpoints, netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535"))
	}
	b := wireSigned(t, wireIdentity(t), r)
	if len(b) > maxRecord || maxRecord > memberlist.MetaMaxSize {
		t.Errorf("full record has %d bytes of %d, memberlist takes %d", len(b), maxRecord, memberlist.MetaMaxSize)
	}
	if _, err := (hello{Record: b, Founding: make([]byte, maxRecord), Observed: r.Endpoints[0]}).encode(); err != nil {
		t.Error(err)
	}
	if maxRecord > maxPayload {
		t.Errorf("a record may have %d bytes, an entry %d", maxRecord, maxPayload)
	}
}

func TestCleanNickname(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "host1": "host1", "a b\tc": "a-b-c", "\x1b[0m": "-[0m", "\xff\xfe": "--", "zürich": "zürich",
		strings.Repeat("ü", 17): strings.Repeat("ü", 16), "a" + strings.Repeat("ü", 17): "a" + strings.Repeat("ü", 15),
	} {
		got := cleanNickname(in)
		if got != want || checkNickname(got) != nil {
			t.Errorf("cleanNickname(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	s := wireSecret(f)
	f.Add(wireSigned(f, wireIdentity(f), wireRecord()))
	f.Add(wireSigned(f, wireIdentity(f), Record{ProtoMin: 1, ProtoMax: 1}))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ParseRecord(in)
		if _, verr := VerifyRecord(in, s); err != nil {
			if verr == nil {
				t.Error("verified what does not parse")
			}
			return
		}
		_, _ = r.ID(), r.Name()
		out, err := r.encode()
		if err != nil || string(out) != string(in[:len(in)-64]) {
			t.Errorf("%x is encoded to %x, %v", in, out, err)
		}
	})
}
