package mesh

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// A host of a later release that still speaks today's protocol is a member like any
// other; what it writes that this release does not know is kept and handed on as it
// is. One that has dropped today's protocol is refused by gossip; TestVersions has the join.
func TestFutureRelease(t *testing.T) {
	secret := NewSecret()
	m := quietMesh(t, secret)
	d := &delegate{m}
	alive := func(lo, hi uint8) error {
		id := newIdentity(t)
		rec := Record{BootNonce: 9, Epoch: 1<<32 | 1, Serial: 1, ProtoMin: lo, ProtoMax: hi, Ext: []TLV{{200, []byte("later")}}}
		raw, err := SignRecord(id, secret, rec)
		if err != nil {
			t.Fatal(err)
		}
		rec, err = ParseRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		a := m.controlAddr(id.ID())
		return d.NotifyAlive(&memberlist.Node{Name: rec.Name(), Addr: net.IP(a.AsSlice()), Port: DefaultGossipPort, Meta: raw})
	}
	if err := alive(protoMin, protoMax+5); err != nil {
		t.Errorf("a release that speaks more: %v", err)
	}
	if err := alive(protoMax+1, protoMax+5); err == nil || !strings.Contains(err.Error(), "speaks protocol") {
		t.Errorf("a release that has left today's protocol behind: %v", err)
	}
}

func TestFutureEntriesTravel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found()
		b.join(a)
		w.within(5*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		es, err := b.mesh.Append(Draft{Kind(900), []byte{99, 1, 2, 3}}, Draft{KindName, []byte{99, 0xff}})
		if err != nil {
			t.Fatal(err)
		}
		w.within(5*time.Second, "at host1", func() bool { return oneMesh(a, b) })
		b.crash()
		c.join(a) // learns them from a host that knows as little of them
		w.within(20*time.Second, "at host3", func() bool { return len(c.mesh.State().Logs[b.id.ID()]) == 4 })
		for i, e := range c.mesh.State().Logs[b.id.ID()][2:] {
			if !bytes.Equal(e.Raw(), es[i].Raw()) {
				t.Errorf("entry %d has changed on its way", i)
			}
		}
	})
}

// FuzzParseNodeName reads what members call themselves in gossip.
func FuzzParseNodeName(f *testing.F) {
	f.Add("aaaaaaaaaaaaaaaa/0000000000000001")
	f.Add("/")
	f.Add("aaaaaaaaaaaaaaaa/ffffffffffffffff")
	f.Add("aaaaaaaaaaaaaaaa/+fffffffffffffff")
	f.Fuzz(func(t *testing.T, s string) {
		id, nonce, ok := parseName(s)
		if ok && nodeName(id, nonce) != s {
			t.Errorf("%q is read as %s", s, nodeName(id, nonce))
		}
	})
}

// Datagrams of a kind that only a later release knows are no offence.
func TestUnknownDatagramsAreIgnored(t *testing.T) {
	m := quietMesh(t, NewSecret())
	from := m.controlAddr(newIdentity(t).ID())
	const n = senderBurst / 2
	for range n {
		m.receive(from, []byte{gossipMagic, gossipRoot + 1, 1, 2, 3})
	}
	if got := m.Rejections(); len(got) > 0 || len(m.inbox) > 0 {
		t.Errorf("rejected %v, %d in the inbox", got, len(m.inbox))
	}
	if !m.senders.allow(from, time.Now()) || m.Counters()["gossip_unknown_kind"] != n {
		t.Errorf("the sender is not heard any more; counters %v", m.Counters())
	}
}
