package mesh

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"weft/peer"
)

// Gossip may take a healthy host for dead: at 20 % loss and 50 hosts it does so
// some times an hour. Between two hosts of many there is no traffic for a while, so
// that a silent tunnel says little then. So before a host counts as failed it is
// asked through the tunnel, again and again; any answer counts, as LastReceive shows.
const (
	doubtPings = 8
	doubtEvery = 200 * time.Millisecond
	doubtTime  = doubtPings * doubtEvery
	doubtsMax  = 64 // hosts that are asked at a time; of those beyond, silence is enough
)

// doubts asks hosts that gossip calls dead.
type doubts struct {
	wg    sync.WaitGroup
	slots chan struct{}
}

func newDoubts() *doubts { return &doubts{slots: make(chan struct{}, doubtsMax)} }

// doubtful is a host that gossip calls dead and that counts as alive so far.
type doubtful struct {
	id   peer.ID
	name string // of its start, in gossip
}

// ask begins to ask a host. It does not wait.
func (d *doubts) ask(ctx context.Context, m *Mesh, h doubtful) {
	select {
	case d.slots <- struct{}{}:
	default:
		return
	}
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.controlAddr(h.id), uint16(m.o.GossipPort)))
	d.wg.Go(func() {
		defer func() { <-d.slots }()
		for range doubtPings {
			ml := m.gossip.Load()
			if ml == nil {
				return
			}
			d.wg.Go(func() { _, _ = ml.Ping(h.name, at) }) // it has a timeout of its own
			select {
			case <-ctx.Done():
				return
			case <-time.After(doubtEvery):
			}
		}
		poke(m.look)
	})
}
