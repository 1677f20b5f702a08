package mesh

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"weft/peer"
)

// host is another host as this one knows it.
type host struct {
	rec  Record
	raw  []byte // of rec
	left bool   // rec announces a stop
	past bool   // rec is from before this router started

	nodes   int  // of eachHostLocked, for a sign
	current bool // likewise

	met      bool           // a member of gossip since this router started
	gossip   bool           // gossip holds the start of rec alive
	vetted   uint64         // a boot nonce, not rec's, that was challenged and is a restart
	copied   uint64         // … and is a copy, since rec's start answered
	copiedAt netip.AddrPort // … there
	live     Liveness
	since    time.Time // of live
	doubted  time.Time // when it was asked last because gossip called it dead
	rtt      time.Duration
	pings    int           // measured since this router started
	shown    time.Duration // rtt in the newest State

	news     time.Time // when a fresher record came, if gossip has not got it since
	nextDial time.Time // of its join port, when it is not in gossip
	dialled  time.Time // first, since this router started
	dialling bool
}

// Extensions of a host record.
const (
	extLeft     uint8 = 1 // no value: the host announces its stop
	extJoinPort uint8 = 2 // u16: the TCP port of its join listener
	extDevice   uint8 = 3 // u64: see Options.Device
	extKeyProof uint8 = 4 // 64 bytes: see Record.ProvesKey
)

func (r Record) ext(t uint8) ([]byte, bool) {
	for _, x := range r.Ext {
		if x.Type == t {
			return x.Value, true
		}
	}
	return nil, false
}

// left tells that the record announces a stop.
func (r Record) left() bool {
	_, ok := r.ext(extLeft)
	return ok
}

// Device is what the host's Options.Device said; 0: nothing.
func (r Record) Device() uint64 {
	if b, ok := r.ext(extDevice); ok && len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// ProvesKey says that the host has signed its identity with the private half of
// WireGuard (peer.Identity.KeyProof). VerifyRecord refuses a proof that does not hold.
// Builds before the proof show none: anybody may have written their key there.
func (r Record) ProvesKey() bool {
	_, ok := r.ext(extKeyProof)
	return ok
}

// extensions are those of the own record, but for what SignRecord adds.
func (o *Options) extensions() []TLV {
	ts := []TLV{{extJoinPort, binary.BigEndian.AppendUint16(nil, uint16(o.Port))}}
	if d := o.Device(); d != 0 {
		ts = append(ts, TLV{extDevice, binary.BigEndian.AppendUint64(nil, d)})
	}
	return ts
}

// joinPort is where the host serves sessions; otherwise is used if it does not say.
func (r Record) joinPort(otherwise int) uint16 {
	if b, ok := r.ext(extJoinPort); ok && len(b) == 2 && binary.BigEndian.Uint16(b) != 0 {
		return binary.BigEndian.Uint16(b)
	}
	if len(r.Endpoints) > 0 {
		return r.Endpoints[0].Port()
	}
	return uint16(otherwise)
}

// fresher orders records of one host.
func fresher(a, b Record) bool {
	if a.Epoch != b.Epoch {
		return a.Epoch > b.Epoch
	}
	return a.Serial > b.Serial
}

// noteRecordLocked remembers a verified record of another host if it is the
// freshest; it reports whether it was news. w is whose word it is known by.
func (m *Mesh) noteRecordLocked(rec Record, raw []byte, w word) bool {
	id := rec.ID()
	if id == m.id {
		return false
	}
	h, known := m.hosts[id]
	if h == nil {
		if _, there := m.logs.authors[id]; !there && w == byItself {
			m.logs.meet(id)
		}
		ch := &change{}
		err := m.logs.place(rec.Identity, w, ch)
		m.storeLocked(ch)
		if err != nil {
			delete(m.logs.strangers.proven, id)
			m.count.add("host_over_quota")
			return false
		}
		h = &host{}
		if m.own.open && w != byItself {
			// Gossip tells of it at the same time; in a large mesh all would dial all.
			h.nextDial = time.Now().Add(rand.N(min(time.Duration(len(m.hosts)+1)*20*time.Millisecond, redialEvery)))
		}
		m.hosts[id] = h
	} else if !fresher(rec, h.rec) {
		return false
	}
	back := h.left
	h.rec, h.raw, h.left, h.past, h.news = rec, bytes.Clone(raw), rec.left(), m.logs.strangers.restoring, time.Now()
	switch {
	case h.left && !h.past:
		h.nextDial = h.news.Add(backoffMax)
	case back && !h.left:
		h.nextDial = time.Time{}
	}
	m.waitLocked(bucketMesh, remembered(id), h.raw, known)
	poke(m.look)
	return true
}

// verifyRecord is VerifyRecord without its price for a record that is known.
func (m *Mesh) verifyRecord(raw []byte) (Record, error) {
	if id, ok := recordID(raw); ok {
		m.mu.Lock()
		h := m.hosts[id]
		if h != nil && bytes.Equal(h.raw, raw) {
			rec := h.rec
			m.mu.Unlock()
			return rec, nil
		}
		m.mu.Unlock()
	}
	return VerifyRecord(raw, m.o.Secret)
}

// display is "nickname" with the ID, as far as it is known.
func display(id peer.ID, nickname string) string {
	if nickname == "" {
		return id.String()
	}
	return id.String() + "(" + nickname + ")"
}

// nameLocked displays any host.
func (m *Mesh) nameLocked(id peer.ID) string {
	if id == m.id {
		return display(id, m.o.Nickname)
	}
	if h := m.hosts[id]; h != nil {
		return display(id, h.rec.Nickname)
	}
	return id.String()
}
