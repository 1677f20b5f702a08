package mesh

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/peer"
)

func FuzzParseDigest(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendDigest(nil, []mark{{author: peer.ID{1}, epoch: 2, seq: 3, sum: [8]byte{4}, next: 5, nextCount: 6}, {author: peer.ID{2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := parseDigest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(appendDigest(nil, ms), b) {
			t.Error("does not come out as it went in")
		}
		r := newReplica()
		r.missing(ms, peer.ID{})
	})
}

// FuzzGossip feeds datagrams to the inbox: nothing is taken, nothing breaks.
func FuzzGossip(f *testing.F) {
	secret := NewSecret()
	m := quietMesh(f, secret)
	s := newScribe(f, secret)
	for _, p := range s.epoch(f, 5, 2, 1) {
		f.Add(AppendEntries([]byte{gossipMagic, gossipDirect}, p.Entry))
	}
	other := newScribe(f, NewSecret())
	f.Add(append([]byte{gossipMagic, gossipRoot}, make([]byte, 32)...))
	f.Add(AppendEntries([]byte{gossipMagic, gossipRelay}, other.epoch(f, 5, 1, 0)[0].Entry))
	f.Fuzz(func(t *testing.T, b []byte) {
		m.senders = newSourceLimits(senderBurst, senderRate)
		m.receive(m.controlAddr(s.id.ID()), b)
		select {
		case l := <-m.inbox:
			m.read(l)
		default:
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for id, a := range m.logs.authors {
			if id != m.id && id != s.id.ID() {
				t.Fatalf("%v was taken, with key %x", id, a.key)
			}
		}
	})
}

// FuzzServe sends messages to the server of an authenticated session: it ends,
// whatever they are.
func FuzzServe(f *testing.F) {
	secret := NewSecret()
	m := quietMesh(f, secret)
	client := newIdentity(f)
	raw, err := SignRecord(client, secret, Record{BootNonce: 1, Epoch: 1, ProtoMin: 1, ProtoMax: 1})
	if err != nil {
		f.Fatal(err)
	}
	msgs := func(bs ...[]byte) []byte { // length u8 each
		var out []byte
		for _, b := range bs {
			out = append(append(out, uint8(len(b))), b...)
		}
		return out
	}
	root := append([]byte{byte(msgRoot)}, make([]byte, 32)...)
	f.Add(uint8(purposeSync), msgs(Refusal{}.encode(), root, []byte{byte(msgDigest)}, []byte{byte(msgDone)}))
	f.Add(uint8(purposeJoin), msgs(Refusal{}.encode(), root, append([]byte{byte(msgDigest)}, appendDigest(nil, []mark{{author: peer.ID{1}, epoch: 1}})...), []byte{byte(msgEntries), 0, 1, 1}))
	f.Add(uint8(purposeCall), msgs(Refusal{}.encode(), []byte{byte(msgCall), 1, 'x', 'y'}))
	f.Add(uint8(purposeProbe), []byte{})
	f.Add(uint8(9), msgs(Refusal{Code: RefusedBusy, Text: "no"}.encode()))
	f.Fuzz(func(t *testing.T, p uint8, b []byte) {
		a, z := net.Pipe()
		m.senders = newSourceLimits(senderBurst, senderRate)
		served := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go func() {
			m.handle(ctx, tunnelled{z, netip.AddrPortFrom(m.controlAddr(client.ID()), 4711)})
			close(served)
		}()
		s, err := Client(ctx, a, client, secret)
		if err != nil {
			t.Fatal(err)
		}
		go func() { // what the server says
			for {
				if _, err := s.ReadMsg(maxMsg); err != nil {
					return
				}
			}
		}()
		h, err := hello{Proto: 1, Purpose: purpose(p), Record: raw}.encode()
		if err != nil {
			t.Fatal(err)
		}
		err = s.WriteMsg(h)
		for len(b) > 0 && err == nil {
			n := min(int(b[0]), len(b)-1)
			err = s.WriteMsg(slices.Clone(b[1 : 1+n]))
			b = b[1+n:]
		}
		_ = s.Close()
		<-served
	})
}

// tunnelled is a connection that comes through the tunnel.
type tunnelled struct {
	net.Conn
	from netip.AddrPort
}

func (c tunnelled) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

// quietMesh is a Mesh that does not run.
func quietMesh(t testing.TB, s Secret) *Mesh {
	t.Helper()
	m := unopened(t, s, newIdentity(t), "")
	if err := m.openEpoch(); err != nil {
		t.Fatal(err)
	}
	return m
}

// unopened is a Mesh that does not run, with no epoch of its own yet. Its Tunnel is a box.
func unopened(t testing.TB, s Secret, id *peer.Identity, nickname string) *Mesh {
	t.Helper()
	w := &world{secret: s}
	m, err := New(Options{
		Identity: id, Secret: s, Nickname: nickname, Store: newDisk(), Tunnel: &box{w: w, secret: s, peers: make(map[netip.Addr]bool)},
		Endpoints: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// dialsTo is a Network on which every dial gives one connection.
type dialsTo struct {
	Network // not there
	conn    net.Conn
}

func (d dialsTo) Dial(context.Context, netip.AddrPort) (net.Conn, error) { return d.conn, nil }
