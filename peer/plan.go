package peer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// step is one change of the device. It concerns one peer, except drop, which
// takes allowed IPs away from whoever has them.
type step struct {
	verb      stepVerb
	key       Key // add, update, remove
	psk       *Key
	endpoint  netip.AddrPort // zero: unchanged
	keepalive *time.Duration
	allowed   []netip.Prefix // add, update: given to the peer, and so taken from another; drop: taken away
}

type stepVerb string

const (
	stepAdd    stepVerb = "add"
	stepUpdate stepVerb = "update"
	stepDrop   stepVerb = "drop"
	stepRemove stepVerb = "remove"
)

// String is one line as an operator would read it. It does not show preshared keys.
func (s step) String() string {
	var b strings.Builder
	b.WriteString(string(s.verb))
	if !s.key.IsZero() {
		b.WriteString(" " + s.key.String())
	}
	if s.psk != nil {
		b.WriteString(" psk")
		if s.psk.IsZero() {
			b.WriteString(" off")
		}
	}
	if s.endpoint.IsValid() {
		b.WriteString(" endpoint " + s.endpoint.String())
	}
	if s.keepalive != nil {
		b.WriteString(" keepalive " + s.keepalive.String())
	}
	if len(s.allowed) > 0 {
		b.WriteString(" allowed")
		for _, p := range s.allowed {
			b.WriteString(" " + p.String())
		}
	}
	return b.String()
}

// plan says how to get from what the device has to what is wanted. Both lists
// are sorted by key, have each key once, and each allowed IP with one peer.
//
// The order keeps traffic going:
//
//  1. Peers are added and updated. Giving an allowed IP to a peer takes it from
//     the one that had it, in one step inside WireGuard, so an IP that changes
//     hands is never nobody's, and no later step names it for its old owner: it
//     can't be taken back. A swap between two peers works in any order.
//  2. Allowed IPs that nobody should have any more are dropped, all at once and
//     without touching the others of those peers. Replacing a peer's whole list
//     would do, but leaves all of it unrouted for a moment.
//  3. Peers that are not wanted are removed, with what they still had.
//
// A step that fails leaves its IPs where they were; the next Set tries again.
func plan(have, want []peerState) []step {
	current := make(map[Key]peerState, len(have))
	for _, p := range have {
		current[p.PublicKey] = p
	}
	var (
		steps  []step
		stays  = make(map[Key]bool, len(want))
		wanted = make(map[netip.Prefix]bool)
	)
	for _, w := range want {
		stays[w.PublicKey] = true
		for p := range w.allowed {
			wanted[p] = true
		}
		if s, ok := change(current, w); ok {
			steps = append(steps, s)
		}
	}
	var (
		drop   []netip.Prefix
		remove []step
	)
	for _, h := range have {
		if !stays[h.PublicKey] {
			remove = append(remove, step{verb: stepRemove, key: h.PublicKey})
			continue
		}
		for p := range h.allowed {
			if !wanted[p] {
				drop = append(drop, p)
			}
		}
	}
	if len(drop) > 0 {
		slices.SortFunc(drop, comparePrefix)
		steps = append(steps, step{verb: stepDrop, allowed: drop})
	}
	return append(steps, remove...)
}

// change is the step that makes one peer as wanted; false: it is so already.
func change(current map[Key]peerState, w peerState) (step, bool) {
	h, exists := current[w.PublicKey]
	s := step{verb: stepUpdate, key: w.PublicKey}
	if !exists {
		s.verb = stepAdd
	}
	if w.PresharedKey != h.PresharedKey {
		s.psk = &w.PresharedKey
	}
	if w.Endpoint.IsValid() && w.Endpoint != h.Endpoint {
		s.endpoint = w.Endpoint
	}
	if w.Keepalive != h.Keepalive {
		s.keepalive = &w.Keepalive
	}
	for _, p := range w.AllowedIPs {
		if !h.allowed[p] {
			s.allowed = append(s.allowed, p)
		}
	}
	same := s.psk == nil && !s.endpoint.IsValid() && s.keepalive == nil && len(s.allowed) == 0
	return s, !exists || !same
}

// renewal is a peer's configuration as the device has it, to add it anew.
func renewal(h peerState) step {
	s, _ := change(nil, h)
	return s
}

var _ fmt.Stringer = step{}
