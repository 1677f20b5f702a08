package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/peer"
)

// State is what a Mesh knows at one moment. It is never changed after it was
// handed out; take a new one with (*Mesh).State.
type State struct {
	Self     peer.ID
	Founding Founding            // zero: not known yet
	Hosts    []Host              // sorted by ID, this one included
	Logs     map[peer.ID][]Entry // effective logs: entries 1 to n of one epoch, and grants that it lacks of others
	Waiting  []string            // while the founding is not known: the targets that are waited for
	Heard    bool                // all that another host that knew this one holds of its log is in it, and what others have begun to tell of it
	Copied   string              // another host runs under this one's identity: who noticed, and the cure; empty: nobody did
	Notices  []string            // what an operator should read: refusals, on either side; oldest first
}

// Host is a member, or one that was.
type Host struct {
	ID       peer.ID
	Record   Record
	Self     bool
	Liveness Liveness
	RTT      time.Duration // of gossip's probes through the tunnel; 0: not measured
}

// Host finds a host by its ID.
func (s *State) Host(id peer.ID) (Host, bool) {
	i, ok := slices.BinarySearchFunc(s.Hosts, id, func(h Host, id peer.ID) int { return h.ID.Compare(id) })
	if !ok {
		return Host{}, false
	}
	return s.Hosts[i], true
}

// Liveness is what is known about a host's being there.
type Liveness int

// Alive means that some tunnel to the host works, not that this host's does.
// Failed means that gossip calls it dead and our tunnel has had nothing from it
// for 5 s. Left is an announced stop. Unseen is known from disk or from others'
// logs and not met since this router started.
const (
	Unseen Liveness = iota
	Alive
	Failed
	Left
)

// String is one lower-case word.
func (l Liveness) String() string {
	switch l {
	case Unseen:
		return "unseen"
	case Alive:
		return "alive"
	case Failed:
		return "failed"
	case Left:
		return "left"
	}
	return fmt.Sprintf("liveness %d", int(l))
}

// grace is for how long after its last packet a host that gossip calls dead is
// still taken for alive.
const grace = 5 * time.Second

// sign is all that the liveness of another host follows from.
type sign struct {
	left    bool // its freshest record announces a stop
	nodes   int  // names of it that gossip holds alive
	current bool // … one of them is the start of its freshest record
	met     bool // it was a member of gossip since this router started
	heard   bool // our tunnel has had something from it …
	silent  time.Duration
}

// dead tells that gossip calls a host dead that it has known alive.
func (s sign) dead() bool { return !s.left && s.met && s.nodes == 0 }

// liveness decides. A stop wins over gossip, since it is signed by the host and
// gossip's "alive" may be late.
func (s sign) liveness() Liveness {
	switch {
	case s.left:
		return Left
	case s.nodes > 0:
		return Alive
	case !s.met:
		return Unseen
	case s.heard && s.silent < grace:
		return Alive
	}
	return Failed
}

// Target is one that this host dials.
type Target struct {
	Addr      string  // as given, with its port
	State     string  // "connecting", "established", "retrying", "failed", or "self"
	Peer      peer.ID // who was found there; zero: nobody yet
	Err       string  // of the last try; empty after a success
	Reason    Reason  // of Err, for programs
	NextTry   time.Time
	Direction string // "out"
}

// Reason is the kind of an error with a target.
type Reason string

// The reasons. Clone, OtherMesh, OtherRange and WrongSecret do not cure
// themselves.
const (
	NoReason    Reason = ""
	Clone       Reason = "clone"
	OtherMesh   Reason = "other-mesh"
	OtherRange  Reason = "other-range"
	WrongSecret Reason = "wrong-secret"
	OtherProto  Reason = "version"
	NotWeft     Reason = "not-weft"
	Unreachable Reason = "unreachable"
	OtherReason Reason = "other"
)

// publishLocked has the next State made anew. The caller calls OnChange after it has
// let go of mu.
func (m *Mesh) publishLocked() { m.state.Store(nil) }

func (m *Mesh) snapshotLocked() *State {
	s := &State{
		Self:     m.id,
		Founding: m.founding,
		Hosts:    make([]Host, 0, len(m.hosts)+1),
		Logs:     make(map[peer.ID][]Entry, len(m.logs.authors)),
		Notices:  m.notices.texts(),
		Copied:   m.copied,
		Heard:    m.heardLocked(),
	}
	s.Hosts = append(s.Hosts, Host{ID: m.id, Record: m.own.rec, Self: true, Liveness: Alive})
	for id, h := range m.hosts {
		s.Hosts = append(s.Hosts, Host{ID: id, Record: h.rec, Liveness: h.live, RTT: h.rtt})
	}
	slices.SortFunc(s.Hosts, func(a, b Host) int { return a.ID.Compare(b.ID) })
	for id := range m.logs.authors {
		if es := m.logs.said(id); len(es) > 0 {
			s.Logs[id] = es
		}
	}
	if m.founding.IsZero() {
		for _, t := range m.targets {
			if t.state != stateEstablished && t.state != stateSelf {
				s.Waiting = append(s.Waiting, t.addr)
			}
		}
		slices.Sort(s.Waiting)
	}
	return s
}

// controlAddr is where a host is reached through the tunnel.
func (m *Mesh) controlAddr(id peer.ID) netip.Addr {
	return peer.ControlAddr(m.mesh.Control(), id)
}
