package router

import (
	"math/bits"
	"time"

	"weft/dns"
	"weft/mesh"
	"weft/peer"
)

// farRank is that of a host whose distance is not known.
const farRank = 20

// rankOf turns a round trip into a rank: 1 below half a millisecond, and one more for each
// doubling. Near the border between two, what a host had counts, so that noise does not
// make the order of answers flap.
func rankOf(had uint16, rtt time.Duration) uint16 {
	if rtt <= 0 {
		return farRank
	}
	class := func(d time.Duration) uint16 {
		return min(1+uint16(bits.Len64(uint64(d/(500*time.Microsecond)))), farRank-1)
	}
	if had >= class(rtt*3/4) && had <= class(rtt*5/4) {
		return had
	}
	return class(rtt)
}

// placeLocked tells the table how a host's names are to be answered now.
func (z *zone) placeLocked(e *dns.Edit, id peer.ID, st *mesh.State, hidden func(mesh.Host) bool) {
	h, _ := st.Host(id)
	s := dns.HostState{Hidden: hidden(h)}
	if z.nearest && !h.Self {
		s.Rank = rankOf(z.ranks[id], h.RTT)
		z.ranks[id] = s.Rank
	}
	e.SetHost(id.String(), s)
}
