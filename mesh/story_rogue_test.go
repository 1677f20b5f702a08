package mesh

import (
	"bytes"
	"compress/lzw"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"weft/peer"
)

// rogue is a member with a valid secret and a tunnel to everybody, whose program is
// not weft's: it says whatever it likes.
type rogue struct {
	*box
	t  *testing.T
	pc net.PacketConn
}

// newRogue lets a host join as others do, and then speaks in its place.
func newRogue(t *testing.T, w *world, contact *box) *rogue {
	b := w.box("rogue")
	b.join(contact)
	w.within(10*time.Second, "the rogue a member", func() bool { return contact.sees(b) == Alive })
	pc, err := b.host.ListenPacket(t.Context(), netip.AddrPortFrom(b.control(), 9999))
	if err != nil {
		t.Fatal(err)
	}
	return &rogue{b, t, pc}
}

func (r *rogue) say(to *box, b []byte) {
	_, _ = r.pc.WriteTo(b, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.control(), DefaultGossipPort)))
}

func (r *rogue) entry(e Entry) Entry {
	r.t.Helper()
	e, err := SignEntry(r.id, r.secret.MeshID(), e)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// forge makes an entry in another's name: all is right but the signature.
func (r *rogue) forge(victim *box, e Entry) Entry {
	r.t.Helper()
	raw := bytes.Clone(r.entry(e).raw)
	id := victim.id.ID()
	copy(raw[1:], id[:])
	out, err := ParseEntry(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// seal wraps a message of memberlist's as its protocol does; see its security.go.
func (r *rogue) seal(msg, aad []byte) []byte {
	block, err := aes.NewCipher(r.secret.GossipKey(0))
	if err != nil {
		r.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		r.t.Fatal(err)
	}
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return gcm.Seal(append([]byte{1}, nonce...), nonce, msg, aad)
}

// dead is memberlist's message 5 in msgpack: a node has failed.
func dead(node, from string, incarnation uint32) []byte {
	str := func(b []byte, s string) []byte { return append(append(b, 0xd9, byte(len(s))), s...) }
	b := str([]byte{5, 0x83}, "Incarnation")
	b = binary.BigEndian.AppendUint32(append(b, 0xce), incarnation)
	return str(str(str(str(b, "Node"), node), "From"), from)
}

// bomb is memberlist's message 9: one that is packed.
func bomb(size int) []byte {
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	_, _ = w.Write(make([]byte, size))
	_ = w.Close()
	b := append([]byte{9, 0x82, 0xd9, 4}, "Algo"...)
	b = append(b, 0, 0xd9, 3)
	b = append(b, "Buf"...)
	b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(packed.Len()))
	return append(b, packed.Bytes()...)
}

// rejections of the rogue, by reason.
func (b *box) rejected(r *rogue) map[string]uint64 {
	out := map[string]uint64{}
	for _, x := range b.mesh.Rejections() {
		if x.Peer == r.id.ID() {
			out[x.Reason] += x.Count
		}
	}
	return out
}

// Whatever a member says about others, nothing of it is taken, it is named, and the
// others go on.
func TestRogueMember(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		c.join(a)
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(a, b, c) })
		r := newRogue(t, w, a)
		w.within(10*time.Second, "four hosts", func() bool { return oneMesh(a, b, c, r.box) })
		a.append("web")
		w.within(5*time.Second, "a name", func() bool { return len(b.names(a)) == 1 && len(c.names(a)) == 1 })
		logOf := func(x *box) []Entry { return x.mesh.State().Logs[a.id.ID()] }
		before, root := len(logOf(b)), a.root()
		epoch := logOf(b)[0].Epoch
		next := uint64(before + 1)
		datagram := func(es ...Entry) []byte { return AppendEntries([]byte{gossipMagic, gossipDirect}, es...) }
		unharmed := func(what string) {
			t.Helper()
			time.Sleep(time.Second)
			for _, x := range []*box{a, b, c} {
				if x.root() != root || len(logOf(x)) != before || x.sees(a) != Alive || x.sees(b) != Alive || x.sees(c) != Alive {
					t.Fatalf("%s: harm was done to %s\n%s", what, x.name, w.picture())
				}
			}
		}

		forged := []Entry{
			r.forge(a, Entry{Epoch: epoch, Seq: next, Kind: KindName, Payload: []byte("evil")}),
			r.forge(a, Entry{Epoch: epoch, Seq: next, Kind: KindDepart}),
			r.forge(a, Entry{Epoch: epoch + 1<<32, Seq: 1, Kind: KindBegin, Payload: logOf(b)[0].Payload}),
		}
		r.say(b, datagram(forged...))
		unharmed("forging")
		if n := b.rejected(r)[reasonInvalid]; n != 3 {
			t.Errorf("%d forged entries are counted: %v", n, b.mesh.Rejections())
		}

		r.say(b, datagram(logOf(b)...))
		r.say(b, datagram(logOf(b)[:1]...))
		unharmed("replaying")

		// In an exchange, too, where it is asked for what is missing.
		if err := r.exchange(b, nil, forged); err == nil {
			t.Error("an exchange of lies comes to its end")
		}
		unharmed("lying in an exchange")
		if n := b.rejected(r)[reasonInvalid]; n != 4 { // the first one ends it
			t.Errorf("%d forged entries are counted after an exchange", n)
		}

		own := r.mesh.State().Logs[r.id.ID()][0].Epoch
		r.say(b, datagram(r.entry(Entry{Epoch: own, Seq: 1 << 40, Kind: KindName})))
		r.say(b, append([]byte{gossipMagic, gossipDirect, 0xff, 0xff}, make([]byte, 900)...)) // an entry of 65,535 bytes
		r.say(b, []byte{gossipMagic, gossipRoot, 1})
		unharmed("malformed and far")
		if got := b.rejected(r); got[reasonQuota] != 1 || got[reasonMalformed] != 2 {
			t.Errorf("rejected: %v", got)
		}

		r.say(b, r.seal(bomb(1<<20), nil))
		packed := bomb(30 << 20)
		header := binary.BigEndian.AppendUint32([]byte{10}, uint32(1+12+len(packed)+16))
		r.dialGossip(b, append(header, r.seal(packed, header)...))
		unharmed("bombs")
		r.dialGossip(b, append(header, make([]byte, len(packed)+29)...)) // not sealed with the mesh's key
		unharmed("noise")
		if got := b.rejected(r); got[reasonMalformed] != 4 {
			t.Errorf("the member is not named for its streams: %v", got)
		}

		// It cannot kill: "dead" is said ten times a second, and a is there.
		name := a.mesh.own.rec.Name()
		for i := range 100 {
			for _, x := range []*box{b, c} {
				r.say(x, r.seal(dead(name, r.mesh.own.rec.Name(), uint32(1000+i)), nil))
			}
			for range 5 {
				time.Sleep(20 * time.Millisecond)
				if b.sees(a) != Alive || c.sees(a) != Alive {
					t.Fatalf("killed by gossip after %d tries\n%s", i, w.picture())
				}
			}
		}
		w.within(30*time.Second, "one mesh again", func() bool { return oneMesh(a, b, c, r.box) })
		root = a.root()
		unharmed("killing")

		// A flood leaves the others heard.
		flood := func(b *box, what []byte) {
			for i := range 5 * senderBurst {
				if r.say(b, what); i%100 == 99 {
					time.Sleep(time.Millisecond) // or the socket's queue would drop most of them
				}
			}
		}
		flood(b, datagram(forged[0]))
		c.append("through")
		w.within(2*time.Second, "a name beside the flood", func() bool { return len(b.names(c)) == 1 })
		if b.rejected(r)[reasonFlood] == 0 {
			t.Errorf("the flood is not counted: %v", b.rejected(r))
		}

		// So does one of memberlist's datagrams.
		floods := b.rejected(r)[reasonFlood]
		flood(b, r.seal(dead("nobody", "nobody", 1), nil))
		c.append("through again")
		w.within(2*time.Second, "a name beside the flood", func() bool { return len(b.names(c)) == 2 })
		if b.rejected(r)[reasonFlood] == floods {
			t.Errorf("a flood of memberlist's datagrams is not counted: %v", b.rejected(r))
		}

		// Two truths: whoever sees both, names it. Its own router would mend that with a new epoch.
		r.quit()
		seq := uint64(len(r.mesh.State().Logs[r.id.ID()]) + 1)
		time.Sleep(10 * time.Second) // the flood has used up what it may send
		r.say(a, datagram(r.entry(Entry{Epoch: own, Seq: seq, Kind: KindName, Payload: []byte("one")})))
		r.say(c, datagram(r.entry(Entry{Epoch: own, Seq: seq, Kind: KindName, Payload: []byte("two")})))
		w.within(10*time.Second, "the fork named", func() bool { return a.rejected(r)[reasonFork]+c.rejected(r)[reasonFork] > 0 })
	})
}

// A member may write what it likes into its own log, as far as it fits: the last epoch that there is, and entries as
// large as they may be. The others keep that, and stay well.
func TestRogueWritesExtremes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		bs := w.meet(3)
		a, b, c := bs[0], bs[1], bs[2]
		r := newRogue(t, w, a)
		w.within(10*time.Second, "four hosts", func() bool { return oneMesh(append(bs, r.box)...) })
		r.quit() // its own router would not stand it
		begin := NewBegin(r.id, w.secret, 0, 1, 3)
		payload, err := begin.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		last := []Entry{{Epoch: math.MaxUint64, Seq: 1, Kind: KindBegin, Payload: payload}}
		for len(last) < 3 {
			last = append(last, Entry{Epoch: math.MaxUint64, Seq: uint64(len(last) + 1), Kind: KindName, Payload: bytes.Repeat([]byte("\xff\x00."), maxPayload/3)})
		}
		for i := range last {
			last[i] = r.entry(last[i])
			r.say(b, AppendEntries([]byte{gossipMagic, gossipRelay}, last[i]))
		}
		if _, err := SignEntry(r.id, w.secret.MeshID(), Entry{Epoch: 1, Seq: 1, Kind: KindName, Payload: make([]byte, maxPayload+1)}); err == nil {
			t.Error("an entry may be larger than the largest")
		}
		end := func(x *box) uint64 {
			es := x.mesh.State().Logs[r.id.ID()]
			return es[len(es)-1].Epoch
		}
		w.within(30*time.Second, "the last epoch everywhere", func() bool { return end(a) == math.MaxUint64 && end(b) == end(a) && end(c) == end(a) })
		a.append("web")
		w.within(5*time.Second, "a name", func() bool { return len(b.names(a)) == 1 && len(c.names(a)) == 1 })
		for _, x := range bs {
			x.quit()
			x.launch()
		}
		w.within(60*time.Second, "all three again", func() bool {
			return a.sees(b) == Alive && b.sees(c) == Alive && c.sees(a) == Alive && a.root() == b.root() && b.root() == c.root() && end(a) == math.MaxUint64
		})
	})
}

// exchange opens a sync session with a host, shows it a digest, and claims to have
// news of others.
func (r *rogue) exchange(to *box, digest []mark, es []Entry) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	l, err := r.mesh.open(ctx, purposeSync, to.id.ID(), netip.AddrPortFrom(to.control(), DefaultPort))
	if err != nil {
		return err
	}
	defer l.close()
	root := make([]byte, 32)
	if err := l.write(msgRoot, root); err != nil {
		return err
	}
	if _, _, err := l.read(33, msgRoot); err != nil {
		return err
	}
	if err := l.write(msgDigest, appendDigest(nil, digest)); err != nil {
		return err
	}
	if _, _, err := l.read(1+maxAuthors*markLen, msgDigest); err != nil {
		return err
	}
	for {
		t, _, err := l.read(1+maxChunk, msgEntries, msgDone)
		if err != nil {
			return err
		}
		if t == msgDone {
			break
		}
	}
	for len(es) > 0 {
		n := min(len(es), 500) // no more than a message may have
		if err := l.write(msgEntries, AppendEntries(nil, es[:n]...)); err != nil {
			return err
		}
		es = es[n:]
	}
	if err := l.write(msgDone, nil); err != nil {
		return err
	}
	if _, _, err := l.read(1+maxRefusal, msgReady); err != nil {
		return fmt.Errorf("the exchange was not ended in order: %w", err)
	}
	return nil
}

func (r *rogue) dialGossip(to *box, b []byte) {
	conn, err := r.host.Dial(r.t.Context(), netip.AddrPortFrom(to.control(), DefaultGossipPort))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = conn.Write(b)
	_, _ = conn.Read(make([]byte, 1))
}

// A member cannot have others blamed, or unheard, for what it says of them.
func TestRogueBlamesOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found()
		b.join(a)
		w.within(10*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		r := newRogue(t, w, a)
		w.within(10*time.Second, "three hosts", func() bool { return oneMesh(a, b, r.box) })
		b.mesh.mu.Lock()
		lie := b.mesh.logs.digest()
		b.mesh.mu.Unlock()
		for i := range lie {
			lie[i].sum[0] ^= 1
		}
		for range 150 {
			_ = r.exchange(b, lie, nil)
		}
		mine := a.mesh.State().Logs[a.id.ID()]
		for range 300 { // what a has signed, again and again
			r.say(b, AppendEntries([]byte{gossipMagic, gossipDirect}, mine...))
		}
		for _, x := range b.mesh.Rejections() {
			if x.Peer != r.id.ID() && x.Peer != (peer.ID{}) {
				t.Errorf("%v is blamed: %+v", x.Peer, x)
			}
		}
		a.append("still heard")
		w.within(time.Second, "a name", func() bool { return len(b.names(a)) == 1 })

		// A stream of old and useless entries ends.
		var old []Entry
		for len(old) < 3*maxUseless {
			old = append(old, mine...)
		}
		if err := r.exchange(b, nil, old); err == nil {
			t.Error("an endless exchange is taken to its end")
		}
		if b.rejected(r)[reasonFlood] == 0 {
			t.Errorf("nobody is named for it: %v", b.rejected(r))
		}
	})
}

// What one member holds open leaves room for the others.
func TestOneMemberDoesNotTakeAllSessions(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		a.found(func(o *Options) { o.ConnLimit = 8 })
		b.join(a)
		w.within(10*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		r := newRogue(t, w, a)
		for range 20 {
			conn, err := r.host.Dial(t.Context(), netip.AddrPortFrom(a.control(), DefaultPort))
			if err == nil {
				defer conn.Close()
			}
		}
		time.Sleep(time.Second)
		if _, err := b.mesh.Call(t.Context(), a.id.ID(), "say", []byte("x")); err != nil {
			t.Errorf("another member is kept out: %v", err)
		}
		if n := a.mesh.Stats().Locals; n == 0 || n > 2 {
			t.Errorf("%d sessions are held", n)
		}
	})
}

// idAt reads what peer.ControlAddr wrote.
func TestIDAt(t *testing.T) {
	id := newIdentity(t).ID()
	if got := idAt(peer.ControlAddr([5]byte{1, 2, 3, 4, 5}, id)); got != id {
		t.Errorf("%v, want %v", got, id)
	}
}
