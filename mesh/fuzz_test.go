package mesh

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

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
