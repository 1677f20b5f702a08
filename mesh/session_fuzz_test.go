package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/peer"
)

// hostile is a member that says whatever a fuzzer finds to a host, and all that its
// identity and a third host's have ever signed.
type hostile struct {
	secret   Secret
	host     *peer.Identity // whom it talks to
	id       *peer.Identity
	raw      []byte // its record
	founding Founding
	third    scribe
	signed   map[string]bool // entries by their bytes
	own      []Entry         // its log
	log      []Entry         // the third host's
	longLog  []Entry         // another epoch of it, 60 KiB
	others   []Entry         // of another mesh
}

func newHostile(f *testing.F) *hostile {
	h := &hostile{secret: NewSecret(), host: newIdentity(f), id: newIdentity(f), founding: wireFounding(), signed: make(map[string]bool)}
	var err error
	if h.raw, err = SignRecord(h.id, h.secret, Record{BootNonce: 1, Epoch: 1, ProtoMin: 1, ProtoMax: 1}); err != nil {
		f.Fatal(err)
	}
	h.third = newScribe(f, h.secret)
	for _, p := range h.third.epoch(f, 5, 2, 2) {
		h.log = append(h.log, p.Entry)
	}
	for _, p := range h.third.epochOf(f, 6, 60, 1, func(int) []byte { return make([]byte, maxPayload) }) {
		h.longLog = append(h.longLog, p.Entry)
	}
	for _, p := range newScribe(f, NewSecret()).epoch(f, 5, 2, 0) {
		h.others = append(h.others, p.Entry)
	}
	begin, err := NewBegin(h.id, h.secret, 0, 1, 2).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	for i, d := range []Draft{{KindBegin, begin}, {KindHost, h.raw}} {
		e, err := SignEntry(h.id, h.secret.MeshID(), Entry{Epoch: 1, Seq: uint64(i + 1), Kind: d.Kind, Payload: d.Payload})
		if err != nil {
			f.Fatal(err)
		}
		h.own = append(h.own, e)
	}
	for _, e := range slices.Concat(h.own, h.log, h.longLog) {
		h.signed[string(e.raw)] = true
	}
	return h
}

// target is a host that knows the founding and the hostile member, and nothing else.
func (h *hostile) target(t testing.TB) *Mesh {
	t.Helper()
	m := unopened(t, h.secret, h.host, "")
	m.founding = h.founding
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.take(h.own, peer.ID{}, false); err != nil {
		t.Fatal(err)
	}
	return m
}

// unharmed fails unless all that the host has is its own, or signed by who it is of.
func (h *hostile) unharmed(t *testing.T, m *Mesh) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.founding != h.founding {
		t.Errorf("the founding is %v now", m.founding)
	}
	if len(m.logs.log(m.id)) != 2 || len(m.past.epochs) > 0 {
		t.Errorf("its own log has %d entries, its past %d epochs", len(m.logs.log(m.id)), len(m.past.epochs))
	}
	for id := range m.logs.authors {
		if id != m.id && id != h.id.ID() && id != h.third.id.ID() {
			t.Errorf("%v is an author now", id)
		}
	}
	for _, e := range everything(m.logs) {
		if e.Author != m.id && !h.signed[string(e.raw)] {
			t.Errorf("an entry %d/%d of %v was taken that it has not signed", e.Epoch, e.Seq, e.Author)
		}
	}
	checkHeld(t, m.logs, 0)
	for id, x := range m.hosts {
		if id != h.id.ID() || !bytes.Equal(x.raw, h.raw) {
			t.Errorf("%v is a host now, with the record %x", id, x.raw)
		}
	}
	b := m.o.Tunnel.(*box)
	for to := range b.peers {
		if to != b.controlOf(h.id.ID()) {
			t.Errorf("there is a tunnel to %v", to)
		}
	}
}

// everything is all entries that a replica has, those that wait included.
func everything(r *replica) (es []Entry) {
	for _, a := range r.authors {
		for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
			if ep == nil {
				continue
			}
			es = append(es, ep.entries...)
			for _, e := range ep.early {
				es = append(es, e)
			}
			if ep.fork != nil {
				es = append(es, *ep.fork)
			}
		}
		for _, e := range []*Entry{a.gone, a.lone} {
			if e != nil {
				es = append(es, *e)
			}
		}
	}
	return es
}

// checkHeld fails unless a replica knows how much it holds, and that is within bounds.
// It has counted from zero at first, or from another number.
func checkHeld(t fataler, r *replica, from int) {
	t.Helper()
	held, strangers, theirs := from, 0, 0
	for id, a := range r.authors {
		if a.strange != (r.strangers.unmet(id) && !a.buried()) {
			t.Fatalf("%v is a stranger: %v", id, a.strange)
		}
		if a.strange {
			strangers, theirs = strangers+1, theirs+a.held
		}
		for _, e := range []*Entry{a.gone, a.lone} {
			if e != nil {
				held += len(e.raw)
			}
		}
		if len(a.next) > maxNext {
			t.Fatalf("%d epochs of %v wait", len(a.next), id)
		}
		for _, ep := range append([]*epoch{a.current, a.older}, a.next...) {
			if ep == nil {
				continue
			}
			n, waiting := 0, 0
			for _, e := range ep.entries {
				n += len(e.raw)
			}
			for _, e := range ep.early {
				waiting += len(e.raw)
			}
			if n != ep.bytes || waiting != ep.waiting || n > maxLogBytes || len(ep.entries) > maxLogEntries || len(ep.early) > maxEarly {
				t.Fatalf("epoch %d of %v: %d entries of %d bytes, said to be %d; %d wait, of %d bytes, said to be %d",
					ep.number, id, len(ep.entries), n, ep.bytes, len(ep.early), waiting, ep.waiting)
			}
			held += n + waiting
		}
	}
	if strangers != r.strangers.number || theirs != r.strangers.bytes {
		t.Fatalf("%d strangers have %d bytes, said to be %d and %d", strangers, theirs, r.strangers.number, r.strangers.bytes)
	}
	if held != r.held || held > maxHeld {
		t.Fatalf("%d bytes are held, said to be %d", held, r.held)
	}
}

// Messages of a fuzzed session are spelt one behind the other as repeat u8 | length
// u16 | the message, of which all but the first byte comes repeat times more: so short
// inputs make long messages, of at most 1 MiB.
func spell(repeat uint8, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{repeat}, uint16(len(msg))), msg...)
}

func spelt(b []byte) (msgs [][]byte) {
	for len(b) >= 3 {
		repeat, n := int(b[0]), min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
		msg := slices.Clone(b[3 : 3+n])
		if n > 1 {
			msg = append(msg, bytes.Repeat(msg[1:], min(repeat, (maxMsg-n)/(n-1)))...)
		}
		msgs, b = append(msgs, msg), b[3+n:]
	}
	return msgs
}

func typed(t msgType, body []byte) []byte { return append([]byte{byte(t)}, body...) }

// sessionSeeds are what comes after the hellos and the verdict, by either side, as
// somebody would say it who half keeps to the protocol.
func (h *hostile) sessionSeeds(f *testing.F) (seeds [][]byte) {
	root, done := typed(msgRoot, make([]byte, 32)), typed(msgDone, nil)
	ready := typed(msgReady, Refusal{}.encode())
	var marks []mark
	for i := range 1000 {
		marks = append(marks, mark{author: peer.ID{byte(i >> 8), byte(i)}, epoch: 1, seq: uint64(i), next: 5, nextCount: 6})
	}
	forged := slices.Clone(h.log[1].raw)
	forged[len(forged)-1]++
	bad, err := ParseEntry(forged)
	if err != nil {
		f.Fatal(err)
	}
	for _, msgs := range [][][]byte{
		{root, typed(msgDigest, nil), done, ready},
		{root, typed(msgDigest, appendDigest(nil, marks)), typed(msgEntries, AppendEntries(nil, h.log...)), done, ready},
		{root, typed(msgDigest, appendDigest(nil, marks[:1])), typed(msgEntries, AppendEntries(nil, h.longLog...)), done, ready},
		{root, typed(msgDigest, nil), typed(msgEntries, AppendEntries(nil, h.others...)), done, ready},
		{root, typed(msgDigest, nil), typed(msgEntries, AppendEntries(nil, h.log[0], bad)), done, ready},
		{root, typed(msgDigest, nil), typed(msgEntries, []byte{0, 1, 1}), ready},
		{typed(msgReady, Refusal{Code: RefusedBusy, Text: "no"}.encode())},
		{root, typed(msgDigest, nil), done, typed(msgReady, Refusal{Code: RefusedBusy, Text: "no"}.encode())},
		{typed(msgCall, []byte("\x01xy"))},
		{typed(msgReply, []byte("\x00an answer"))},
		{typed(msgReply, []byte("\x01an error"))},
		{typed(msgReply, nil)},
		{typed(msgCall, nil)},
	} {
		var b []byte
		for _, msg := range msgs {
			b = append(b, spell(0, msg)...)
		}
		seeds = append(seeds, b)
	}
	long := bytes.Repeat([]byte("xy"), 4<<10)
	return append(seeds,
		slices.Concat(spell(0, root), spell(0, typed(msgDigest, nil)), spell(255, typed(msgEntries, AppendEntries(nil, h.log[1:3]...))), spell(0, done)),
		slices.Concat(spell(0, root), spell(255, typed(msgDigest, make([]byte, markLen)))),
		spell(255, typed(msgCall, append([]byte{1}, long...))),
		spell(255, typed(msgReply, append([]byte{0}, long...))),
		spell(255, typed(msgReply, append([]byte{1}, long...))))
}

// hello is what a member says that is what it seems.
func (h *hostile) hello(t testing.TB, p purpose) []byte {
	t.Helper()
	f, err := h.founding.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := hello{Proto: 1, Purpose: p, Record: h.raw, Founding: f}.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// helloSeeds are sessions from the first message on: other hellos and other verdicts.
func (h *hostile) helloSeeds(f *testing.F, p purpose) [][]byte {
	good := h.hello(f, p)
	apart := h.founding
	apart.Nonce++
	b, err := apart.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	other, err := hello{Proto: 1, Purpose: p, Record: h.raw, Founding: b, Ext: []TLV{{extFounder, []byte("a\x1b[0m")}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	verdict := spell(0, Refusal{}.encode())
	return [][]byte{
		slices.Concat(spell(0, good), verdict),
		slices.Concat(spell(0, good), spell(0, Refusal{RefusedClone, "a clone"}.encode())),
		slices.Concat(spell(0, good), spell(255, Refusal{999, "endless "}.encode())),
		slices.Concat(spell(0, other), verdict),
		slices.Concat(spell(255, good), verdict),
		spell(0, nil), // an empty message
	}
}

// run says msgs over a session and hears all that the other side says until it ends.
func (h *hostile) run(s *Session, msgs [][]byte) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := s.ReadMsg(maxMsg); err != nil {
				return
			}
		}
	})
	for _, msg := range msgs {
		if s.WriteMsg(msg) != nil {
			break
		}
	}
	_ = s.Close()
	wg.Wait()
}

// ends fails if a session goes on although the other side has closed it.
func ends(t *testing.T, done <-chan struct{}) {
	t.Helper()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		t.Fatal("the session does not end")
	}
}

// FuzzServe has a hostile member open sessions: they end, and nothing is taken that
// was not signed. proper: its hello and verdict are what they should be.
func FuzzServe(f *testing.F) {
	h := newHostile(f)
	for _, p := range []purpose{purposeJoin, purposeSync, purposeCall, purposeProbe, 9} {
		for _, b := range h.sessionSeeds(f) {
			f.Add(uint8(p), true, p == purposeJoin, b)
		}
		for _, b := range h.helloSeeds(f, p) {
			f.Add(uint8(p), false, p == purposeJoin, b)
		}
	}
	f.Fuzz(func(t *testing.T, p uint8, proper, outside bool, b []byte) {
		m := h.target(t)
		m.o.Handle = func(_ context.Context, _ peer.ID, _ string, body []byte) ([]byte, error) { return body, nil }
		from := netip.AddrPortFrom(m.controlAddr(h.id.ID()), 4711)
		if outside {
			from = wireClientAt
		}
		a, z := net.Pipe()
		served := make(chan struct{})
		go func() {
			m.handle(t.Context(), tunnelled{z, from})
			close(served)
		}()
		s, err := Client(t.Context(), a, h.id, h.secret)
		if err != nil {
			t.Fatal(err)
		}
		msgs := spelt(b)
		if proper {
			msgs = append([][]byte{h.hello(t, purpose(p)), Refusal{}.encode()}, msgs...)
		}
		h.run(s, msgs)
		ends(t, served)
		h.unharmed(t, m)
	})
}

// FuzzDial has a host join, sync with, call or probe a hostile member: that ends, and
// nothing is taken that was not signed or not said.
func FuzzDial(f *testing.F) {
	h := newHostile(f)
	for p := purposeJoin; p <= purposeProbe; p++ {
		for _, b := range h.sessionSeeds(f) {
			f.Add(uint8(p), true, b)
		}
		for _, b := range h.helloSeeds(f, 0) {
			f.Add(uint8(p), false, b)
		}
	}
	rec, err := VerifyRecord(h.raw, h.secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p uint8, proper bool, b []byte) {
		m := h.target(t)
		at := netip.AddrPortFrom(m.controlAddr(h.id.ID()), DefaultPort)
		a, z := net.Pipe()
		m.o.Network = dialsTo{conn: tunnelled{z, at}}
		msgs := spelt(b)
		if proper {
			msgs = append([][]byte{h.hello(t, 0), Refusal{}.encode()}, msgs...)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			s, err := Server(t.Context(), a, h.id, h.secret)
			if err != nil {
				t.Error(err)
				return
			}
			h.run(s, msgs)
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := h.dial(t, m, purpose(p), at, rec, msgs); err != nil {
				t.Error(err)
			}
		}()
		ends(t, done)
		wg.Wait()
		h.unharmed(t, m)
	})
}

// dial is one session that m begins with the hostile member, which says msgs. An
// error is an outcome that cannot be.
func (h *hostile) dial(t *testing.T, m *Mesh, p purpose, at netip.AddrPort, rec Record, msgs [][]byte) error {
	said := func(is func([]byte) bool) bool {
		return slices.ContainsFunc(msgs, func(b []byte) bool { return len(b) > 0 && is(b) })
	}
	switch p {
	case purposeJoin:
		id, err := m.joinAt(t.Context(), peer.ID{}, at)
		if err == nil || errors.Is(err, errNotRunning) && id != rec.ID() {
			return fmt.Errorf("a join with %v, which has no gossip: %w", id, err)
		}
	case purposeSync:
		if err := m.syncWith(t.Context(), rec.ID()); err == nil && !said(func(b []byte) bool { return msgType(b[0]) == msgReady && ready(b[1:]) == nil }) {
			return errors.New("a sync is done, and the other side has not said so")
		}
	case purposeCall:
		out, err := m.Call(t.Context(), rec.ID(), "method", []byte("body"))
		if err == nil && !said(func(b []byte) bool { return bytes.Equal(b, typed(msgReply, append([]byte{0}, out...))) }) {
			return fmt.Errorf("%q is nothing that was answered", out)
		}
	default:
		nonce, err := m.probe(t.Context(), at, rec)
		if err == nil && nonce != rec.BootNonce {
			return fmt.Errorf("a start %x is there", nonce)
		}
	}
	return nil
}
