package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/peer"
)

// On disk, bucket "log": author 10 | epoch 8 | seq 8 -> the entry as received; author 10 |
// "lone" -> its departure, if that is kept beside a log which does not have it, or without one.
// Bucket "mesh": "founding" -> Founding, "boots" -> number of epochs opened as
// u64, "peer/" and the ID's text -> the freshest host record.
//
// This host's own entries, and a founding of its own, are on disk before anybody
// else hears of them. What comes from others is written by persist, soon.
const (
	bucketLog   = "log"
	bucketMesh  = "mesh"
	keyFounding = "founding"
	keyBoots    = "boots"
	keyPeer     = "peer/"
	keyLone     = "lone"

	// flushDelay gathers what comes in a burst into one write.
	flushDelay = 200 * time.Millisecond
)

// dirtyBucket is what a bucket is to get.
type dirtyBucket map[string]dirtyValue

type dirtyValue struct {
	raw   []byte // nil deletes
	there bool   // the disk may have something under the key
}

func logKey(e Entry) string {
	b := append(make([]byte, 0, 26), e.Author[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	return string(binary.BigEndian.AppendUint64(b, e.Seq))
}

func loneKey(id peer.ID) string { return string(id[:]) + keyLone }

// load reads both buckets. A damaged value is left out with a warning: the
// others have it, and refusing to start would not bring it back.
func (m *Mesh) load() error {
	meta, err := m.o.Store.Load(bucketMesh)
	if err != nil {
		return err
	}
	logs, err := m.o.Store.Load(bucketLog)
	if err != nil {
		return err
	}
	stored, err := ParseFounding(meta[keyFounding])
	switch {
	case err != nil:
		return fmt.Errorf("read founding from the state: %w", err)
	case m.founding.IsZero():
		m.founding = stored
	case !stored.IsZero() && !stored.Equal(m.founding):
		return fmt.Errorf("found %v: the state says that this host belongs to %v", m.founding, stored)
	case stored.IsZero():
		b, err := m.founding.MarshalBinary()
		if err == nil {
			err = m.o.Store.Apply(bucketMesh, map[string][]byte{keyFounding: b}, nil)
		}
		if err != nil {
			return fmt.Errorf("found: %w", err)
		}
	}
	if b := meta[keyBoots]; len(b) == 8 {
		m.own.boots = binary.BigEndian.Uint64(b)
	}
	var es, lone []Entry
	for k, raw := range logs {
		e, err := ParseEntry(raw)
		if err != nil {
			m.log.Warn("entry in the state is damaged", "err", err)
			continue
		}
		if k != loneKey(e.Author) {
			es = append(es, e)
		} else if e.Author != m.id {
			lone = append(lone, e)
		}
	}
	slices.SortFunc(es, func(a, b Entry) int { return strings.Compare(logKey(a), logKey(b)) })
	m.logs.strangers.restoring = true
	defer func() { m.logs.strangers.restoring = false }()
	m.loadDepartures(es, lone)
	_, _ = m.take(es, peer.ID{}, false)
	m.loadCutOff(es)
	for k, raw := range meta {
		if !strings.HasPrefix(k, keyPeer) {
			continue
		}
		rec, err := VerifyRecord(raw, m.o.Secret)
		if err != nil {
			m.log.Warn("host record in the state is damaged", "err", err)
			continue
		}
		m.mu.Lock()
		m.noteRecordLocked(rec, raw, byGossip)
		m.mu.Unlock()
	}
	m.mu.Lock()
	read := map[string]map[string][]byte{bucketMesh: meta, bucketLog: logs}
	for bucket, kv := range m.dirty { // what was just read is there; what it has made obsolete can go
		maps.DeleteFunc(kv, func(k string, v dirtyValue) bool { return v.raw != nil && bytes.Equal(v.raw, read[bucket][k]) })
	}
	m.mu.Unlock()
	return nil
}

// dirtyLocked asks persist to write; nil deletes.
func (m *Mesh) dirtyLocked(bucket, key string, value []byte) { m.waitLocked(bucket, key, value, true) }

// waitLocked is dirtyLocked for a key that may be known not to be on the disk: what
// comes and goes while the disk refuses must not add up.
func (m *Mesh) waitLocked(bucket, key string, value []byte, there bool) {
	kv := m.dirty[bucket]
	if kv == nil {
		kv = make(dirtyBucket)
		m.dirty[bucket] = kv
	}
	if old, ok := kv[key]; ok {
		there = old.there
	}
	if value == nil && !there {
		delete(kv, key)
		return
	}
	kv[key] = dirtyValue{value, there}
	poke(m.flush)
}

// storeLocked asks persist to write what a merge changed. An entry may have gone
// and come again within it: what is held now is what the disk is to have.
func (m *Mesh) storeLocked(ch *change) {
	came := make(map[string]int, len(ch.put)) // first
	for i, e := range slices.Backward(ch.put) {
		came[logKey(e)] = i
	}
	there := make(map[string]bool, len(ch.del)) // before all this
	for i, e := range ch.del {
		k := logKey(e)
		if at, ok := came[k]; !ok || ch.at[i] <= at {
			there[k] = true
		}
	}
	for _, es := range [][]Entry{ch.put, ch.del} {
		for _, e := range es {
			k := logKey(e)
			var raw []byte
			if m.logs.holds(e) {
				raw = e.raw
			}
			m.waitLocked(bucketLog, k, raw, there[k])
		}
	}
	for id, there := range ch.lone {
		var raw []byte
		if a := m.logs.authors[id]; a != nil && a.lone != nil {
			raw = a.lone.raw
		}
		m.waitLocked(bucketLog, loneKey(id), raw, there)
	}
	for event, ids := range map[string][]peer.ID{"strangers_forgotten": ch.lost, "graves_forgotten": ch.opened} {
		for _, id := range ids {
			if m.logs.authors[id] == nil {
				m.forgetHostLocked(id)
				delete(m.departed, id)
				m.count.add(event)
			}
		}
	}
}

func (m *Mesh) persist(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			m.write()
			return
		case <-m.flush:
		}
		select {
		case <-ctx.Done():
		case <-time.After(flushDelay):
		}
		if !m.write() {
			// The disk refuses. It is all still in memory and with the others.
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
			poke(m.flush)
		}
	}
}

// dirtyMax is how many values may wait for the disk while entries are fetched.
const dirtyMax = 4096

// drain writes at once if much waits for the disk.
func (m *Mesh) drain() {
	if m.waitsForDisk() > dirtyMax {
		m.write()
	}
}

func (m *Mesh) waitsForDisk() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, kv := range m.dirty {
		n += len(kv)
	}
	return n
}

// write puts on disk what waits for it; what fails waits on.
func (m *Mesh) write() (ok bool) {
	m.flushing.Lock()
	defer m.flushing.Unlock()
	m.mu.Lock()
	dirty := m.dirty
	m.dirty = make(map[string]dirtyBucket)
	m.mu.Unlock()
	ok = true
	for bucket, kv := range dirty {
		put, del := make(map[string][]byte), []string(nil)
		for k, v := range kv {
			if v.raw == nil {
				del = append(del, k)
			} else {
				put[k] = v.raw
			}
		}
		err := m.o.Store.Apply(bucket, put, del)
		if err == nil {
			continue
		}
		ok = false
		m.count.add("store_failed")
		m.log.Error("write mesh state", "bucket", bucket, "err", err)
		m.mu.Lock()
		for k, v := range kv {
			if newer, ok := m.dirty[bucket][k]; !ok {
				m.waitLocked(bucket, k, v.raw, v.there)
			} else if v.there {
				newer.there = true
				m.dirty[bucket][k] = newer
			}
		}
		m.mu.Unlock()
	}
	return ok
}

// remembered is the key of a host's record.
func remembered(id peer.ID) string { return keyPeer + id.String() }
