package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"weft/peer"
)

// msgType is the first byte of a message after the verdicts.
type msgType uint8

const (
	msgRoot    msgType = 1 // 32 bytes: rootOf the sender's digest
	msgDigest  msgType = 2 // marks
	msgEntries msgType = 3 // AppendEntries
	msgDone    msgType = 4 // no more entries; empty
	msgReady   msgType = 5 // a Refusal: what the server could do with it all, or instead of a root that it is busy
	msgCall    msgType = 6 // length u8, method | body
	msgReply   msgType = 7 // u8 0, body | u8 1, error text
)

const (
	// chunk is how many bytes of entries this host sends in a message. What has come is
	// kept, however the exchange ends, and so it gets on over a slow way, too.
	chunk       = 16 << 10
	maxChunk    = 256<<10 + 2 + maxEntry // that is taken
	syncTimeout = 2 * time.Minute        // of a whole exchange, however much there is to say

	// rootEvery is how often a host tells a random live one its root.
	rootEvery = time.Second
	// settle is what entries on their way get before two roots count as different.
	settle = 150 * time.Millisecond
	// syncGap is the least time between two exchanges that this host begins with
	// one other, and syncers how many it has under way: after a partition all others
	// have the same to tell.
	syncGap = time.Second
	syncers = 2

	// maxUseless is how many entries an exchange may bring that nobody has asked for: a
	// log that may have grants which this host lacks, and this host's own.
	maxUseless = 2 * maxLogEntries
)

// exchange makes both sides hold the same logs. Roots first; the digests only
// when they differ; then what each lacks, the server's part before the client's.
// It returns some of the entries that were new here. The client's talk has begun; the
// server's begins if it has to, and waits for its turn then.
func (m *Mesh) exchange(ctx context.Context, l *link, k *talk) (news []Entry, err error) {
	l.pace.on = true
	defer func() {
		l.pace.on = false
		switch {
		case errors.Is(err, errSlow):
			m.reject(l.id, reasonSlow, err)
		case err != nil && k.wasSilent():
			m.reject(l.id, reasonSilent, errSilent)
		}
	}()
	var digest, theirs []mark
	var root [32]byte
	look := func() {
		m.mu.Lock()
		digest, root = m.logs.digest(), m.logs.root()
		m.mu.Unlock()
	}
	look()
	var theirRoot []byte
	send := func(t msgType, b []byte) func() error { return func() error { return l.write(t, b) } }
	get := func(t msgType, limit int, to *[]byte) func() error {
		return func() (err error) { _, *to, err = l.read(limit, t); return err }
	}
	var raw []byte
	getRoot := func() error {
		t, b, err := l.read(1+maxRefusal, msgRoot, msgReady)
		if err != nil || t == msgRoot && len(b) == len(root) {
			theirRoot = b
			return err
		}
		if v, err := parseRefusal(b); t == msgReady && err == nil { // busy, most likely
			return &v
		}
		return errShort
	}
	sendRoot := func() error {
		if !k.mine && string(theirRoot) != string(root[:]) {
			if !k.begin(ctx, k.wait(l)) {
				return m.tellBusy(l)
			}
			look() // it may have waited
		}
		return l.write(msgRoot, root[:])
	}
	if err := inTurn(k.mine, sendRoot, getRoot); err != nil {
		return nil, fmt.Errorf("exchange roots: %w", err)
	}
	k.goesOn()
	if string(theirRoot) == string(root[:]) {
		m.hear(l.id, nil)
		return nil, nil
	}
	m.count.add("repairs")
	if err := inTurn(k.mine, send(msgDigest, appendDigest(nil, digest)), get(msgDigest, 1+maxAuthors*markLen, &raw)); err != nil {
		return nil, fmt.Errorf("exchange digests: %w", err)
	}
	if theirs, err = parseDigest(raw); err != nil {
		return nil, err
	}
	err = inTurn(!k.mine,
		func() error { return m.sendMissing(l, theirs) },
		func() (err error) { news, err = m.takeAll(l, newAsked(digest, theirs)); return err })
	if err != nil {
		return news, fmt.Errorf("exchange entries: %w", err)
	}
	m.hear(l.id, theirs)
	return news, nil
}

// errBeside says that this host has exchanged logs with the other one at that moment, or
// with so many others.
var errBeside = errors.New("other exchanges of logs are under way")

// tellBusy tells the client that its turn has not come.
func (m *Mesh) tellBusy(l *link) error {
	m.count.add(l.purpose.String() + "_refused_busy")
	v := &Refusal{RefusedBusy, "busy with other exchanges of logs"}
	return errors.Join(v, l.write(msgReady, v.encode()))
}

// doubtDrain is how long what comes in may have been sent before Doubt.
const doubtDrain = 2 * time.Second

// Doubt has State.Heard be false until another host has told anew what it knows of this
// one: what it said before may be out of date.
func (m *Mesh) Doubt() {
	m.mu.Lock()
	m.heard, m.doubted = false, time.Now()
	m.publishLocked()
	m.mu.Unlock()
}

// inTurn does a, then b, or the other way round.
func inTurn(aFirst bool, a, b func() error) error {
	if !aFirst {
		a, b = b, a
	}
	if err := a(); err != nil {
		return err
	}
	return b()
}

func (m *Mesh) sendMissing(l *link, theirs []mark) error {
	m.mu.Lock()
	logs := m.logs.missing(theirs, l.id)
	m.mu.Unlock()
	var b []byte
	for _, es := range logs {
		for _, e := range es {
			if b = AppendEntries(b, e); len(b) >= chunk {
				if err := l.write(msgEntries, b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
	}
	if len(b) > 0 {
		if err := l.write(msgEntries, b); err != nil {
			return err
		}
	}
	return l.write(msgDone, nil)
}

func (m *Mesh) takeAll(l *link, asked *asked) (news []Entry, err error) {
	var departures []Entry
	useless := 0
	defer m.endTelling(asked)
	for {
		t, b, err := l.read(1+maxChunk, msgEntries, msgDone)
		if err != nil {
			return news, err
		}
		if t == msgDone {
			m.settleDepartures(departures)
			m.settleOlder(asked)
			return news, nil
		}
		es, err := SplitEntries(b)
		if err != nil {
			m.rejectSent(l.id, reasonMalformed, err)
			return news, err
		}
		for _, e := range es {
			if !asked.takes(e) {
				useless++
			}
			if e.Kind == KindDepart && len(departures) < maxAuthors {
				departures = append(departures, e)
			}
		}
		fresh, lie := m.takeTold(es, l.id, asked)
		if lie != nil {
			return news, fmt.Errorf("take entries: %w", lie)
		}
		if useless > maxUseless {
			m.rejectSent(l.id, reasonFlood, errUseless)
			return news, errUseless
		}
		m.drain() // the disk sets the pace, or memory would hold what it has not written
		// What a caller may want to hand on at once is little; a big catch-up is not kept.
		if news = append(news, fresh...); len(news) > flushMax {
			news = news[:flushMax+1]
		}
	}
}

var errUseless = errors.New("an exchange that brings what nobody has asked for")

// asked is what a digest asks for, and how far it was told in an exchange. Whether it
// was news when it came does not matter: several hosts may tell the same at a time.
type asked struct {
	marks map[peer.ID]mark // of this host's digest; those that the other's contradicts are left out
	told  map[peer.ID]place
	past  map[uint64]bool // epochs of this host's own past that it has told news of
}

type place struct{ epoch, seq uint64 }

func newAsked(ours, theirs []mark) *asked {
	a := &asked{marks: make(map[peer.ID]mark, len(ours)), told: make(map[peer.ID]place)}
	for _, k := range ours {
		a.marks[k.author] = k
	}
	for _, k := range theirs { // all of it is told then: there may be a fork
		if o := a.marks[k.author]; o.epoch == k.epoch && o.seq == k.seq && o.sum != k.sum {
			delete(a.marks, k.author)
		}
	}
	return a
}

// takes tells that an entry was asked for, and had not been told.
func (a *asked) takes(e Entry) bool {
	last, again := a.told[e.Author]
	if !again && len(a.told) >= 2*maxAuthors {
		return false
	}
	a.told[e.Author] = place{e.Epoch, e.Seq}
	k, known := a.marks[e.Author]
	switch {
	case again && (e.Epoch != last.epoch || e.Seq <= last.seq): // an author has few epochs
		return false
	case known && (e.Epoch < k.epoch || e.Epoch == k.epoch && e.Seq <= k.seq):
		return false
	}
	return true
}

// spreadMax is how many neighbours are told at once which mesh this is.
const spreadMax = 8

// difference is a root of another host that was not this host's when it came.
type difference struct {
	peer peer.ID
	root [32]byte
}

// compareRoot looks at what another host says that it holds.
func (m *Mesh) compareRoot(from peer.ID, root [32]byte) {
	if root == m.root() {
		m.hear(from, nil)
		return
	}
	select {
	case m.differs <- difference{from, root}:
	default: // many others say so, too
	}
}

// syncLoop tells one random live host every second what this one holds, and
// exchanges logs with those that hold something else: whoever sees a difference
// acts. When there is something to tell, it exchanges with several at once.
func (m *Mesh) syncLoop(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan peer.ID)
	busy := make(map[peer.ID]bool)
	last := make(map[peer.ID]time.Time) // when an exchange ended
	sync := func(id peer.ID) {
		if err := m.syncWith(ctx, id); err != nil && ctx.Err() == nil {
			m.count.add("sync_failed")
			m.log.Debug("compare logs", "peer", id, "err", err)
		}
	}
	mend := func(d difference) {
		if len(busy) >= syncers || busy[d.peer] || m.talks.with(d.peer) || time.Since(last[d.peer]) < syncGap {
			return
		}
		busy[d.peer] = true
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-time.After(settle):
				if m.root() != d.root {
					sync(d.peer)
				}
			}
			select {
			case <-ctx.Done():
			case done <- d.peer:
			}
		})
	}
	tick := time.NewTimer(rootEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.spread:
			ids := m.live(spreadMax)
			wg.Go(func() {
				for _, id := range ids {
					sync(id)
				}
			})
		case d := <-m.differs:
			mend(d)
		case id := <-done:
			delete(busy, id)
			last[id] = time.Now()
		case <-tick.C:
			tick.Reset(rootEvery*3/4 + rand.N(rootEvery/2))
			for _, n := range m.audience().some(1) {
				m.sendRoot(n)
			}
			for id, at := range last {
				if time.Since(at) > time.Minute {
					delete(last, id)
				}
			}
		}
	}
}

// live are up to n of the other hosts that gossip holds alive.
func (m *Mesh) live(n int) []peer.ID {
	var ids []peer.ID
	for _, n := range m.audience().some(n) {
		if id, _, ok := parseName(n.Name); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// syncWith exchanges logs with a host through the tunnel. When it returns nil
// the other side has what this one had.
func (m *Mesh) syncWith(ctx context.Context, id peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	l, err := m.open(ctx, purposeSync, id, m.inside(id))
	if err != nil {
		return fmt.Errorf("sync with %v: %w", id, err)
	}
	defer l.close()
	k := m.talks.begun(l)
	if !k.begin(ctx, turnWait) {
		return fmt.Errorf("sync with %v: %w", id, errBeside)
	}
	defer k.end()
	if _, err := m.exchange(ctx, l, k); err != nil {
		return fmt.Errorf("sync with %v: %w", id, err)
	}
	_, b, err := l.read(1+maxRefusal, msgReady)
	if err == nil {
		err = ready(b)
	}
	if err != nil {
		return fmt.Errorf("sync with %v: %w", id, err)
	}
	m.count.add("syncs")
	return nil
}

// ready reads the body of a msgReady: what the server could not do is the error.
func ready(b []byte) error {
	v, err := parseRefusal(b)
	if err == nil && v.Code != Accepted {
		return &v
	}
	return err
}

// inside is where a host serves sessions through the tunnel.
func (m *Mesh) inside(id peer.ID) netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	port := uint16(m.o.Port)
	if h := m.hosts[id]; h != nil {
		port = h.rec.joinPort(m.o.Port)
	}
	return netip.AddrPortFrom(m.controlAddr(id), port)
}
