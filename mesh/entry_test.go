package mesh

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"weft/peer"
)

func wireEntry(t testing.TB, id *peer.Identity, e Entry) Entry {
	t.Helper()
	e, err := SignEntry(id, wireSecret(t).MeshID(), e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEntry(t *testing.T) {
	id, mesh := wireIdentity(t), wireSecret(t).MeshID()
	for _, in := range []Entry{
		{Epoch: 1, Seq: 1, Kind: KindBegin, Payload: []byte("anything")},
		{Epoch: 5, Seq: 2, SecretEpoch: 9, Kind: KindName, Payload: []byte("a name")},
		{Epoch: 1 << 63, Seq: 1 << 62, Kind: 60000},
		{Epoch: 5, Seq: 3, Kind: KindGrant, Payload: make([]byte, maxPayload)},
	} {
		e := wireEntry(t, id, in)
		if e.Author != id.ID() || len(e.Raw()) > maxEntry {
			t.Errorf("author %v, %d bytes", e.Author, len(e.Raw()))
		}
		b := bytes.Clone(e.Raw())
		got, err := ParseEntry(b)
		clear(b) // ParseEntry copies
		if err != nil || !bytes.Equal(got.Raw(), e.Raw()) || got.Kind != in.Kind || !bytes.Equal(got.Payload, in.Payload) ||
			got.Epoch != in.Epoch || got.Seq != in.Seq || got.SecretEpoch != in.SecretEpoch || got.Author != id.ID() {
			t.Errorf("%+v came back as %+v, %v", in, got, err)
		}
		if err := got.Verify(id.Public(), mesh); err != nil {
			t.Error(err)
		}
		if err := got.Verify(id.Public(), NewSecret().MeshID()); err == nil {
			t.Error("entry of another mesh verified")
		}
		if err := got.Verify(wireIdentity(t).Public(), mesh); err == nil {
			t.Error("entry verified with another's key")
		}
		if err := got.Verify(nil, mesh); err == nil {
			t.Error("entry verified with no key")
		}
	}
	if err := (Entry{}).Verify(id.Public(), mesh); err == nil {
		t.Error("empty entry verified")
	}
}

func TestEntryDamaged(t *testing.T) {
	id, mesh := wireIdentity(t), wireSecret(t).MeshID()
	raw := wireEntry(t, id, Entry{Epoch: 5, Seq: 2, Kind: KindName, Payload: []byte("a name")}).Raw()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if e, err := ParseEntry(bad); err == nil && e.Verify(id.Public(), mesh) == nil {
			t.Errorf("changed byte %d not noticed", i)
		}
		if _, err := ParseEntry(raw[:i]); err == nil {
			t.Errorf("cut to %d bytes not noticed", i)
		}
	}
	if _, err := ParseEntry(append(bytes.Clone(raw), 0)); err == nil {
		t.Error("a byte too many not noticed")
	}
	for want, e := range map[string]Entry{
		"begin at 1":       {Epoch: 5, Kind: KindName},
		"begin at 1 ":      {Seq: 5, Kind: KindName},
		"no kind":          {Epoch: 5, Seq: 2},
		"more than 900":    {Epoch: 5, Seq: 2, Kind: KindName, Payload: make([]byte, 901)},
		"begins with its":  {Epoch: 5, Seq: 1, Kind: KindName},
		"begins with its ": {Epoch: 5, Seq: 2, Kind: KindBegin},
	} {
		if _, err := SignEntry(id, mesh, e); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%+v: %v, want %q", e, err, want)
		}
	}
}

func TestEntryStream(t *testing.T) {
	id := wireIdentity(t)
	es := []Entry{
		wireEntry(t, id, Entry{Epoch: 5, Seq: 2, Kind: KindName, Payload: []byte("a")}),
		wireEntry(t, id, Entry{Epoch: 5, Seq: 3, Kind: 999}),
	}
	b := AppendEntries(nil, es...)
	got, err := SplitEntries(b)
	if err != nil || len(got) != 2 || !bytes.Equal(got[1].Raw(), es[1].Raw()) {
		t.Errorf("stream came back as %d entries, %v", len(got), err)
	}
	if got, err := SplitEntries(nil); err != nil || got != nil {
		t.Errorf("empty stream: %v, %v", got, err)
	}
	if got, err := SplitEntries(b[:len(b)-1]); err == nil || len(got) != 1 {
		t.Errorf("cut stream: %d entries, %v", len(got), err)
	}
	if _, err := SplitEntries(make([]byte, maxMsg+1)); err == nil {
		t.Error("endless stream taken")
	}
}

func TestBegin(t *testing.T) {
	s, id := wireSecret(t), wireIdentity(t)
	begin := func(g Begin, kind Kind, secretEpoch uint32) Entry {
		t.Helper()
		b, err := g.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		seq := uint64(1)
		if kind != KindBegin {
			seq = 2
		}
		return wireEntry(t, id, Entry{Epoch: 3, Seq: seq, SecretEpoch: secretEpoch, Kind: kind, Payload: b})
	}
	g := NewBegin(id, s, 4, 77, 12)
	g.Ext = []TLV{{Type: 9, Value: []byte("later")}}
	got, err := VerifyBegin(begin(g, KindBegin, 4), s)
	if err != nil || !reflect.DeepEqual(got, g) {
		t.Errorf("came back as %+v, %v", got, err)
	}

	stranger := NewBegin(id, NewSecret(), 4, 77, 12) // never was given the secret
	other := NewBegin(wireIdentity(t), s, 4, 77, 12) // admitted, but not the author
	for name, e := range map[string]Entry{
		"another kind":          begin(g, KindName, 4),
		"another secret epoch":  begin(g, KindBegin, 5),
		"not admitted":          begin(stranger, KindBegin, 4),
		"identity of another":   begin(other, KindBegin, 4),
		"payload without sense": wireEntry(t, id, Entry{Epoch: 3, Seq: 1, Kind: KindBegin, Payload: []byte("x")}),
	} {
		if _, err := VerifyBegin(e, s); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	for _, g := range []Begin{{}, {Identity: id.Public()}, {Snapshot: 1}} {
		if _, err := g.MarshalBinary(); err == nil {
			t.Errorf("%+v was encoded", g)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	id := wireIdentity(f)
	f.Add(wireEntry(f, id, Entry{Epoch: 5, Seq: 2, Kind: KindName, Payload: []byte("a")}).Raw())
	pub, mesh := id.Public(), wireSecret(f).MeshID()
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := ParseEntry(in)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Raw(), in) {
			t.Error("raw is not what came in")
		}
		e.Verify(pub, mesh)
		VerifyBegin(e, wireSecret(t))
		if es, err := SplitEntries(AppendEntries(nil, e, e)); err != nil || len(es) != 2 {
			t.Errorf("stream of a parsed entry: %d, %v", len(es), err)
		}
	})
}

func FuzzSplitEntries(f *testing.F) {
	id := wireIdentity(f)
	e := wireEntry(f, id, Entry{Epoch: 5, Seq: 2, Kind: KindName, Payload: []byte("a")})
	f.Add(AppendEntries(nil, e, e))
	f.Fuzz(func(t *testing.T, in []byte) {
		es, err := SplitEntries(in)
		out := AppendEntries(nil, es...)
		if !bytes.HasPrefix(in, out) || err == nil && len(out) != len(in) {
			t.Errorf("%x is encoded to %x", in, out)
		}
	})
}

func FuzzParseBegin(f *testing.F) {
	g := NewBegin(wireIdentity(f), wireSecret(f), 0, 1, 2)
	g.Ext = []TLV{{Type: 9, Value: []byte("later")}}
	b, _ := g.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		g, err := ParseBegin(in)
		if err != nil {
			return
		}
		if out, err := g.MarshalBinary(); err != nil || !bytes.Equal(out, in) {
			t.Errorf("%x is encoded to %x, %v", in, out, err)
		}
	})
}
