package mesh

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"weft/peer"
)

// someone is an identity of which no signature is needed.
func someone(n int) []byte { return fmt.Appendf(nil, "%032d", n) }

// says is a log of an epoch that is proven, without anybody having signed it: n entries
// of size bytes, of which a snapshot has all but those that are to be missing.
func says(who, n, size, missing int) []proven {
	pub := someone(who)
	raw := bytes.Repeat([]byte{byte(who)}, size)
	ps := make([]proven, n)
	for i := range ps {
		ps[i] = proven{Entry: Entry{Author: peer.IDOf(pub), Epoch: 1, Seq: uint64(i + 1), Kind: KindName, raw: raw}}
	}
	ps[0].Kind, ps[0].begin = KindBegin, &Begin{Identity: pub, Snapshot: uint32(n + missing)}
	return ps
}

func deliver(r *replica, ch *change, ps []proven) (err error) {
	for _, p := range ps {
		err = errors.Join(err, r.merge(p, true, ch))
	}
	return err
}

// A mesh of as many hosts as there are places for strangers is kept in full by a newcomer that
// has met nobody, and is the same to it as to those who have met all.
func TestNewcomerKeepsAll(t *testing.T) {
	here, there := newReplica(), newReplica()
	for i := range maxStrangers {
		ps := says(i, 3, maxStrangerBytes/maxStrangers/3, 0)
		if err := deliver(here, &change{}, ps); err != nil {
			t.Fatal(i, err)
		}
		_ = deliver(there, &change{}, ps)
		there.meet(ps[0].Author)
	}
	if len(here.authors) != maxStrangers || here.root() != there.root() || len(here.missing(there.digest(), peer.ID{})) != 0 {
		t.Errorf("%d of %d are known", len(here.authors), maxStrangers)
	}
	if there.strangers.number != 0 || there.strangers.bytes != 0 || here.strangers.bytes != here.held {
		t.Errorf("strangers: %d of %d bytes; where all are met %d of %d", here.strangers.bytes, here.held, there.strangers.number, there.strangers.bytes)
	}
}

// What the address space rests on is not lost to any crowd, met or not; other strangers go
// when they have had their time.
func TestReliedOnAreKept(t *testing.T) {
	r := newReplica()
	dead, other := says(1, 3, 200, 0), says(2, 3, 200, 0)
	if err := errors.Join(deliver(r, &change{}, dead), deliver(r, &change{}, other)); err != nil {
		t.Fatal(err)
	}
	r.rely([]peer.ID{dead[0].Author, peer.IDOf(someone(99))})
	next := 1000
	refused := 0
	crowd := func(n int) {
		for range n {
			if err := deliver(r, &change{}, says(next, 1, 200, 0)); errors.Is(err, errStranger) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	crowd(2 * maxStrangers)
	if refused != maxStrangers+1 || r.log(other[0].Author) == nil {
		t.Errorf("%d were refused; one that was there is known: %v", refused, r.log(other[0].Author) != nil)
	}
	late := says(3, 1, 200, 0)
	for range strangerTurns {
		if deliver(r, &change{}, late) == nil {
			t.Error("a place before anybody has had their time")
		}
		r.grow()
	}
	if err := deliver(r, &change{}, late); err != nil {
		t.Errorf("no place after that: %v", err)
	}
	crowd(3 * maxStrangers)
	if r.strangers.number > maxStrangers || r.log(dead[0].Author) == nil || r.log(other[0].Author) != nil {
		t.Errorf("%d strangers; kept: %v, %v", r.strangers.number, r.log(dead[0].Author) != nil, r.log(other[0].Author) != nil)
	}
	r.rely(nil) // somebody else has taken its space over
	if r.strangers.number != maxStrangers+1 {
		t.Errorf("%d strangers", r.strangers.number)
	}
}

// Who has a place that another one needs more, gives it; whoever is only told of waits until others
// have had their time, and gossip's word is the least.
func TestWhoGoesForWhom(t *testing.T) {
	const bareYoung, bareOld, logYoung, logOld = 1, 2, 3, 4
	for _, c := range []struct {
		there []int
		w     word
		goes  int // 0: nobody
	}{
		{[]int{bareYoung, logYoung, logOld}, byGossip, 0},
		{[]int{bareYoung, bareOld, logYoung, logOld}, byGossip, bareOld},
		{[]int{logYoung}, byLog, 0},
		{[]int{logYoung, logOld}, byLog, logOld},
		{[]int{bareYoung, logYoung, logOld}, byLog, bareYoung},
		{[]int{bareYoung, bareOld, logYoung, logOld}, byLog, bareOld},
		{[]int{logYoung}, byItself, logYoung},
		{[]int{logYoung, logOld}, byItself, logOld},
		{[]int{bareYoung, logYoung, logOld}, byItself, bareYoung},
	} {
		r := newReplica()
		for _, young := range []bool{false, true} {
			for _, x := range c.there {
				switch {
				case young != (x == bareYoung || x == logYoung):
				case x == bareYoung || x == bareOld:
					_ = r.learn(someone(x))
				default:
					_ = deliver(r, &change{}, says(x, 1, 100, 0))
				}
			}
			if !young {
				r.strangers.age += strangerTurns
			}
		}
		got := 0
		if id, ok := r.yielding(c.w); ok {
			got = slices.IndexFunc([]int{0, 1, 2, 3, 4}, func(x int) bool { return peer.IDOf(someone(x)) == id })
		}
		if got != c.goes {
			t.Errorf("of %v %d goes for %d, want %d", c.there, got, c.w, c.goes)
		}
	}
}

// A restart forgets nobody, although it has met nobody: this host's disk held more than strangers
// have places when most of them were met.
func TestRestartKeepsAll(t *testing.T) {
	r := newReplica()
	r.strangers.restoring = true
	for i := range maxStrangers + 10 {
		if err := deliver(r, &change{}, says(i, 1, maxStrangerBytes/maxStrangers, 0)); err != nil {
			t.Fatal(i, err)
		}
	}
	r.strangers.restoring = false
	late := says(maxStrangers+10, 1, 100, 0)
	if err := deliver(r, &change{}, late); !errors.Is(err, errStranger) || len(r.authors) != maxStrangers+10 {
		t.Errorf("%d of %d are kept; one more: %v", len(r.authors), maxStrangers+10, err)
	}
}

// Addresses can be given away to hosts that are made up: those that are there have places
// beside them, and who was relied on first stays.
func TestReliedOnHaveABound(t *testing.T) {
	r := newReplica()
	var ids []peer.ID
	for i := range maxAuthors {
		ids = append(ids, peer.IDOf(someone(i)))
	}
	first := ids[len(ids)-1]
	r.rely(ids[len(ids)-1:])
	r.rely(ids)
	if n := len(r.strangers.relied); n != maxRelied || r.strangers.unmet(first) {
		t.Errorf("%d are relied on, the first of them: %v", n, !r.strangers.unmet(first))
	}
}

// While there is not room for all, strangers are not told on, and hosts that keep different
// ones have no difference.
func TestCrowdIsNotToldOn(t *testing.T) {
	a, b := newReplica(), newReplica()
	met := says(1, 2, 200, 0)
	for i, r := range []*replica{a, b} {
		_ = deliver(r, &change{}, met)
		r.meet(met[0].Author)
		for j := range maxStrangers + 1 {
			_ = deliver(r, &change{}, says(10_000*(i+1)+j, 1, 200, 0))
		}
	}
	if a.root() != b.root() {
		t.Error("different strangers make a difference")
	}
	if logs := a.missing(nil, peer.ID{}); len(logs) != 1 || logs[0][0].Author != met[0].Author {
		t.Errorf("%d logs are told", len(logs))
	}
	for range strangerTurns {
		a.grow()
	}
	if a.root() == b.root() {
		t.Error("later they do not count, either")
	}
	logs := a.missing(nil, peer.ID{})
	if len(logs) != maxStrangers+1 || logs[0][0].Author != met[0].Author {
		t.Errorf("%d logs are told later; who was met is first: %v", len(logs), logs[0][0].Author == met[0].Author)
	}
}

// Hosts that are made up and write as much as they may do not take the room of those that
// are there, nor that of strangers which write little: what goes first is not in effect,
// then the biggest logs.
func TestCrowdByBytes(t *testing.T) {
	const size = 1000
	r := newReplica()
	small, wasted := says(1, 50, size, 0), says(2, 4000, size, 10)
	stored := make(map[peer.ID]int) // as a disk would have it
	tells := func(ps []proven) error {
		ch := &change{}
		err := deliver(r, ch, ps)
		for _, e := range ch.put {
			stored[e.Author]++
		}
		for _, e := range ch.del {
			stored[e.Author]--
		}
		return err
	}
	if err := errors.Join(tells(small), tells(wasted)); err != nil {
		t.Fatal(err)
	}
	const fit = maxStrangerBytes / (4000 * size)
	for who := range fit {
		if err := tells(says(10+who, 4000, size, 0)); err != nil {
			t.Fatal(err)
		}
		if who == fit-1 {
			continue
		}
		if a := r.authors[wasted[0].Author]; a == nil || a.held == 0 {
			t.Fatalf("something was dropped with %d bytes", r.strangers.bytes)
		}
	}
	if a := r.authors[wasted[0].Author]; a == nil || a.held != 0 {
		t.Error("what is not in effect is still there")
	}
	for who := range fit {
		_ = tells(says(100+who, 4000, size, 0))
		if r.strangers.bytes > maxStrangerBytes {
			t.Fatalf("%d bytes of strangers are held", r.strangers.bytes)
		}
	}
	if err := r.makeRoom(&author{strange: true, held: 4000 * size}, maxStrangerBytes-r.strangers.bytes+1, &change{}); !errors.Is(err, errStranger) {
		t.Errorf("others go for the biggest: %v", err)
	}
	late := says(3, 60, size, 0)
	if err := tells(late); err != nil {
		t.Errorf("a stranger that writes little: %v", err)
	}
	there := says(4, 4000, size, 0)
	_ = r.learn(someone(4))
	r.meet(there[0].Author)
	if err := tells(there); err != nil {
		t.Errorf("a host that is there: %v", err)
	}
	for _, ps := range [][]proven{small, late, there} {
		if len(r.log(ps[0].Author)) != len(ps) {
			t.Errorf("%d of %d entries of a host are held", len(r.log(ps[0].Author)), len(ps))
		}
	}
	for id, n := range stored {
		held := 0
		if a := r.authors[id]; a != nil {
			held = a.held
		}
		if held != n*size {
			t.Errorf("%d bytes of a host are held, %d entries are on the disk", held, n)
		}
	}
	sum := 0
	for _, a := range r.authors {
		sum += a.held
	}
	if sum != r.held {
		t.Errorf("%d bytes are counted, %d are held", r.held, sum)
	}
}

// When all is full, strangers make room for those that are there.
func TestStrangersGoWhenAllIsFull(t *testing.T) {
	r := newReplica()
	if err := deliver(r, &change{}, says(1, 3, 200, 0)); err != nil {
		t.Fatal(err)
	}
	there := says(2, 2, 200, 0)
	_ = r.learn(someone(2))
	r.meet(there[0].Author)
	r.held += maxHeld - r.held - 100 // as if others had it
	if err := deliver(r, &change{}, there); err != nil || r.log(there[0].Author) == nil || r.log(peer.IDOf(someone(1))) != nil {
		t.Errorf("no room: %v", err)
	}
	if err := r.merge(says(3, 1, 200, 0)[0], true, &change{}); err != nil {
		t.Fatal(err)
	}
	more := says(2, 9, 200, 0)[2:]
	err := deliver(r, &change{}, more)
	if !errors.Is(err, errFull) {
		t.Errorf("beyond all bounds: %v", err)
	}
}

// Whoever offends, and however many do, the log stays readable, and those that are at it
// are not forgotten for those that were.
func TestRejectionsAreBounded(t *testing.T) {
	var r rejections
	now := time.Unix(1000, 0)
	lines := 0
	say := func(n int, reason string) {
		if _, _, log := r.add(offence{peer.ID{byte(n >> 8), byte(n), 1}, reason}, now); log {
			lines++
		}
	}
	for i := range 3000 {
		now = now.Add(time.Millisecond)
		say(i, "a")
	}
	if lines > lineBurst+1 || len(r.all) > maxOffenders {
		t.Errorf("%d lines in 3 s, %d rows", lines, len(r.all))
	}
	busy := offence{peer.ID{9, 9, 9}, "a"}
	for o, x := range r.all {
		delete(r.all, o) // its line is older than all others', its last offence is not
		x.logged, x.last = now.Add(-time.Hour), now
		r.all[busy] = x
		break
	}
	for o, x := range r.all {
		if o != busy {
			x.logged = now.Add(-time.Minute)
		}
	}
	say(3000, "a")
	if r.all[busy] == nil {
		t.Error("who is at it is forgotten for those that were")
	}
	lines = 0
	for i := range 3600 {
		now = now.Add(time.Second)
		say(i, "b")
	}
	if want := int(time.Hour / lineEvery); lines < want-1 || lines > want+1 {
		t.Errorf("%d lines an hour, want %d", lines, want)
	}
	now = now.Add(time.Hour)
	if _, unlogged, log := r.add(offence{reason: "c"}, now); !log || unlogged == 0 {
		t.Errorf("the next line tells of %d that were not: %v", unlogged, log)
	}
}

// A compressed stream is refused by its first bytes; what memberlist cannot read is held
// against who sent it, but not what the network has cut.
func TestStreamIsJudged(t *testing.T) {
	s := NewSecret()
	block, err := aes.NewCipher(s.GossipKey(0))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(msg []byte) []byte {
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		nonce := bytes.Repeat([]byte{7}, 12)
		b := []byte{sealedType, 0, 0, 0, byte(1 + 12 + len(msg) + 16), 1}
		return gcm.Seal(append(b, nonce...), nonce, msg, b[:5])
	}
	broken := sealed([]byte{6, 1, 2, 3}) // its first bytes tell its type, whatever the key
	broken[len(broken)-1] ^= 1
	for _, c := range []struct {
		name         string
		in           []byte
		reset        bool // the stream breaks off
		answer       []byte
		read, blamed error
	}{
		{name: "compressed", in: sealed([]byte{typeCompressed, 1, 2, 3}), read: errCompressed, blamed: errCompressed},
		{name: "compressed, and said so", in: sealed([]byte{typeCompressed, 1}), answer: sealed([]byte{typeRefused}), read: errCompressed, blamed: errCompressed},
		{name: "a state", in: sealed([]byte{6, 1, 2, 3}), answer: sealed([]byte{6, 1})},
		{name: "short", in: []byte{sealedType, 9, 9}},
		{name: "not readable", in: broken, answer: sealed([]byte{typeRefused, 1}), blamed: errUnread},
		{name: "cut off", in: sealed([]byte{6, 1, 2, 3}), reset: true, answer: sealed([]byte{typeRefused, 1}), read: io.ErrUnexpectedEOF},
		{name: "too long", in: make([]byte, maxStream+1), read: errStreamTooLong, blamed: errStreamTooLong},
	} {
		t.Run(c.name, func(t *testing.T) {
			var blamed []error
			conn := &script{in: c.in, reset: c.reset}
			x := &stream{Conn: conn, key: block, left: maxStream, free: func() {}, blame: func(err error) { blamed = append(blamed, err) }}
			got, err := 0, error(nil)
			for buf := make([]byte, 7000); err == nil && got < len(c.in); {
				var n int
				n, err = x.Read(buf[:min(len(buf), 1+got)]) // in small pieces at first
				got += n
			}
			if c.reset {
				_, err = x.Read(make([]byte, 1))
			}
			if !errors.Is(err, c.read) {
				t.Errorf("read: %v, want %v", err, c.read)
			}
			if c.answer != nil {
				if _, err := x.Write(c.answer); err != nil {
					t.Error(err)
				}
			}
			want := []error{c.blamed}
			if c.blamed == nil {
				want = nil
			}
			if !slices.Equal(blamed, want) {
				t.Errorf("held against its sender: %v, want %v", blamed, want)
			}
		})
	}
}

// script is a connection that brings what it is given.
type script struct {
	net.Conn
	in    []byte
	reset bool
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		if s.reset {
			return 0, io.ErrUnexpectedEOF
		}
		return 0, io.EOF
	}
	n := copy(b, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error) { return len(b), nil }
