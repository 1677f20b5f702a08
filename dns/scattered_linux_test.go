package dns

import (
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// BenchmarkScattered answers whole batches, as they come from the kernel and up to where they would go back to it, that ask for the names
// of a table in an order that no cache likes. The questions are written into the buffers of the batch, so that what is missed is the
// table and not a list of questions. Warm is with nothing else going on. Cold is as in service, where the kernel and other programs have the
// processor between two batches and leave little in its second cache, here of 4 MiB at most. Alone is cold, with one question in a batch. cpu-ns is the thread's own time for one
// question, which says more than the clock on a machine that does other things, too.
func BenchmarkScattered(b *testing.B) {
	for _, size := range []int{10, 10000, 100000} {
		b.Run("warm/"+strconv.Itoa(size), func(b *testing.B) { benchmarkScattered(b, size, batch, nil) })
		b.Run("cold/"+strconv.Itoa(size), func(b *testing.B) { benchmarkScattered(b, size, batch, make([]byte, 4<<20)) })
		b.Run("alone/"+strconv.Itoa(size), func(b *testing.B) { benchmarkScattered(b, size, 1, make([]byte, 4<<20)) })
	}
}

func benchmarkScattered(b *testing.B, size, questions int, others []byte) {
	e := NewTable("weft.local", []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}, nil).Edit()
	for i := range size {
		name := strconv.Itoa(1000000+i) + ".weft.local"
		if err := e.Add(Record{Name: name, Addr: netip.AddrFrom4([4]byte{10, 32 + byte(i>>16), byte(i >> 8), byte(i)}), Owner: "0123456789ab", Host: "h"}); err != nil {
			b.Fatal(err)
		}
	}
	s := newServer(b, Options{TTL: 1})
	s.SetTable(e.Done())
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	in, err := newBatched(s, conn)
	if err != nil {
		b.Fatal(err)
	}
	packet, err := question("1000000.weft.local.", miekg.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	for i := range batch {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&in.names[i])) = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte{127, 0, 0, 1}}
		in.in[i].n = uint32(copy(in.buf[i], packet))
	}
	in.read = questions

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	random, rounds, took := uint64(1), 0, time.Duration(0)
	for b.Loop() {
		for i := range questions {
			random ^= random << 13
			random ^= random >> 7
			random ^= random << 17
			digits := in.buf[i][headerLen+1:]
			for n, at := int(random>>32)%size, 6; at > 0; n, at = n/10, at-1 {
				digits[at] = '0' + byte(n%10)
			}
		}
		for i := 0; i < len(others); i += 64 {
			others[i]++
		}
		begin := threadTime(b)
		n := in.answer(b.Context())
		took += threadTime(b) - begin
		if n != questions {
			b.Fatalf("%d answers", n)
		}
		rounds++
	}
	b.ReportMetric(float64(took)/float64(rounds*questions), "cpu-ns/question")
	b.ReportMetric(0, "ns/op")
	if s.Counters().Failed > 0 || len(in.reply[0]) != len(packet)+16 {
		b.Fatalf("the last answer is %x", in.reply[0])
	}
}

// threadTime is how long this thread has run.
func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
