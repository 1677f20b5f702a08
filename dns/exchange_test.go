package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"testing"

	miekg "github.com/miekg/dns"
)

// Who sees some questions to upstream servers does not know the ID or the port of the next: neither is a step from the one before, or
// from what the client sent.
func TestQuestionsAreHardToGuess(t *testing.T) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	type asked struct{ id, port uint16 }
	got := make(chan asked, 1000)
	go func() { // a server that knows no name
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if isProbe(b[:n]) {
				continue
			}
			got <- asked{binary.BigEndian.Uint16(b), from.Port()}
			b[2] |= 0x80
			b[3] = miekg.RcodeNameError
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	_, addr := start(t, Options{Upstream: []netip.AddrPort{c.LocalAddr().(*net.UDPAddr).AddrPort()}})
	const n = 40
	different := map[string]map[uint16]bool{}
	seen := func(what string, x uint16) {
		if different[what] == nil {
			different[what] = map[uint16]bool{}
		}
		different[what][x] = true
	}
	var last asked
	for i := range n {
		q := question("n"+strconv.Itoa(i)+".example.com.", miekg.TypeA)
		q.Id = uint16(1000 + i)
		ask(t, "udp", addr, q)
		a := <-got
		seen("IDs", a.id)
		seen("steps from ID to ID", a.id-last.id)
		seen("distances from the client's IDs", a.id-q.Id)
		seen("ports", a.port)
		seen("steps from port to port", a.port-last.port)
		last = a
	}
	for what, xs := range different {
		if len(xs) < n*3/4 {
			t.Errorf("%d different %s in %d questions", len(xs), what, n)
		}
	}
}
