package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// Where packets are read one at a time, they get what they get elsewhere.
func TestPacketsOneByOne(t *testing.T) {
	s := newServer(t, Options{})
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- newPackets(s, conn).run(t.Context()) }()
	c, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for _, p := range [][]byte{nil, {1}} { // silence
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	q := question("db.weft.local.", miekg.TypeA).SetEdns0(1232, false)
	q.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_PADDING{Padding: make([]byte, 60000)}}
	client := &miekg.Conn{Conn: c, UDPSize: 65535}
	if err := client.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	if m, err := client.ReadMsg(); err != nil || m.Id != q.Id || len(m.Answer) != 1 {
		t.Errorf("%v %v", m, err)
	}
	conn.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}

// What one client has in hand is bounded, and so is what all have; nobody's end of it takes from others.
func TestPacketsInHand(t *testing.T) {
	silent, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := newServer(t, Options{Upstream: []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort()}, FallbackTimeout: time.Hour})
	defer s.resolver.close()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	packet, err := question("x.example.", miekg.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := newPackets(s, conn)
	sent, taken := 0, func() int { p.mu.Lock(); defer p.mu.Unlock(); return p.inHand }
	for i, want := range []int{256, 512, 768, 1024, 1024} {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), 9)
		for range 300 {
			p.hand(ctx, packet, from)
			sent++
		}
		if got := taken(); got != want || int(s.Counters().Shed) != sent-want {
			t.Errorf("of %d packets from %d clients %d are in hand, and %d were dropped", sent, i+1, got, s.Counters().Shed)
		}
	}
	cancel()
	p.odd.Wait()
	if len(p.sources) != 0 || p.inHand != 0 {
		t.Errorf("at the end %d are in hand, of %v", p.inHand, p.sources)
	}
}
