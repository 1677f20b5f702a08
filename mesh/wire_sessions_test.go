package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/peer"
)

// testdata/wire-v1-sessions.txt holds sessions of two hosts of weft 0.1, message by
// message as they are before encryption, and what the two are: their identity files,
// records and logs, and a third host's log. Later releases must be able to take either
// side of them. It is written by `go test ./mesh -run WireV1Sessions -wire.update`,
// which is right only as long as no release has been made with it.
const sessionsFile = "testdata/wire-v1-sessions.txt"

// wireScene is one of those sessions.
type wireScene struct {
	name           string
	founded        bool                                // the client knows the founding
	outside        bool                                // of the tunnel
	server, client [3]int                              // how many entries each holds of the server's log, the client's and the third host's
	begin          func(m *Mesh, server peer.ID) error // what the client does
	alike          bool                                // all three logs are with both in the end
}

// wireLogs is how many entries the three logs have.
var wireLogs = [3]int{5, 4, 4}

var wireScenes = []wireScene{
	{name: "join", outside: true, server: [3]int{5, 0, 4}, client: [3]int{0, 4, 0}, alike: true,
		begin: func(m *Mesh, server peer.ID) error {
			_, err := m.joinAt(context.Background(), server, wireServerAt)
			if errors.Is(err, errNotRunning) { // gossip comes next, beside the session
				return nil
			}
			return errors.Join(err, errors.New("the join does not get to gossip"))
		}},
	{name: "sync", founded: true, server: [3]int{5, 2, 1}, client: [3]int{3, 4, 4}, alike: true, begin: wireSync},
	{name: "sync-alike", founded: true, server: wireLogs, client: wireLogs, alike: true, begin: wireSync},
	{name: "sync-refused", founded: true, outside: true, server: [3]int{5, 2, 0}, client: [3]int{3, 4, 0},
		begin: func(m *Mesh, server peer.ID) error {
			err := wireSync(m, server)
			if v, ok := errors.AsType[*Refusal](err); ok && v.Code == RefusedPurpose {
				return nil
			}
			return fmt.Errorf("where strangers are served, a sync ends with %w", err)
		}},
	{name: "call", founded: true, server: [3]int{5, 2, 0}, client: [3]int{3, 4, 0},
		begin: func(m *Mesh, server peer.ID) error {
			out, err := m.Call(context.Background(), server, "echo", []byte("a body"))
			if want := fmt.Sprintf("a body from %v", m.id); err != nil || string(out) != want {
				return fmt.Errorf("the answer is %q, %w", out, err)
			}
			return nil
		}},
	{name: "call-fails", founded: true, server: [3]int{5, 2, 0}, client: [3]int{3, 4, 0},
		begin: func(m *Mesh, server peer.ID) error {
			_, err := m.Call(context.Background(), server, "fail", nil)
			if ce, ok := errors.AsType[*CallError](err); !ok || ce.Text != "no such thing" {
				return fmt.Errorf("the handler's error is %w", err)
			}
			return nil
		}},
	{name: "probe", founded: true, outside: true, server: [3]int{5, 2, 0}, client: [3]int{3, 4, 0},
		begin: func(m *Mesh, server peer.ID) error {
			h, _ := m.State().Host(server)
			nonce, err := m.probe(context.Background(), wireServerAt, h.Record)
			if err != nil || nonce != h.Record.BootNonce {
				return fmt.Errorf("the start that is there is %x, %w", nonce, err)
			}
			return nil
		}},
}

func wireSync(m *Mesh, server peer.ID) error { return m.syncWith(context.Background(), server) }

// Where the two are on the underlay.
var (
	wireServerAt = netip.MustParseAddrPort("192.0.2.1:6783")
	wireClientAt = netip.MustParseAddrPort("192.0.2.2:40000")
)

// wireWord is a message, and which side says it: "server" or "client".
type wireWord struct {
	by  string
	msg []byte
}

// wireWords are the messages of a scene, in their order.
func wireWords(m map[string][]byte, scene string) (ws []wireWord) {
	for i := 0; ; i++ {
		found := false
		for _, by := range []string{"server", "client"} {
			if msg, ok := m[wordName(scene, i, by)]; ok {
				ws, found = append(ws, wireWord{by, msg}), true
			}
		}
		if !found {
			return ws
		}
	}
}

func wordName(scene string, i int, by string) string { return fmt.Sprintf("%s-%02d-%s", scene, i, by) }

// wireOther is the identity of one of the recorded hosts.
func wireOther(t *testing.T, m map[string][]byte, who string) *peer.Identity {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "identity"), m["identity-"+who], 0o600); err != nil {
		t.Fatal(err)
	}
	id, _, err := peer.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wireHost is one of the recorded hosts as it was before the scene, in today's code.
func wireHost(t *testing.T, m map[string][]byte, x wireScene, who string) *Mesh {
	t.Helper()
	holds := x.client
	if who == "server" {
		holds = x.server
	}
	h := unopened(t, wireSecret(t), wireOther(t, m, who), "the-"+who)
	var es []Entry
	for i, log := range []string{"server", "client", "third"} {
		all, err := SplitEntries(m["log-"+log])
		if err != nil || len(all) != wireLogs[i] {
			t.Fatalf("log of the %s: %d entries, %v", log, len(all), err)
		}
		es = append(es, all[:holds[i]]...)
	}
	if _, err := h.take(es, peer.ID{}, false); err != nil {
		t.Fatal(err)
	}
	rec, err := ParseRecord(m["record-"+who])
	if err != nil {
		t.Fatal(err)
	}
	h.nonce, h.own = rec.BootNonce, ownLog{open: true, boots: 1, at: time.Now(), epoch: rec.Epoch, rec: rec, raw: m["record-"+who]}
	if who == "server" || x.founded {
		if h.founding, err = ParseFounding(m["founding"]); err != nil {
			t.Fatal(err)
		}
	}
	h.o.Handle = func(_ context.Context, from peer.ID, method string, body []byte) ([]byte, error) {
		if method == "fail" {
			return nil, errors.New("no such thing")
		}
		return fmt.Appendf(nil, "%s from %v", body, from), nil
	}
	return h
}

// wireEnds gives a connection the addresses of the scene's two hosts: client is what
// the client has of it, server what the server has.
func wireEnds(x wireScene, m *Mesh, serverID, clientID peer.ID) (client, toServer, toClient, server net.Conn) {
	at := func(p netip.AddrPort, id peer.ID) netip.AddrPort {
		if x.outside {
			return p
		}
		return netip.AddrPortFrom(m.controlAddr(id), p.Port())
	}
	a, b := net.Pipe()
	c, d := net.Pipe()
	return tunnelled{a, at(wireServerAt, serverID)}, b, c, tunnelled{d, at(wireClientAt, clientID)}
}

// Each side of a recorded session is played to today's code as the other, which says
// what it said then, and in the end has what it had then.
func TestWireV1Sessions(t *testing.T) {
	if *wireUpdate {
		updateSessions(t)
	}
	m := readWire(t, sessionsFile)
	serverID, clientID := wireOther(t, m, "server"), wireOther(t, m, "client")
	for _, x := range wireScenes {
		words := wireWords(m, x.name)
		if len(words) < 3 {
			t.Fatalf("%s: %d messages are recorded", x.name, len(words))
		}
		check := func(t *testing.T, h *Mesh) {
			if !x.alike {
				return
			}
			var all []Entry
			for _, log := range []string{"log-server", "log-client", "log-third"} {
				es, err := SplitEntries(m[log])
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, es...)
			}
			if h.logs.root() != wireReplica(t, wireSecret(t), all...).root() {
				t.Errorf("it does not hold all in the end: %+v", h.logs.digest())
			}
			if f, err := ParseFounding(m["founding"]); err != nil || h.founding != f {
				t.Errorf("it is of the mesh %v, %v", h.founding, err)
			}
		}
		t.Run(x.name+"/server", func(t *testing.T) {
			wireLeakless(t)
			h := wireHost(t, m, x, "server")
			_, _, to, end := wireEnds(x, h, serverID.ID(), clientID.ID())
			var wg sync.WaitGroup
			wg.Go(func() { h.handle(t.Context(), end) })
			s, err := Client(t.Context(), to, clientID, wireSecret(t))
			if err == nil {
				err = play(s, words, "client")
			}
			if err != nil {
				t.Error(err)
			}
			_ = to.Close()
			wg.Wait()
			check(t, h)
		})
		t.Run(x.name+"/client", func(t *testing.T) {
			wireLeakless(t)
			h := wireHost(t, m, x, "client")
			end, to, _, _ := wireEnds(x, h, serverID.ID(), clientID.ID())
			h.o.Network = dialsTo{conn: end}
			played := make(chan error, 1)
			go func() {
				s, err := Server(context.Background(), to, serverID, wireSecret(t))
				if err == nil {
					err = play(s, words, "server")
				}
				_ = to.Close()
				played <- err
			}()
			if err := x.begin(h, serverID.ID()); err != nil {
				t.Error(err)
			}
			if err := <-played; err != nil {
				t.Error(err)
			}
			check(t, h)
		})
	}
}

// play says one side's messages of a session and compares what the other says to its.
func play(s *Session, words []wireWord, by string) error {
	_ = s.SetDeadline(time.Now().Add(linkPatience))
	for i, w := range words {
		if w.by == by {
			if err := s.WriteMsg(w.msg); err != nil {
				return fmt.Errorf("message %d, % .9x…, is not taken: %w", i, w.msg, err)
			}
			continue
		}
		got, err := s.ReadMsg(maxMsg)
		if err != nil {
			return fmt.Errorf("message %d was % .9x…, now there is none: %w", i, w.msg, err)
		}
		if !sameWord(i, got, w.msg) {
			return fmt.Errorf("message %d was\n%x, is\n%x", i, w.msg, got)
		}
	}
	if b, err := s.ReadMsg(maxMsg); err != io.EOF {
		return fmt.Errorf("message %d: nothing was said any more, now %x, %w", len(words), b, err)
	}
	return nil
}

// sameWord tells that a message says what the recorded one did. A hello may have new
// extensions behind, the text of a verdict may be another one, and the logs that
// entries are of may come in any order.
func sameWord(i int, got, want []byte) bool {
	const verdict = 3 // bytes before its text
	switch {
	case i < 2:
		return bytes.HasPrefix(got, want)
	case i < 4:
		return bytes.HasPrefix(got, want[:verdict])
	case msgType(want[0]) == msgEntries && len(got) > 0:
		return got[0] == want[0] && bytes.Equal(byAuthor(got[1:]), byAuthor(want[1:]))
	}
	return bytes.Equal(got, want)
}

// byAuthor sorts entries by author; nil if they are none.
func byAuthor(b []byte) []byte {
	es, err := SplitEntries(b)
	if err != nil {
		return nil
	}
	slices.SortStableFunc(es, func(a, b Entry) int { return a.Author.Compare(b.Author) })
	return AppendEntries(nil, es...)
}

// updateSessions has today's code hold the sessions with itself, through somebody who
// has the keys of both sides and so hears every word.
func updateSessions(t *testing.T) {
	s := wireSecret(t)
	m := make(map[string][]byte)
	ids := make(map[string]*peer.Identity)
	for i, who := range []string{"server", "client", "third"} {
		dir := t.TempDir()
		id, _, err := peer.LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		ids[who] = id
		file, err := os.ReadFile(filepath.Join(dir, "identity"))
		if err != nil {
			t.Fatal(err)
		}
		number := uint64(1)<<32 | uint64(i)
		rec := wireRecord()
		rec.BootNonce, rec.Epoch, rec.Serial, rec.Nickname = 0xfedcba9876543210+uint64(i), number, 1, "the-"+who
		record := wireSigned(t, id, rec)
		begin, err := NewBegin(id, s, 0, rec.BootNonce, 2).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var log []byte
		for j, d := range []Draft{{KindBegin, begin}, {KindHost, record}, {KindGrant, []byte("a grant of the " + who)},
			{KindName, []byte("a name")}, {999, []byte("of a later release")}}[:wireLogs[i]] {
			log = AppendEntries(log, wireEntry(t, id, Entry{Epoch: number, Seq: uint64(j + 1), Kind: d.Kind, Payload: d.Payload}))
		}
		m["log-"+who] = log
		if who != "third" {
			m["identity-"+who], m["record-"+who] = file, record
		}
	}
	f := wireFounding()
	f.Founder = ids["server"].ID()
	var err error
	if m["founding"], err = f.MarshalBinary(); err != nil {
		t.Fatal(err)
	}
	for _, x := range wireScenes {
		for i, w := range overhear(t, m, x, ids["server"], ids["client"]) {
			m[wordName(x.name, i, w.by)] = w.msg
		}
	}
	writeWire(t, sessionsFile, m)
}

// overhear has both sides of a scene by today's code, and returns what they say.
func overhear(t *testing.T, m map[string][]byte, x wireScene, serverID, clientID *peer.Identity) (words []wireWord) {
	t.Helper()
	server, client := wireHost(t, m, x, "server"), wireHost(t, m, x, "client")
	a, ab, ba, b := wireEnds(x, server, serverID.ID(), clientID.ID())
	client.o.Network = dialsTo{conn: a}
	var mu sync.Mutex // guards words
	pass := func(from, to *Session, by string) {
		for {
			msg, err := from.ReadMsg(maxMsg)
			if err != nil {
				_ = to.Close()
				return
			}
			mu.Lock()
			words = append(words, wireWord{by, slices.Clone(msg)})
			mu.Unlock()
			_ = to.WriteMsg(msg)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { server.handle(t.Context(), b) })
	wg.Go(func() {
		toClient, cerr := Server(context.Background(), ab, serverID, wireSecret(t))
		toServer, serr := Client(context.Background(), ba, clientID, wireSecret(t))
		if cerr != nil || serr != nil {
			t.Error(cerr, serr)
			_ = ab.Close()
			_ = ba.Close()
			return
		}
		wg.Go(func() { pass(toServer, toClient, "server") })
		pass(toClient, toServer, "client")
	})
	if err := x.begin(client, serverID.ID()); err != nil {
		t.Errorf("%s: %v", x.name, err)
	}
	wg.Wait()
	return words
}

// The numbers that every release must use alike. A new one gets a line here when it is
// released; no line changes.
func TestWireV1Numbers(t *testing.T) {
	var got strings.Builder
	for _, n := range []struct {
		what string
		is   []int
	}{
		{"purposes: join sync call probe", []int{int(purposeJoin), int(purposeSync), int(purposeCall), int(purposeProbe)}},
		{"messages: root digest entries done ready call reply", []int{int(msgRoot), int(msgDigest), int(msgEntries), int(msgDone), int(msgReady), int(msgCall), int(msgReply)}},
		{"datagrams: magic direct relay root", []int{int(gossipMagic), int(gossipDirect), int(gossipRelay), int(gossipRoot)}},
		{"entries: begin host grant name claim depart taken", []int{int(KindBegin), int(KindHost), int(KindGrant), int(KindName), int(KindClaim), int(KindDepart), int(KindTaken)}},
		{"verdicts: accepted clone founding range self record purpose nonce busy evicted", []int{int(Accepted), int(RefusedClone), int(RefusedFounding), int(RefusedRange), int(RefusedSelf), int(RefusedRecord), int(RefusedPurpose), int(RefusedNonce), int(RefusedBusy), int(RefusedEvicted)}},
		{"extensions of a record: left join-port device", []int{int(extLeft), int(extJoinPort), int(extDevice)}},
		{"extensions of a hello: founder", []int{int(extFounder)}},
		{"formats: token founding record entry hello", []int{tokenVersion, foundingVersion, recordVersion, entryVersion, helloVersion}},
		{"ports: join gossip", []int{DefaultPort, DefaultGossipPort}},
	} {
		fmt.Fprintln(&got, n.what, n.is)
	}
	const want = `purposes: join sync call probe [1 2 3 4]
messages: root digest entries done ready call reply [1 2 3 4 5 6 7]
datagrams: magic direct relay root [119 1 2 3]
entries: begin host grant name claim depart taken [1 2 3 4 5 6 7]
verdicts: accepted clone founding range self record purpose nonce busy evicted [0 1 2 3 4 5 6 7 8 9]
extensions of a record: left join-port device [1 2 3]
extensions of a hello: founder [1]
formats: token founding record entry hello [1 1 1 1 1]
ports: join gossip [6783 7946]
`
	if got.String() != want {
		t.Errorf("the numbers are\n%s, want\n%s", got.String(), want)
	}
}
