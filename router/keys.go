package router

import (
	"fmt"
	"slices"

	"weft/mesh"
	"weft/peer"
)

// A record may name any WireGuard key, and made-up hosts cost nothing. If two hosts
// had one key on the device, one of them would have the other's packets, so each key
// is one host's, and who else names it has no tunnel.

// keyDispute is a host that names a key which is another's.
type keyDispute struct {
	Host   peer.ID
	Owner  peer.ID // whose key it is
	Proven bool    // Owner has proven that it has the key; else neither has
}

func (d keyDispute) Error() string {
	why := "and neither proves that it has it"
	if d.Proven {
		why = "which has proven that it has it"
	}
	return fmt.Sprintf("host %v names the WireGuard key of %v, %s: %v gets no tunnel", d.Host, d.Owner, why, d.Host)
}

// keyOwners says whose each WireGuard key is. Who proves that it has a key comes
// before who does not, as hosts of earlier builds; then who has it on the device
// already, as holds says, and then the lower ID. The own key is nobody's of hs.
// Nothing depends on the order of hs; the disputes are sorted by host.
func keyOwners(hs []mesh.Host, self peer.ID, own peer.Key, holds func(peer.Key, peer.ID) bool) (map[peer.Key]peer.ID, []keyDispute) {
	before := func(a, b mesh.Host) bool {
		if p := a.Record.ProvesKey(); p != b.Record.ProvesKey() {
			return p
		}
		for _, h := range []mesh.Host{a, b} {
			if holds(h.Record.WireGuard, h.ID) {
				return h.ID == a.ID
			}
		}
		return a.ID.Compare(b.ID) < 0
	}
	best := make(map[peer.Key]mesh.Host, len(hs))
	for _, h := range hs {
		if b, taken := best[h.Record.WireGuard]; !taken || before(h, b) {
			best[h.Record.WireGuard] = h
		}
	}
	owners := make(map[peer.Key]peer.ID, len(best))
	for k, h := range best {
		owners[k] = h.ID
	}
	owners[own] = self
	var disputes []keyDispute
	for _, h := range hs {
		k := h.Record.WireGuard
		if o := owners[k]; o != h.ID {
			disputes = append(disputes, keyDispute{Host: h.ID, Owner: o, Proven: o == self || best[k].Record.ProvesKey()})
		}
	}
	slices.SortFunc(disputes, func(a, b keyDispute) int { return a.Host.Compare(b.Host) })
	return owners, disputes
}

// maxDisputes is how many status names; made-up hosts may make any number.
const maxDisputes = 4

// disputeNotices are the disputes as an operator reads them.
func disputeNotices(ds []keyDispute) []string {
	var out []string
	for _, d := range ds[:min(len(ds), maxDisputes)] {
		out = append(out, d.Error())
	}
	if n := len(ds) - len(out); n > 0 {
		out = append(out, fmt.Sprintf("%d more hosts name WireGuard keys of others: they get no tunnel", n))
	}
	return out
}

// nameDisputes has the mesh count and name who names another's key, once each as
// long as it lasts. applyMu is held.
func (r *Router) nameDisputes(ds []keyDispute) {
	now := make(map[keyDispute]bool, len(ds))
	for _, d := range ds {
		now[d] = true
		if !r.disputes[d] {
			r.mesh.RejectKey(d.Host, d)
		}
	}
	r.disputes = now
}
