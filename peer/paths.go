package peer

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// sessionLife is the age at which WireGuard drops a session's keys
	// (REJECT_AFTER_TIME). A peer that answers makes a new one before that.
	sessionLife = 180 * time.Second
	// silence: with its keepalive of 25 s a peer that is reachable is heard
	// from more often than this.
	silence = 30 * time.Second
	// tryFor is how long an endpoint is tried. WireGuard repeats its handshake
	// after 5 s and up to a third of a second of jitter; tryIdle leaves room for
	// that, so that no endpoint's turn passes without a packet to it.
	tryFor  = 5 * time.Second
	tryIdle = 6 * time.Second
	// maxPaths is the number of peers that a WireGuard device can have.
	maxPaths = 1 << 16
)

// Paths chooses the endpoint at which each peer is tried. It reads no clock and
// does no I/O. It may be used by several goroutines. Its memory is one small
// record per peer, for at most 65,536 peers.
type Paths struct {
	mu    sync.Mutex // guards peers
	peers map[Key]*path
}

type path struct {
	used  time.Time      // last Choose
	rx    int64          // as last seen
	heard time.Time      // when rx last changed
	tried netip.AddrPort // the endpoint whose turn it is; zero while the peer answers
	since time.Time      // when its turn began
	tx    int64          // at that moment
	good  netip.AddrPort // where the peer last answered or wrote from: perhaps an address that no candidate names
	last  netip.AddrPort // what the device had at the last Choose
}

// NewPaths makes a Paths that knows no peer.
func NewPaths() *Paths { return &Paths{peers: make(map[Key]*path)} }

// Forget drops what is known about a peer.
func (p *Paths) Forget(pub Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.peers, pub)
}

// Choose gives the endpoint to set for a peer now, for Config.Endpoint. Zero
// says: leave it alone. Call it every second or few, with the peer's candidates
// in order of preference and its present status (a zero Status while the device
// does not have the peer).
//
// A peer with a session younger than 180 s that still receives is left alone,
// and so is an endpoint whose turn lasts. Otherwise the candidates, and the
// endpoint at which the peer last answered, take turns of 5 s.
func (p *Paths) Choose(now time.Time, pub Key, candidates []netip.AddrPort, st Status) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.peerLocked(now, pub, st)
	s.used = now
	current := unmapped(st.Endpoint)
	moved := current != s.last
	s.last = current
	if st.RxBytes != s.rx {
		s.rx, s.heard = st.RxBytes, now
	}
	// A counter that runs backwards is a peer that was removed and added anew.
	if st.TxBytes < s.tx {
		s.tx = 0
	}
	age := now.Sub(st.LastHandshake)
	if !st.LastHandshake.IsZero() && age < sessionLife && age > -sessionLife && now.Sub(s.heard) < silence {
		s.tried = netip.AddrPort{}
		if current.IsValid() {
			s.good = current
		}
		return netip.AddrPort{}
	}
	if current.IsValid() && (!s.tried.IsValid() || moved && current != s.tried) {
		// What the device has gets a turn first. If nobody set it, it was
		// learnt from a handshake, which may be under way.
		s.good = current
		s.begin(now, current, st.TxBytes)
		return netip.AddrPort{}
	}
	turns := s.turns(candidates)
	if len(turns) == 0 {
		return netip.AddrPort{}
	}
	at := slices.Index(turns, s.tried)
	if at >= 0 {
		turn := tryFor
		if st.TxBytes == s.tx {
			turn = tryIdle // nothing has been sent to it yet
		}
		if d := now.Sub(s.since); d >= 0 && d < turn {
			if !current.IsValid() {
				return s.tried // has not reached the device
			}
			return netip.AddrPort{}
		}
	}
	// at is -1 for an endpoint that is no candidate any more: begin with the first.
	next := turns[(at+1)%len(turns)]
	s.begin(now, next, st.TxBytes)
	return next
}

// turns are the endpoints that take turns: valid, each once.
func (s *path) turns(candidates []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(candidates)+1)
	for _, c := range append(slices.Clip(candidates), s.good) {
		if c = unmapped(c); c.IsValid() && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func (s *path) begin(now time.Time, e netip.AddrPort, tx int64) {
	s.tried, s.since, s.tx = e, now, tx
}

// peerLocked finds or makes the record of a peer. A peer that is new here counts
// as heard from now: a restarted router must not disturb the sessions it finds.
func (p *Paths) peerLocked(now time.Time, pub Key, st Status) *path {
	if s := p.peers[pub]; s != nil {
		return s
	}
	if len(p.peers) >= maxPaths {
		var oldest Key
		var at time.Time
		for k, s := range p.peers {
			if at.IsZero() || s.used.Before(at) {
				oldest, at = k, s.used
			}
		}
		delete(p.peers, oldest)
	}
	s := &path{rx: st.RxBytes, heard: now}
	p.peers[pub] = s
	return s
}
