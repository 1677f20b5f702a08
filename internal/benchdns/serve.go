package main

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/dns"
)

// serve is one of our own servers, until it is killed.
func serve(kind, hosts string) error {
	if kind == "echo" {
		return echo()
	}
	if path := os.Getenv("BENCHDNS_PROFILE"); path != "" { // of the first 10 s
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		pprof.StartCPUProfile(f)
		time.AfterFunc(10*time.Second, func() { pprof.StopCPUProfile(); f.Close() })
	}
	s, err := dns.New(dns.Options{TTL: 1, Upstream: []netip.AddrPort{}, Allow: func(a netip.Addr) bool { return a.IsLoopback() || a.IsPrivate() }})
	if err != nil {
		return err
	}
	f, err := os.Open(hosts)
	if err != nil {
		return err
	}
	defer f.Close()
	e := dns.NewTable(dns.DefaultDomain, []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}, nil).Edit()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		addr, name, _ := strings.Cut(sc.Text(), " ")
		if err := e.Add(dns.Record{Name: name, Addr: netip.MustParseAddr(addr), Owner: "0123456789ab", Host: "k3v7q2m5x4n6p8r9"}); err != nil {
			return err
		}
	}
	s.SetTable(e.Done())
	if err := s.SetListen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:" + port)}); err != nil {
		return err
	}
	return s.Run(context.Background())
}

// echo sends every packet back with the bit of a reply set, from two sockets and with
// the cheapest system calls there are, one thread each.
func echo() error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return err
	}}
	for range 2 {
		c, err := config.ListenPacket(context.Background(), "udp4", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		go raw.Control(func(fd uintptr) { echoLoop(fd) })
	}
	select {}
}

func echoLoop(fd uintptr) {
	unix.SetNonblock(int(fd), false)
	const n = 32
	type msg struct {
		hdr unix.Msghdr
		len uint32
	}
	var msgs [n]msg
	var vecs [n]unix.Iovec
	var names [n]unix.RawSockaddrInet4
	bufs := make([]byte, n*2048)
	for {
		for i := range n {
			vecs[i].Base = &bufs[i*2048]
			vecs[i].SetLen(2048)
			msgs[i].hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &vecs[i]}
			msgs[i].hdr.SetIovlen(1)
		}
		got, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&msgs)), n, unix.MSG_WAITFORONE, 0, 0)
		if errno != 0 {
			continue
		}
		for i := range int(got) {
			bufs[i*2048+2] |= 0x80
			vecs[i].SetLen(int(msgs[i].len))
		}
		syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs)), got, 0, 0, 0)
	}
}
