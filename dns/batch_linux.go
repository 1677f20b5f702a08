package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batches says that UDP is read and answered many packets at a time.
const batches = true

const (
	// batch is how many packets one system call reads or writes at most.
	batch = 32
	// socketBuffer is asked for in bytes, each way: what comes while a router is restarted, or in a burst, waits
	// there; and so do replies to neighbours that the kernel looks for, for seconds.
	socketBuffer = 4 << 20
	// maxFailures is how many calls may fail in a row before the socket is given up.
	maxFailures = 100
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// batched reads packets from one UDP socket, many at a time, and answers them:
// from the table at once and in place, others through goroutines of their own. What it needs for
// that is made once. Its socket is bound to one address, so that replies leave from there.
type batched struct {
	*packets
	raw syscall.RawConn

	in, out       [batch]mmsghdr
	inVec, outVec [batch]unix.Iovec
	names         [batch]unix.RawSockaddrInet6 // large enough for both families
	buf           [batch][]byte
	reply         [batch][]byte
	// The questions of a batch that are for the table, the packets that they came in, and the searches for their names.
	q        [batch]query
	from     [batch]int
	searches [batch]search

	read, wrote int // of the last call
	errno       syscall.Errno
	receive     func(fd uintptr) bool
	send        func(fd uintptr) bool
	sending     []mmsghdr

	quota int // packets of one source in a batch that are answered; zero: one, and of a source that has half of a batch none
}

func newBatched(s *Server, conn *net.UDPConn) (*batched, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Sandboxes that do not know the call are left to the library.
	missing := false
	raw.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, 0, 0, unix.MSG_DONTWAIT, 0, 0)
		missing = errno == unix.ENOSYS || errno == unix.EPERM
	})
	if missing {
		return nil, errors.ErrUnsupported
	}
	b := &batched{packets: newPackets(s, conn), raw: raw, quota: batch}
	for i := range batch {
		// Only the first page of each is ever touched, unless somebody sends more.
		b.buf[i] = make([]byte, 65535)
		b.reply[i] = make([]byte, 0, maxUDP)
		b.inVec[i].Base = &b.buf[i][0]
		b.inVec[i].SetLen(len(b.buf[i]))
		b.in[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.in[i].hdr.Iov = &b.inVec[i]
		b.in[i].hdr.SetIovlen(1)
	}
	b.receive = func(fd uintptr) bool {
		for i := range batch {
			b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
		}
		n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in)), batch, unix.MSG_DONTWAIT, 0, 0)
		b.read, b.errno = int(n), errno
		return errno != unix.EAGAIN
	}
	b.send = func(fd uintptr) bool {
		n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.sending[0])), uintptr(len(b.sending)), unix.MSG_DONTWAIT, 0, 0)
		b.wrote, b.errno = int(n), errno
		return true // it never waits for room: whoever asks from an address that nobody has would stop it so
	}
	return b, nil
}

// run answers until the socket is closed.
func (b *batched) run(ctx context.Context) error {
	defer b.odd.Wait()
	for failures := 0; ; {
		if err := b.raw.Read(b.receive); err != nil {
			return err
		}
		switch {
		case b.errno == unix.EINTR:
			continue
		case b.errno != 0:
			// Errors that ICMP brought for earlier replies come here too.
			if failures++; failures > maxFailures {
				return fmt.Errorf("receive: %w", b.errno)
			}
			continue
		}
		failures = 0
		b.fairness()
		b.flush(b.answer(ctx))
	}
}

// answer fills b.out with replies, and says how many there are.
func (b *batched) answer(ctx context.Context) (n int) {
	s := b.s
	refused, asked := 0, 0
	for i := range b.read {
		packet, q := b.packet(i), &b.q[asked]
		switch {
		case b.quota < batch && b.over(i):
			s.shed.Add(1)
		case !q.parse(packet):
			b.hand(ctx, packet, b.source(i))
		case s.allow != nil && !s.allow(b.source(i).Addr()):
			refused++
			b.put(n, i, refusal(b.reply[n][:0], q))
			n++
		default:
			b.from[asked], b.searches[asked].name = i, q.lower
			asked++
		}
	}
	table := s.table.Load()
	table.names.getAll(b.searches[:asked])
	for j := range asked {
		i := b.from[j]
		reply, _, ok := table.answerAt(b.reply[n][:0], &b.q[j], b.searches[j].node, s.ttl)
		if !ok {
			b.hand(ctx, b.packet(i), b.source(i))
			continue
		}
		s.told(reply)
		b.put(n, i, reply)
		n++
	}
	if n > 0 {
		s.queries.Add(uint64(n))
	}
	if refused > 0 {
		s.refused.Add(uint64(refused))
	}
	return n
}

// packet is the i-th of the batch.
func (b *batched) packet(i int) []byte { return b.buf[i][:b.in[i].n] }

// put makes a reply to the i-th packet the n-th that is sent.
func (b *batched) put(n, i int, reply []byte) {
	b.reply[n] = reply
	b.outVec[n].Base = &reply[0]
	b.outVec[n].SetLen(len(reply))
	h := &b.out[n].hdr
	h.Name, h.Namelen = b.in[i].hdr.Name, b.in[i].hdr.Namelen
	h.Iov = &b.outVec[n]
	h.SetIovlen(1)
}

// flush sends the first n of b.out. What can't be sent to one client is no
// matter for the next.
func (b *batched) flush(n int) {
	for from := 0; from < n; {
		b.sending = b.out[from:n]
		if b.raw.Write(b.send) != nil {
			return
		}
		if b.errno == unix.EAGAIN {
			b.s.shed.Add(uint64(n - from))
			return
		}
		if b.errno != 0 {
			b.wrote = 1
			if b.errno == unix.EINTR {
				b.wrote = 0
			}
		}
		from += b.wrote
	}
}

func (b *batched) source(i int) netip.AddrPort {
	n := &b.names[i]
	if n.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(n)).Addr), swap(n.Port))
	}
	a := netip.AddrFrom16(n.Addr)
	if a.IsLinkLocalUnicast() {
		if ifi, err := net.InterfaceByIndex(int(n.Scope_id)); err == nil {
			a = a.WithZone(ifi.Name)
		}
	}
	return netip.AddrPortFrom(a, swap(n.Port))
}

// swap turns a port from network order to this machine's, or back.
func swap(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// fairness sets the quota. While packets come faster than they are answered, the
// socket's queue is full and the kernel drops packets of all clients alike. So, with the
// queue more than half full, the sources that send most are answered less and less,
// down to one packet of theirs in a batch: dropping is cheap, the queue drains, and the others get
// through. An answer can take so long that the queue does not drain even then: who has sent
// half of a batch gets none for that time.
func (b *batched) fairness() {
	if b.read < batch && b.quota == batch {
		return
	}
	var info [unix.SK_MEMINFO_VARS]uint32
	full := false
	b.raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		full = errno == 0 && info[unix.SK_MEMINFO_RMEM_ALLOC] > info[unix.SK_MEMINFO_RCVBUF]/2
	})
	if full {
		b.quota /= 2
	} else {
		b.quota = min(batch, b.quota+1)
	}
}

// over says that the source of the i-th packet has had what is its due in this batch.
func (b *batched) over(i int) bool {
	if b.quota > 0 {
		return b.before(i, i) >= b.quota
	}
	return b.before(i, i) > 0 || b.before(i, b.read) >= batch/2
}

// before counts the packets of the source of the i-th among the first n of the batch.
func (b *batched) before(i, n int) (same int) {
	for j := range n {
		if b.names[j].Family == b.names[i].Family && b.sameSource(i, j) {
			same++
		}
	}
	return same
}

func (b *batched) sameSource(i, j int) bool {
	if b.names[i].Family == unix.AF_INET {
		return (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[i])).Addr == (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[j])).Addr
	}
	return b.names[i].Addr == b.names[j].Addr
}

// refusal is the reply to a query of a stranger: no longer than the query, so that nobody
// gains by making us send it elsewhere.
func refusal(b []byte, q *query) []byte {
	w := writer{b: b, rcode: 5, limit: maxUDP}
	w.begin(q)
	w.end(q)
	w.b[2] &^= 0x04 // not authoritative
	w.b[3] &^= 0x80
	return w.b
}

// tune asks for large queues: by force as root, else as much as is allowed.
func tune(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[0], socketBuffer) != nil {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], socketBuffer)
			}
		}
	})
}

// steer has the kernel choose one of n sockets that share an address by a packet's source
// address alone: its last 32 bits modulo n. The program is that of SO_ATTACH_REUSEPORT_CBPF, socket(7).
func steer(c syscall.RawConn, ipv6 bool, n int) {
	const networkHeader = 1<<32 - 0x100000 // SKF_NET_OFF of linux/filter.h
	source := uint32(networkHeader + 12)
	if ipv6 {
		source = networkHeader + 8 + 12
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: source},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	c.Control(func(fd uintptr) {
		unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
}

// share lets several sockets of this program have one address.
func share(c syscall.RawConn) (err error) {
	if ctl := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); ctl != nil {
		return ctl
	}
	return err
}
