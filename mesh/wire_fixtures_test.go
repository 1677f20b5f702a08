package mesh

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flynn/noise"

	"weft/peer"
)

// testdata/wire-v1.txt holds one example of every format as weft 0.1 writes it:
// a line is a name and the bytes in hex. Later releases must read these bytes.
// It is written by `go test ./mesh -run WireV1$ -wire.update`, which is right
// only as long as no release has been made with it.
var wireUpdate = flag.Bool("wire.update", false, "write testdata/wire-v1.txt anew")

const wireFile = "testdata/wire-v1.txt"

func readWire(t *testing.T, file string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for l := range strings.Lines(string(text)) {
		name, data, _ := strings.Cut(strings.TrimSpace(l), " ")
		b, err := hex.DecodeString(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m[name] = b
	}
	return m
}

func writeWire(t *testing.T, file string, m map[string][]byte) {
	t.Helper()
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&out, "%s %x\n", name, m[name])
	}
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wireHandshakers are the two sides of the recorded session, with nothing random.
func wireHandshakers(t *testing.T) (c, s *handshaker) {
	side := func(seed byte) *handshaker {
		static, err := noise.DH25519.GenerateKeypair(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
		if err != nil {
			t.Fatal(err)
		}
		return &handshaker{static: static, secret: wireSecret(t), lo: 1, hi: 1, limit: handshakeTimeout,
			rand: bytes.NewReader(bytes.Repeat([]byte{seed + 1}, 32))}
	}
	return side(10), side(20)
}

var (
	wireToServer = []string{"first message", strings.Repeat("more than a frame holds ", 700)}
	wireToClient = []string{"", "an answer"}
)

func updateWire(t *testing.T) {
	s, id := wireSecret(t), wireIdentity(t)
	begin, err := NewBegin(id, s, 0, 0xfedcba9876543210, 2).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	h := wireHello(t)
	h.Record = wireSigned(t, id, wireRecord())
	hello, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	first := wireEntry(t, id, Entry{Epoch: 7, Seq: 1, Kind: KindBegin, Payload: begin})
	second := wireEntry(t, id, Entry{Epoch: 7, Seq: 2, Kind: 999, Payload: []byte("of a later release")})
	m := map[string][]byte{
		"token":    []byte(Token{Secret: s, Endpoints: []string{"192.0.2.1:6783", "host2"}}.Encode()),
		"founding": h.Founding, "record": h.Record, "hello": hello,
		"refusal": Refusal{RefusedClone, "the same identity runs elsewhere"}.encode(),
		"entries": AppendEntries(nil, first, second),
	}
	r := wireReplica(t, s, first, second)
	root := r.root()
	m["digest"], m["root"] = appendDigest(nil, r.digest()), root[:]
	m["datagram"] = pack([]Entry{first, second}, gossipDirect)[0]
	m["datagram-relay"] = pack([]Entry{first}, gossipRelay)[0]
	m["datagram-root"] = rootDatagram(root)

	a, b := wireTCP(t)
	ta, tb := newWireTap(a, whole), newWireTap(b, whole)
	hc, hs := wireHandshakers(t)
	client, cerr, server, serr := wireHandshake(t, ta, tb, hc, hs)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	for _, msg := range wireToServer {
		client.WriteMsg([]byte(msg))
	}
	for _, msg := range wireToClient {
		server.WriteMsg([]byte(msg))
	}
	m["session-client"], m["session-server"] = ta.out.Bytes(), tb.out.Bytes()

	writeWire(t, wireFile, m)
}

// wireReplica holds what entries say.
func wireReplica(t *testing.T, s Secret, es ...Entry) *replica {
	t.Helper()
	r := newReplica()
	for _, e := range es {
		if err := r.merge(provenEntry(t, s, e), false, &change{}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// What a host of the first release says to a neighbour, today's takes: entries in
// datagrams, a root, and a digest that it answers with what is missing.
func TestWireV1Gossip(t *testing.T) {
	m, s := readWire(t, wireFile), wireSecret(t)
	es, err := SplitEntries(m["entries"])
	if err != nil {
		t.Fatal(err)
	}
	author := es[0].Author
	r := wireReplica(t, s, es...)
	if root := r.root(); !bytes.Equal(root[:], m["root"]) || !bytes.Equal(rootDatagram(root), m["datagram-root"]) {
		t.Errorf("root is %x, was %x", root, m["root"])
	}
	if ms, err := parseDigest(m["digest"]); err != nil || len(ms) != 1 || ms[0].author != author || ms[0].epoch != 7 || ms[0].seq != 2 ||
		!bytes.Equal(appendDigest(nil, r.digest()), m["digest"]) || len(r.missing(ms, author)) != 0 {
		t.Errorf("digest: %+v, %v", ms, err)
	}
	for _, name := range []string{"datagram", "datagram-relay"} {
		host := quietMesh(t, s)
		host.receive(host.controlAddr(author), m[name])
		host.receive(host.controlAddr(author), m["datagram-root"])
		if len(host.inbox) != 2 {
			t.Fatalf("%s: %d datagrams are taken: %v", name, len(host.inbox), host.Rejections())
		}
		host.read(<-host.inbox)
		if got := len(host.logs.log(author)); got == 0 && name == "datagram" {
			t.Errorf("%s: nothing is taken: %v", name, host.Rejections())
		}
		if host.logs.authors[author] == nil {
			t.Errorf("%s: its author is not known", name)
		}
		if l := <-host.inbox; l.kind != gossipRoot || !bytes.Equal(l.body, m["root"]) {
			t.Errorf("root datagram: %+v", l)
		}
	}
}

func TestWireV1(t *testing.T) {
	if *wireUpdate {
		updateWire(t)
	}
	m, s := readWire(t, wireFile), wireSecret(t)

	tok, err := ParseToken(string(m["token"]))
	if err != nil || !tok.Secret.Equal(s) || !slices.Equal(tok.Endpoints, []string{"192.0.2.1:6783", "host2"}) || tok.Encode() != string(m["token"]) {
		t.Errorf("token: %q, %v", tok.Endpoints, err)
	}
	if f, err := ParseFounding(m["founding"]); err != nil || f != wireFounding() {
		t.Errorf("founding: %v, %v", f, err)
	}

	r, err := VerifyRecord(m["record"], s)
	want := wireRecord()
	want.Identity, want.WireGuard, want.Join, want.Admission = r.Identity, r.WireGuard, r.Join, r.Admission
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("record: %+v, %v", r, err)
	}
	if b, err := r.encode(); err != nil || !bytes.HasPrefix(m["record"], b) {
		t.Errorf("record is written as %x, %v", b, err)
	}

	h, err := parseHello(m["hello"])
	wantHello := hello{Proto: 1, Purpose: purposeProbe, ProbeNonce: 0x1122334455667788, Observed: netip.MustParseAddrPort("192.0.2.7:40000"),
		Record: m["record"], Founding: m["founding"], Ext: []TLV{{Type: 3, Value: []byte("later")}}}
	if err != nil || !reflect.DeepEqual(h, wantHello) {
		t.Errorf("hello: %+v, %v", h, err)
	}
	if b, err := h.encode(); err != nil || !bytes.Equal(b, m["hello"]) {
		t.Errorf("hello is written as %x, %v", b, err)
	}
	if e, err := parseRefusal(m["refusal"]); err != nil || e != (Refusal{RefusedClone, "the same identity runs elsewhere"}) {
		t.Errorf("refusal: %+v, %v", e, err)
	}

	es, err := SplitEntries(m["entries"])
	if err != nil || len(es) != 2 {
		t.Fatalf("entries: %d, %v", len(es), err)
	}
	begin, err := VerifyBegin(es[0], s)
	if err != nil || begin.BootNonce != 0xfedcba9876543210 || begin.Snapshot != 2 || es[0].Epoch != 7 || es[0].Seq != 1 {
		t.Errorf("begin: %+v, %v", begin, err)
	}
	if err := es[1].Verify(begin.Identity, s.MeshID()); err != nil || es[1].Kind != 999 || es[1].Seq != 2 || string(es[1].Payload) != "of a later release" ||
		es[1].Author != r.ID() || !bytes.Equal(AppendEntries(nil, es...), m["entries"]) {
		t.Errorf("entry: %+v, %v", es[1], err)
	}
}

// Each side of today meets the recorded bytes of the other, and says the same
// bytes as it did.
func TestWireV1Session(t *testing.T) {
	m := readWire(t, wireFile)
	hc, hs := wireHandshakers(t)
	for _, tt := range []struct {
		name          string
		h             *handshaker
		side          func(*handshaker, *wireScript) (*Session, error)
		hears, says   []byte
		reads, writes []string
		remote        []byte
	}{
		{"client", hc, func(h *handshaker, c *wireScript) (*Session, error) { return h.client(c) },
			m["session-server"], m["session-client"], wireToClient, wireToServer, hs.static.Public},
		{"server", hs, func(h *handshaker, c *wireScript) (*Session, error) { return h.server(c) },
			m["session-client"], m["session-server"], wireToServer, wireToClient, hc.static.Public},
	} {
		conn := newWireScript(tt.hears)
		sess, err := tt.side(tt.h, conn)
		if err != nil || sess.RemoteStatic() != peer.Key(tt.remote) {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for _, want := range tt.reads {
			if got, err := sess.ReadMsg(maxMsg); err != nil || string(got) != want {
				t.Errorf("%s reads %q, %v", tt.name, got, err)
			}
		}
		for _, msg := range tt.writes {
			if err := sess.WriteMsg([]byte(msg)); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(conn.out.Bytes(), tt.says) {
			t.Errorf("%s says other bytes than it did", tt.name)
		}
	}
}

// The keys that every release must derive alike; checked against another
// implementation of HKDF (Python's hmac).
func TestWireV1Keys(t *testing.T) {
	s := wireSecret(t)
	id, join, adm := s.MeshID(), s.joinKey(1), s.admissionKey(1)
	psk, proof := s.WireGuardPSK(peer.Key{1}, peer.Key{2}), s.admission(1, make([]byte, 32))
	for _, k := range []struct {
		name string
		got  []byte
		want string
	}{
		{"mesh ID", id[:], "8ea9674cdd23ce64e543"}, {"join key", join[:], "fa7e6529ac546289fed6"}, {"admission key", adm[:], "b2f84dbff72ed01b15b3"}, {"admission", proof[:], "b522d9d43528a857b837"},
		{"gossip key", s.GossipKey(1), "13942f740d4e3db0d2c6"}, {"preshared key", psk[:], "1a9251a1a8474f326a3f"},
	} {
		if got := hex.EncodeToString(k.got[:10]); got != k.want {
			t.Errorf("%s begins with %s, want %s", k.name, got, k.want)
		}
	}
}
