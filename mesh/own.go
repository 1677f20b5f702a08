package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Draft is an entry to be: Append numbers, signs and stores it.
type Draft struct {
	Kind    Kind
	Payload []byte // at most 900 bytes; not to be changed afterwards
}

// key is the same for drafts that say the same.
func (d Draft) key() string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(d.Kind))) + string(d.Payload)
}

// ErrLogFull says that this host has written more than the others would keep, or than
// its next epoch could open with. It may be for a moment only, until that is open.
var ErrLogFull = errors.New("this host's log is full")

// ownLog is this host's own log and record. The entries are in Mesh.logs.
//
// An epoch's number is the count of epochs opened, 32 bits, and 32 random bits.
// A host whose disk was lost or put back counts from a lower number and cannot
// write an (epoch, sequence) again that it has written before with other content.
type ownLog struct {
	open    bool // an epoch of this start is open
	boots   uint64
	at      time.Time // when that epoch was opened
	cramped bool      // an Append has found no room in it
	epoch   uint64
	rec     Record
	raw     []byte // of rec
}

// rollAfter is how many entries may follow a snapshot, beyond its own size,
// before a new one is made.
const rollAfter = 512

// Append writes to this host's own log: the entries are on disk before anything
// is sent, and then go straight to all live hosts. All of them are taken, or none.
func (m *Mesh) Append(ds ...Draft) ([]Entry, error) {
	for _, d := range ds {
		if d.Kind == KindBegin || d.Kind == KindHost {
			return nil, fmt.Errorf("append to log: kind %d is the mesh's own", d.Kind)
		}
	}
	return m.tell(m.appendLocking(ds, nil, true))
}

// Withdraw is Append for names and claims that take back others. The next epoch has
// neither, so they need no room there: a log that is full takes them.
func (m *Mesh) Withdraw(ds ...Draft) ([]Entry, error) {
	for _, d := range ds {
		if !optional(d.Kind) {
			return nil, fmt.Errorf("withdraw: an entry of kind %d takes nothing back", d.Kind)
		}
	}
	return m.tell(m.appendLocking(ds, nil, false))
}

// changeRecord writes the own record as edit changes it.
func (m *Mesh) changeRecord(edit func(*Record)) error {
	_, err := m.tell(m.appendLocking(nil, edit, true))
	return err
}

// tell tells the others of what was written.
func (m *Mesh) tell(es []Entry, err error) ([]Entry, error) {
	if err == nil {
		m.broadcast(es)
		m.o.OnChange()
	}
	return es, err
}

// appendLocking writes drafts and, if edit is not nil, the own record as edit changes it.
// lasting says that the next epoch is to have them, too.
func (m *Mesh) appendLocking(ds []Draft, edit func(*Record), lasting bool) ([]Entry, error) {
	if slices.ContainsFunc(ds, func(d Draft) bool { return d.Kind == KindTaken }) {
		return nil, errors.New("append to log: only a new epoch says what it takes")
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	open, stale := m.own.open, m.continuedLocked()
	m.mu.Unlock()
	if stale && m.mendWait(time.Now()) > 0 {
		return nil, fmt.Errorf("append to log: %w", errTwin)
	}
	if !open || stale {
		if err := m.openEpochWriting(nil, false, nil, nil); err != nil {
			return nil, fmt.Errorf("append to log: %w", err)
		}
	}
	var raw []byte
	if edit != nil {
		m.mu.Lock()
		rec := m.own.rec
		m.mu.Unlock()
		rec.Serial++
		edit(&rec)
		var err error
		if raw, err = SignRecord(m.o.Identity, m.o.Secret, rec); err != nil {
			return nil, fmt.Errorf("append to log: %w", err)
		}
		ds = append(slices.Clone(ds), Draft{KindHost, raw})
	}
	m.mu.Lock()
	cur, at := m.logs.authors[m.id].current, m.own.at
	before := cur.entries[:len(cur.entries):len(cur.entries)]
	seq, size, number, opened := uint64(len(cur.entries)), cur.bytes, cur.number, int(cur.snapshot)
	m.mu.Unlock()
	if lasting && !roomFor(before, size, ds) {
		m.mu.Lock()
		if time.Since(at) >= crampedPause {
			m.own.cramped = true
			poke(m.reroll)
		}
		m.notices.set("full", "this host's log is full: what it would announce beyond is not told to the other hosts "+fullTip, time.Now())
		m.publishLocked() // shown when it is asked for: the caller may hold what OnChange needs
		m.mu.Unlock()
		return nil, fmt.Errorf("append to log: %w", ErrLogFull)
	}

	es := make([]Entry, 0, len(ds))
	put := make(map[string][]byte, len(ds))
	for _, d := range ds {
		seq++
		e, err := SignEntry(m.o.Identity, m.mesh, Entry{Epoch: number, Seq: seq, Kind: d.Kind, Payload: d.Payload})
		if err != nil {
			return nil, fmt.Errorf("append to log: %w", err)
		}
		if size += len(e.raw); seq > maxLogEntries || size > maxLogBytes {
			poke(m.reroll)
			return nil, fmt.Errorf("append to log: %w", ErrLogFull)
		}
		es, put[logKey(e)] = append(es, e), e.raw
	}
	if err := m.o.Store.Apply(bucketLog, put, nil); err != nil {
		return nil, fmt.Errorf("append to log: %w", err)
	}
	m.mu.Lock()
	for _, e := range es {
		a := m.logs.authors[m.id]
		a.current.append(e, &change{})
		m.logs.hold(a, len(e.raw))
		m.logs.summed = nil
	}
	if m.asking > 0 {
		m.meanwhile = append(m.meanwhile, es...)
	}
	if raw != nil {
		m.own.rec, _ = ParseRecord(raw)
		m.own.raw = raw
	}
	m.publishLocked()
	m.mu.Unlock()
	if int(seq) > min(2*opened+rollAfter, max(opened+rollAfter, (maxLasting-spare)*7/8)) {
		poke(m.reroll)
	}
	return es, nil
}

// openEpoch opens a new epoch with a snapshot of the base. The base is asked
// without a lock; what is appended meanwhile is written again behind the snapshot.
func (m *Mesh) openEpoch() error {
	defer m.o.OnChange()
	m.mu.Lock()
	base := m.base
	m.asking++
	from := len(m.meanwhile)
	m.mu.Unlock()
	var ds []Draft
	if base != nil {
		ds = base()
	}
	endpoints := m.endpoints()
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	meanwhile := m.meanwhile[from:]
	if m.asking--; m.asking == 0 {
		m.meanwhile = nil
	}
	cramped, log := m.own.cramped && base != nil && !m.lacksPastLocked(), m.logs.log(m.id)
	edit := func(r *Record) { r.Endpoints = endpoints }
	if len(endpoints) == 0 && !m.own.open {
		edit = nil
	}
	m.mu.Unlock()
	if cramped && !m.helps(ds, log) {
		m.mu.Lock()
		m.own.cramped = false
		m.mu.Unlock()
		return nil
	}
	return m.openEpochWriting(ds, base != nil, meanwhile, edit)
}

// openEpochWriting does it; writing is held. meanwhile was appended since ds was asked
// for, in whatever epoch. edit, unless nil, changes the own record.
func (m *Mesh) openEpochWriting(ds []Draft, based bool, meanwhile []Entry, edit func(*Record)) error {
	m.mu.Lock()
	rec, boots := m.own.rec, m.own.boots
	if a := m.logs.authors[m.id]; a != nil {
		for _, ep := range append([]*epoch{a.current}, a.next...) {
			if ep != nil {
				boots = max(boots, ep.number>>32)
			}
		}
	}
	old, former := m.logs.log(m.id), m.ownEpochLocked()
	mends := m.lacksPastLocked()
	var past [][]Entry
	read := make(map[*pastEpoch]int) // their versions: more may come meanwhile
	for _, e := range m.past.ascending() {
		if boots = max(boots, e.number>>32); e.untaken() {
			past, read[e] = append(past, e.said()), e.version
		}
	}
	taking := m.takingLocked()
	m.mu.Unlock()

	all, left := fit(m.shorter(snapshot(ds, based, append(past, old)...), taking))
	behind := snapshot(nil, false, meanwhile)
	var low [4]byte
	rand.Read(low[:])
	boots++
	number := boots<<32 | uint64(binary.BigEndian.Uint32(low[:]))
	if edit != nil {
		edit(&rec)
	}
	rec.BootNonce, rec.Epoch, rec.Serial = m.nonce, number, 1
	rec.ProtoMin, rec.ProtoMax, rec.Nickname = protoMin, protoMax, m.o.Nickname
	rec.Ext = m.extensions()
	raw, err := SignRecord(m.o.Identity, m.o.Secret, rec)
	if err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}
	if len(all)+2 > MaxSnapshot {
		return fmt.Errorf("open epoch with a snapshot of %d entries: %w", len(all)+2, ErrLogFull)
	}
	begin := NewBegin(m.o.Identity, m.o.Secret, 0, m.nonce, uint32(len(all)+2))
	payload, err := begin.MarshalBinary()
	if err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}
	drafts := append([]Draft{{KindBegin, payload}, {KindHost, raw}}, append(all, behind...)...)

	fresh, ch := newReplica(), &change{}
	put := make(map[string][]byte, len(drafts))
	for i, d := range drafts {
		e, err := SignEntry(m.o.Identity, m.mesh, Entry{Epoch: number, Seq: uint64(i + 1), Kind: d.Kind, Payload: d.Payload})
		if err != nil {
			return fmt.Errorf("open epoch: %w", err)
		}
		p := proven{Entry: e}
		if i == 0 {
			p.begin = &begin
		}
		if err := fresh.merge(p, false, ch); err != nil {
			return fmt.Errorf("open epoch: %w", err)
		}
		put[logKey(e)] = e.raw
	}
	// The count first: were it lost alone, the number would come again.
	if err := m.o.Store.Apply(bucketMesh, map[string][]byte{keyBoots: binary.BigEndian.AppendUint64(nil, boots)}, nil); err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}
	var del []string
	for _, e := range old {
		del = append(del, logKey(e))
	}
	if err := m.o.Store.Apply(bucketLog, put, del); err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}

	m.mu.Lock()
	if mends {
		m.mends++
		m.mended = time.Now()
	}
	m.logs.replace(m.id, fresh)
	for e, version := range read {
		e.taken = version
	}
	m.past.former(former, m.ownEpochLocked())
	m.own = ownLog{open: true, boots: boots, at: time.Now(), epoch: number, raw: raw}
	m.own.rec, _ = ParseRecord(raw)
	if left == 0 {
		m.notices.clear("full")
	} else {
		m.notices.set("full", fmt.Sprintf("this host's log is full: %d names or addresses that it would announce are not told to the other hosts %s", left, fullTip), time.Now())
	}
	m.publishLocked()
	m.mu.Unlock()
	poke(m.announce)
	m.broadcast(ch.put)
	return nil
}

// Reopen has this host's log begin anew soon, without what is obsolete.
func (m *Mesh) Reopen() {
	m.mu.Lock()
	m.own.cramped = false // a full log is looked at as any
	m.mu.Unlock()
	poke(m.reroll)
}

// snapshot is what an epoch opens with: the base, and from this host's older
// logs what no snapshot may drop: grants, and what a release wrote that is not
// this one. Without a base it is all of the older logs. Order is kept; of an
// entry that comes again the last one counts, as it would have without a snapshot.
func snapshot(base []Draft, based bool, older ...[]Entry) []Draft {
	var all []Draft
	for _, es := range older {
		for _, e := range es {
			if !based || (e.Kind != KindName && e.Kind != KindClaim) {
				all = append(all, Draft{e.Kind, e.Payload})
			}
		}
	}
	all = append(all, base...)
	seen := make(map[string]bool, len(all))
	var out []Draft
	for _, d := range slices.Backward(all) {
		k := d.key()
		if d.Kind != KindBegin && d.Kind != KindHost && !seen[k] {
			seen[k] = true
			out = append(out, d)
		}
	}
	slices.Reverse(out)
	return out
}

// endpoints asks for this host's own endpoints and leaves out what others would refuse.
func (m *Mesh) endpoints() []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range m.o.Endpoints() {
		e = netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
		if err := checkEndpoint(e, m.mesh); err != nil {
			m.log.Debug("own endpoint left out", "err", err)
			continue
		}
		if !slices.Contains(out, e) && len(out) < maxEndpoints {
			out = append(out, e)
		}
	}
	return out
}

// keepRecord keeps the own record true: it opens a new epoch when the log is
// long or the past has caught up with this host, bumps the record when the
// endpoints change, and tells gossip.
func (m *Mesh) keepRecord(ctx context.Context) {
	var later <-chan time.Time // a new epoch is wanted, and not due yet
	reroll := func() {
		later = nil
		if wait := m.mendWait(time.Now()); wait > 0 {
			later = time.After(wait)
			return
		}
		if err := m.openEpoch(); err != nil {
			m.log.Error("open a new epoch of the log", "err", err)
		}
	}
	at := m.endpoints() // when this was last looked at: a new epoch may have them in the record already
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reroll:
			reroll()
		case <-later:
			reroll()
		case <-m.announce:
		}
		if m.isLeaving() {
			continue
		}
		now := m.endpoints()
		if len(now) > 0 {
			m.conns.moved(at, now)
			at = now
		}
		m.mu.Lock()
		rec := m.own.rec
		m.mu.Unlock()
		if len(now) > 0 && !slices.Equal(now, rec.Endpoints) {
			if err := m.changeRecord(func(r *Record) { r.Endpoints = now }); err != nil {
				m.log.Error("write the new endpoints", "err", err)
				continue
			}
			m.log.Info("own endpoints changed", "endpoints", now)
		}
		if now := m.o.Device(); now != rec.Device() {
			if err := m.changeRecord(func(r *Record) { r.Ext = m.extensions() }); err != nil {
				m.log.Error("write the new device", "err", err)
				continue
			}
		}
		m.tellGossip()
	}
}

func (m *Mesh) isLeaving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaving
}

// extensions are those of the own record. A host that leaves says so in every one that
// it signs from then on.
func (m *Mesh) extensions() []TLV {
	out := m.o.extensions()
	if m.isLeaving() {
		out = append(out, TLV{Type: extLeft})
	}
	return out
}

// tellGossip advertises the own record, outside of any delegate.
func (m *Mesh) tellGossip() {
	ml := m.gossip.Load()
	if ml == nil {
		return
	}
	m.mu.Lock()
	raw, told := m.own.raw, m.told
	m.told = raw
	m.mu.Unlock()
	if string(raw) == string(told) {
		return
	}
	if err := ml.UpdateNode(updateTimeout); err != nil {
		m.log.Debug("advertise own record", "err", err)
	}
}

const updateTimeout = 2 * time.Second

// A host takes up its past once or twice in its life. One that does so again and again
// has a twin: each opens an epoch above the other's.
const (
	mendsFree = 3
	mendPause = 10 * time.Second
)

// mendWait paces the epochs that this host opens because of its past; 0: now. Other
// epochs wait for nothing.
func (m *Mesh) mendWait(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.lacksPastLocked() {
		return 0
	}
	if m.mends >= mendsFree {
		m.notices.set("twin", "somebody else writes this host's log again and again: does a copy of this machine run? "+
			"Run `weft reset --force` on the copy and launch it again: it gets an identity of its own", now)
		m.publishLocked()
		if wait := m.mended.Add(mendPause << min(m.mends-mendsFree, 5)).Sub(now); wait > 0 {
			return wait
		}
	}
	return 0
}

var errTwin = errors.New("somebody else writes this host's log, too")
