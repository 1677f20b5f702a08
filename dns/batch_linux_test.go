package dns

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// While the queue is full, each source gets its quota of a batch, and who sends little loses nothing.
func TestOneSourceDoesNotTakeAll(t *testing.T) {
	s := newServer(t, Options{})
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := newBatched(s, conn)
	if err != nil {
		t.Fatal(err)
	}
	packet, _ := question("db.weft.local.", miekg.TypeA).Pack()
	from := func(i int, last byte) {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[i])) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: uint16(i), Addr: [4]byte{10, 32, 0, last}}
		b.in[i].n = uint32(copy(b.buf[i], packet))
	}
	for i := range batch {
		from(i, 1)
	}
	from(5, 2)
	from(batch-1, 3)
	b.read = batch
	for _, c := range []struct{ quota, answered int }{{batch, batch}, {8, 10}, {1, 3}, {0, 2}} {
		b.quota = c.quota
		before := s.shed.Load()
		if n := b.answer(t.Context()); n != c.answered {
			t.Errorf("quota %d: %d answered, want %d", c.quota, n, c.answered)
		}
		if shed := s.shed.Load() - before; shed != uint64(batch-c.answered) {
			t.Errorf("quota %d: %d counted as shed", c.quota, shed)
		}
	}
	// Of many sources that fill a queue together each is answered, once in a batch.
	for i := range batch {
		from(i, byte(i%3))
	}
	b.quota = 0
	if n := b.answer(t.Context()); n != 3 {
		t.Errorf("%d sources are answered that have a third of a batch each", n)
	}
	// An idle socket gives everybody everything again, and who was given nothing something at once.
	b.fairness()
	if b.quota != 1 {
		t.Errorf("quota %d when the queue has drained", b.quota)
	}
	for range batch {
		b.fairness()
	}
	if b.quota != batch {
		t.Errorf("quota %d of an idle socket", b.quota)
	}
}

// Of a batch with questions of all kinds, each goes its way, and each reply to who has asked.
func TestMixedBatch(t *testing.T) {
	stranger := netip.MustParseAddr("192.0.2.1")
	s := newServer(t, Options{Allow: func(a netip.Addr) bool { return a != stranger }})
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBatched(s, conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	want := map[uint16]string{}
	for i := range batch {
		name, from, says := "db.weft.local.", [4]byte{10, 32, 0, byte(i)}, "NOERROR aa db.weft.local. A 10.32.0.2"
		switch i % 6 {
		case 1: // no query
			b.in[i].n = uint32(copy(b.buf[i], "nothing"))
			continue
		case 2: // for an upstream server
			name, says = "www.example.com.", ""
		case 3:
			from, says = stranger.As4(), "REFUSED"
		case 4:
			name, says = "nosuch.weft.local.", "NXDOMAIN aa ns weft.local. SOA"
		case 5:
			name, says = "2.0.32.10.in-addr.arpa.", "NOERROR aa 2.0.32.10.in-addr.arpa. PTR db.weft.local."
		}
		q := question(name, miekg.TypeA)
		if i%6 == 5 {
			q.Question[0].Qtype = miekg.TypePTR
		}
		q.Id = uint16(i)
		packet, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[i])) = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: from}
		b.in[i].n = uint32(copy(b.buf[i], packet))
		if says != "" {
			want[q.Id] = says
		}
	}
	b.read = batch
	n := b.answer(ctx)
	cancel()
	conn.Close()
	b.odd.Wait()
	if n != len(want) {
		t.Errorf("%d replies, want %d", n, len(want))
	}
	for i := range n {
		packet := unsafe.Slice(b.outVec[i].Base, b.outVec[i].Len)
		m := new(miekg.Msg)
		if err := m.Unpack(packet); err != nil {
			t.Fatal(err)
		}
		if got := tell(m); got != want[m.Id] {
			t.Errorf("question %d: %s, want %s", m.Id, got, want[m.Id])
		}
		if b.out[i].hdr.Name != b.in[m.Id].hdr.Name {
			t.Errorf("the reply to question %d goes to somebody else", m.Id)
		}
	}
	if c := s.Counters(); c.Refused != 5 || c.Malformed != 6 || c.Forwarded != 5 || c.Queries != uint64(len(want))+c.Forwarded {
		t.Errorf("counted %+v", c)
	}
}

// A socket whose queue is more than half full has its quota cut.
func TestQuotaFollowsTheQueue(t *testing.T) {
	s := newServer(t, Options{})
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadBuffer(1) // the least that the kernel allows
	b, err := newBatched(s, conn)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp4", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 { // more than fit
		c.Write(make([]byte, 100))
	}
	b.read = batch
	for quota := batch / 2; quota > 0; quota /= 2 {
		b.fairness()
		if b.quota != quota {
			t.Errorf("quota %d with a full queue, want %d", b.quota, quota)
		}
	}
	b.fairness()
	b.fairness()
	if b.quota != 0 {
		t.Errorf("quota %d with a queue that stays full", b.quota)
	}
}

// One client that asks fast and alone is answered always: there is no queue that is half full.
func TestAloneAndFast(t *testing.T) {
	s, addr := start(t, Options{})
	c, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	packet, _ := question("db.weft.local.", miekg.TypeA).Pack()
	buf := make([]byte, 512)
	for round := range 50 {
		for range 2 * batch {
			if _, err := c.Write(packet); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 2 * batch {
			if _, err := c.Read(buf); err != nil {
				t.Fatalf("round %d: %d answers: %v; %+v", round, i, err, s.Counters())
			}
		}
	}
	if n := s.Counters().Shed; n > 0 {
		t.Errorf("%d are counted as shed", n)
	}
}

// An answer from the table costs no allocation.
func TestAnswersAllocateNothing(t *testing.T) {
	table := testTable()
	for _, c := range []struct {
		name  string
		qtype uint16
	}{
		{"db.weft.local.", miekg.TypeA}, {"web.weft.local.", miekg.TypeA}, {"web.weft.local.", miekg.TypeAAAA}, {"NoSuch.weft.local.", miekg.TypeA},
		{"web.", miekg.TypeA}, {"2.0.32.10.in-addr.arpa.", miekg.TypePTR}, {"x.apps.weft.local.", miekg.TypeA},
	} {
		packet, _ := question(c.name, c.qtype).SetEdns0(1232, false).Pack()
		q, buf := new(query), make([]byte, 0, maxUDP)
		if n := testing.AllocsPerRun(100, func() {
			if !q.parse(packet) {
				t.Fatal("not parsed")
			}
			if _, _, ok := table.answer(buf[:0], q, 1); !ok {
				t.Fatal("not answered")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// Whatever is sent to the sockets, they go on answering, and end when they are told to.
func TestManyPacketsAtOnce(t *testing.T) {
	_, addr := start(t, Options{})
	var conns []net.Conn
	for range 8 {
		c, err := net.Dial("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	packet, _ := question("db.weft.local.", miekg.TypeA).Pack()
	odd := append([]byte(nil), packet...)
	odd[2] = 0x28 // an update
	buf := make([]byte, 512)
	for range 20 {
		for _, c := range conns {
			c.Write(packet)
			c.Write(odd)
			c.Write(packet[:20])
		}
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			good := 0
			for range 3 {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if m := new(miekg.Msg); m.Unpack(buf[:n]) == nil && len(m.Answer) == 1 {
					good++
				}
			}
			if good != 1 {
				t.Fatalf("%d good answers", good)
			}
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	table := testTable()
	packet, _ := question("db.weft.local.", miekg.TypeA).Pack()
	q, buf := new(query), make([]byte, 0, maxUDP)
	for b.Loop() {
		q.parse(packet)
		table.answer(buf, q, 1)
	}
}

// BenchmarkChange is one name more and one less in tables of two sizes.
func BenchmarkChange(b *testing.B) {
	for _, size := range []int{10, 100000} {
		b.Run(map[int]string{10: "10", 100000: "100000"}[size], func(b *testing.B) {
			e := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}, nil).Edit()
			for i := range size {
				e.Add(Record{Name: "n" + netip.AddrFrom4([4]byte{0, byte(i >> 16), byte(i >> 8), byte(i)}).String() + ".weft.local", Addr: netip.AddrFrom4([4]byte{10, 32 + byte(i>>16), byte(i >> 8), byte(i)}), Host: "h"})
			}
			table := e.Done()
			r := Record{Name: "web.weft.local", Addr: netip.MustParseAddr("10.47.0.1"), Host: "h"}
			for b.Loop() {
				e := table.Edit()
				e.Add(r)
				table = e.Done()
				e = table.Edit()
				e.Remove(r)
				table = e.Done()
			}
		})
	}
}

// All packets of one address go to one socket, whatever its port, and those of its neighbours to others.
func TestSteer(t *testing.T) {
	conns, err := listenUDP("udp4", netip.MustParseAddrPort("127.0.0.1:0"), perAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(conns)
	at := conns[0].LocalAddr().(*net.UDPAddr)
	const times = 20
	for last := byte(1); last <= 2*perAddress; last++ {
		for range times {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, last)}, at)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte{last}); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		conn := conns[(127<<24+int(last))%perAddress]
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for i := range times {
			buf := make([]byte, 8)
			if n, _, err := conn.ReadFrom(buf); err != nil || n != 1 || buf[0] != last {
				t.Fatalf("packet %d of 127.0.0.%d: %x, %v", i, last, buf[:n], err)
			}
		}
	}
	six, err := listenUDP("udp6", netip.MustParseAddrPort("[::1]:0"), perAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(six)
	for range times {
		c, err := net.DialUDP("udp6", nil, six[0].LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte{6}); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if err := six[1].SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil { // ::1
		t.Fatal(err)
	}
	for i := range times {
		if _, _, err := six[1].ReadFrom(make([]byte, 8)); err != nil {
			t.Fatalf("packet %d of ::1: %v", i, err)
		}
	}
}
