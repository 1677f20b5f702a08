package dns

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

const (
	// maxInHand bounds the packets of one socket that are not answered from the table
	// at once: questions for upstream servers, and what only the library reads.
	maxInHand = 1024
	// maxSourceInHand bounds those of one client.
	maxSourceInHand = 256
)

// packets reads one UDP socket a packet at a time and has goroutines answer, where [batched] can't: outside Linux, and in sandboxes
// that do not know its calls.
type packets struct {
	s    *Server
	conn *net.UDPConn
	odd  sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	inHand  int
	sources map[netip.Addr]int
}

func newPackets(s *Server, conn *net.UDPConn) *packets {
	return &packets{s: s, conn: conn, sources: map[netip.Addr]int{}}
}

// run answers until the socket is closed.
func (p *packets) run(ctx context.Context) error {
	defer p.odd.Wait()
	buf := make([]byte, 65535)
	for {
		n, src, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		p.hand(ctx, buf[:n], src)
	}
}

// hand has a goroutine answer a packet. When too many are in hand, of all clients or of this one, the
// packet is dropped, as a full socket would.
func (p *packets) hand(ctx context.Context, packet []byte, src netip.AddrPort) {
	from := src.Addr().Unmap()
	if !p.take(from) {
		p.s.shed.Add(1)
		return
	}
	m, reply := p.s.message(packet, from)
	p.odd.Go(func() {
		defer p.give(from)
		if m != nil {
			reply = p.s.reply(ctx, m, from, true)
		}
		if reply != nil {
			p.conn.WriteToUDPAddrPort(reply, src) // who can't be reached asks again, or not
		}
	})
}

func (p *packets) take(from netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inHand >= maxInHand || p.sources[from] >= maxSourceInHand {
		return false
	}
	p.inHand++
	p.sources[from]++
	return true
}

func (p *packets) give(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inHand--
	if p.sources[from]--; p.sources[from] == 0 {
		delete(p.sources, from)
	}
}
