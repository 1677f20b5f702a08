package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestSetListenIsTheWholeState(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	one, two := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.2:0")
	if err := s.SetListen([]netip.AddrPort{one, two, one}); err != nil {
		t.Fatal(err)
	}
	both := s.Listening()
	if len(both) != 2 || both[0].Addr() != one.Addr() || both[1].Addr() != two.Addr() {
		t.Fatalf("listening on %v", both)
	}
	// A connection that is open stays open: what is bound is not touched.
	c, err := miekg.DialTimeout("tcp", both[0].String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := s.SetListen([]netip.AddrPort{two, one}); err != nil || !slices.Equal(s.Listening(), both) {
		t.Fatalf("set again: %v, listening on %v", err, s.Listening())
	}
	if err := s.SetListen([]netip.AddrPort{one}); err != nil || !slices.Equal(s.Listening(), both[:1]) {
		t.Fatalf("without the second: %v, listening on %v", err, s.Listening())
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
		t.Fatal(err)
	}
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Errorf("old connection: %v %v", m, err)
	}
	// The port of the second is free again, both ways.
	if err := s.SetListen([]netip.AddrPort{one, both[1]}); err != nil || !slices.Equal(s.Listening(), both) {
		t.Errorf("bound anew: %v, listening on %v", err, s.Listening())
	}
	if err := s.SetListen(nil); err != nil || len(s.Listening()) != 0 {
		t.Errorf("nothing: %v, listening on %v", err, s.Listening())
	}
}

// An address of our own that goes may be what is in the way of one that comes.
func TestSetListenFromAllToOne(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	if err := s.SetListen([]netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}); err != nil {
		t.Fatal(err)
	}
	one := netip.AddrPortFrom(loopback.Addr(), s.Listening()[0].Port())
	if err := s.SetListen([]netip.AddrPort{one}); err != nil || !slices.Equal(s.Listening(), []netip.AddrPort{one}) {
		t.Fatalf("%v, listening on %v", err, s.Listening())
	}
	ask(t, "udp", one.String(), question("db.weft.local.", miekg.TypeA))
	ask(t, "tcp", one.String(), question("db.weft.local.", miekg.TypeA))
}

// Replies come from the address that was asked, also where all are listened on:
// the client's sockets are connected and take no others.
func TestRepliesLeaveFromTheAddressAsked(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	if err := s.SetListen([]netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("127.0.0.3:0")}); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Listening() {
		if l.Addr().IsUnspecified() {
			l = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), l.Port())
		}
		ask(t, "udp", l.String(), question("db.weft.local.", miekg.TypeA))
	}
}

func TestTakenPort(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			var taken netip.AddrPort
			if network == "udp" {
				c, err := net.ListenPacket("udp4", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				taken = c.LocalAddr().(*net.UDPAddr).AddrPort()
			} else {
				l, err := net.Listen("tcp4", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				taken = l.Addr().(*net.TCPAddr).AddrPort()
			}
			s := newServer(t, Options{})
			run(t, s)
			other := netip.MustParseAddrPort("127.0.0.2:0")
			absent := netip.MustParseAddrPort("198.51.100.77:10053")
			err := s.SetListen([]netip.AddrPort{taken, absent, {}, other})
			if got := s.Listening(); len(got) != 1 || got[0].Addr() != other.Addr() {
				t.Errorf("listening on %v", got)
			}
			var le *ListenError
			if !errors.As(err, &le) || le.Addr != taken || le.Network != network || !errors.Is(err, syscall.EADDRINUSE) || !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(le.Error(), taken.String()) || !strings.Contains(le.Hint(), "--dns-listen-address") || strings.Contains(le.Error(), "\n") {
				t.Errorf("error %q, hint %q", le, le.Hint())
			}
			if runtime.GOOS == "linux" {
				comm, _ := os.ReadFile("/proc/self/comm")
				if !strings.HasPrefix(le.Holder, strings.TrimSpace(string(comm))+" (pid ") {
					t.Errorf("holder %q", le.Holder)
				}
			}
			if n := strings.Count(err.Error(), "\n"); n != 2 {
				t.Errorf("%d errors: %v", n+1, err)
			}
			if !strings.Contains(err.Error(), "198.51.100.77:10053") {
				t.Errorf("the absent address is not named: %v", err)
			}
		})
	}
}

func TestListenBeforeRunAndAfter(t *testing.T) {
	s := newServer(t, Options{})
	addr := listen(t, s)
	c, err := miekg.DialTimeout("udp", addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Errorf("asked before Run: %v %v", m, err)
	}
	stop()
	if len(s.Listening()) != 0 {
		t.Errorf("listening on %v after Run", s.Listening())
	}
	if err := s.SetListen([]netip.AddrPort{loopback}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetListen after Run: %v", err)
	}
	if err := s.Run(context.Background()); err == nil {
		t.Error("runs twice")
	}
}

// A socket that fails on its own is forgotten, and bound again when it is wanted
// again.
func TestLostSocket(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	listen(t, s)
	for _, lose := range []func(*socket){func(b *socket) { closeAll(b.udp) }, func(b *socket) { b.tcp.Close() }} {
		s.mu.Lock()
		b := s.sockets[loopback]
		s.mu.Unlock()
		lose(b)
		deadline, look := time.After(5*time.Second), time.NewTicker(time.Millisecond)
		for len(s.Listening()) != 0 {
			select {
			case <-look.C:
			case <-deadline:
				t.Fatal("a closed socket is still listed")
			}
		}
		look.Stop()
		addr := listen(t, s)
		ask(t, "udp", addr, question("db.weft.local.", miekg.TypeA))
		ask(t, "tcp", addr, question("db.weft.local.", miekg.TypeA))
	}
}
