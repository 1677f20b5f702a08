package dns

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
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
func TestSetListenFromAnyPortToOne(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	if err := s.SetListen([]netip.AddrPort{loopback}); err != nil {
		t.Fatal(err)
	}
	one := s.Listening()[0]
	if err := s.SetListen([]netip.AddrPort{one}); err != nil || !slices.Equal(s.Listening(), []netip.AddrPort{one}) {
		t.Fatalf("%v, listening on %v", err, s.Listening())
	}
	ask(t, "udp", one.String(), question("db.weft.local.", miekg.TypeA))
	ask(t, "tcp", one.String(), question("db.weft.local.", miekg.TypeA))
}

// Where all addresses are listened on, replies may leave from another than was asked.
func TestAllAddressesAreRefused(t *testing.T) {
	s := newServer(t, Options{})
	for _, at := range []string{"0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"} {
		err := s.SetListen([]netip.AddrPort{netip.MustParseAddrPort(at)})
		if e, is := errors.AsType[*ListenError](err); !is || !e.Addr.Addr().IsUnspecified() || len(s.Listening()) != 0 {
			t.Errorf("%s: %v, listening on %v", at, err, s.Listening())
		}
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

// A socket that fails on its own is bound again without being told to.
func TestLostSocket(t *testing.T) {
	s := newServer(t, Options{})
	run(t, s)
	first := netip.MustParseAddrPort(listen(t, s))
	if err := s.SetListen([]netip.AddrPort{first}); err != nil {
		t.Fatal(err)
	}
	for _, lose := range []func(*socket){func(b *socket) { closeAll(b.udp) }, func(b *socket) { b.tcp.Close() }} {
		s.mu.Lock()
		b := s.sockets[first]
		s.mu.Unlock()
		lose(b)
		await(t, "another is bound", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.sockets[first] != nil && s.sockets[first] != b
		})
		ask(t, "udp", first.String(), question("db.weft.local.", miekg.TypeA))
		ask(t, "tcp", first.String(), question("db.weft.local.", miekg.TypeA))
	}
}

// counting is a holder that notes when it is asked what it holds, as it is at every try to bind.
type counting struct {
	keeping
	asked chan time.Time
}

func (c *counting) Names() ([]string, error) {
	c.asked <- time.Now()
	return c.keeping.Names()
}

// What can't be bound again at once is tried more and more rarely, until it can.
func TestLostSocketIsTriedAgain(t *testing.T) {
	var other *net.UDPConn
	var at netip.AddrPort
	for free := false; !free; { // for TCP as well
		var err error
		if other, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback)); err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		at = other.LocalAddr().(*net.UDPAddr).AddrPort()
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		if free = err == nil; free {
			l.Close()
		}
	}
	synctest.Test(t, func(t *testing.T) {
		k := &counting{newKeeping(t), make(chan time.Time)}
		s := newServer(t, Options{Keeper: k})
		s.inherited = true
		s.wanted = []netip.AddrPort{at}
		s.soon[at] = true
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		begin := time.Now()
		go s.rebind(ctx)
		s.lookAgain()
		last := <-k.asked
		if last != begin {
			t.Errorf("tried at once after %v", last.Sub(begin))
		}
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			again := <-k.asked
			if got := again.Sub(last); got != want*time.Second {
				t.Errorf("tried again after %v, want %d s", got, want)
			}
			last = again
		}
		if got := s.Listening(); len(got) != 0 {
			t.Errorf("listening on %v, which is taken", got)
		}
		other.Close()
		<-k.asked
		synctest.Wait()
		if got := s.Listening(); !slices.Equal(got, []netip.AddrPort{at}) {
			t.Errorf("listening on %v, want %v", got, at)
		}
		s.mu.Lock()
		for _, b := range s.sockets {
			b.stop()
		}
		s.mu.Unlock()
	})
}

// What is bound while the holder does not tell what it has, and is then held, is left alone.
func TestHolderOfWhatIsBound(t *testing.T) {
	k := newKeeping(t)
	s := newServer(t, Options{Keeper: &forgetful{k, 1}})
	run(t, s)
	free := newServer(t, Options{})
	at := netip.MustParseAddrPort(listen(t, free))
	run(t, free)()
	if err := s.SetListen([]netip.AddrPort{at}); err != nil || len(k) == 0 {
		t.Fatalf("%v, held %v", err, k)
	}
	bound := s.sockets[at]
	if err := s.SetListen([]netip.AddrPort{at}); err != nil || !s.inherited || s.sockets[at] != bound {
		t.Errorf("%v, asked the holder %v, the same socket %v", err, s.inherited, s.sockets[at] == bound)
	}
}

// keeping is a working model of a holder: duplicates of sockets, by name.
type keeping map[string]*os.File

func (k keeping) Take() (map[string]*os.File, error) {
	out := map[string]*os.File{}
	for name, f := range k {
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			return nil, err
		}
		out[name] = os.NewFile(uintptr(fd), name)
	}
	return out, nil
}

func (k keeping) Names() ([]string, error) { return slices.Sorted(maps.Keys(k)), nil }

func (k keeping) Keep(name string, s syscall.RawConn) (err error) {
	s.Control(func(fd uintptr) {
		var dup int
		if dup, err = syscall.Dup(int(fd)); err == nil {
			k[name] = os.NewFile(uintptr(dup), name)
		}
	})
	return err
}

func (k keeping) Drop(name string) error {
	if f := k[name]; f != nil {
		f.Close()
		delete(k, name)
	}
	return nil
}

// forgetful is a holder that can't be reached at first.
type forgetful struct {
	keeping
	failures int
}

func (f *forgetful) Take() (map[string]*os.File, error) {
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("not there yet")
	}
	return f.keeping.Take()
}

// newKeeping is a holder that lets go at the end.
func newKeeping(t *testing.T) keeping {
	k := keeping{}
	t.Cleanup(func() {
		for name := range k {
			k.Drop(name)
		}
	})
	return k
}

// What the holder does not give at once is taken when it does, and not mistaken for another program's.
func TestHolderThatIsLate(t *testing.T) {
	k := newKeeping(t)
	free := newServer(t, Options{})
	at := netip.MustParseAddrPort(listen(t, free))
	run(t, free)()
	first := newServer(t, Options{Keeper: k})
	stop := run(t, first)
	if err := first.SetListen([]netip.AddrPort{at}); err != nil {
		t.Fatal(err)
	}
	stop()
	second := newServer(t, Options{Keeper: &forgetful{k, 2}})
	run(t, second)
	if err := second.SetListen([]netip.AddrPort{at}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("while the holder does not answer: %v", err)
	}
	await(t, "it is taken over", func() bool { return slices.Equal(second.Listening(), []netip.AddrPort{at}) })
	ask(t, "tcp", at.String(), question("db.weft.local.", miekg.TypeA))
}

// Questions that come between two servers are answered by the second.
func TestSocketsOutliveTheServer(t *testing.T) {
	k := newKeeping(t)
	free := newServer(t, Options{})
	at := netip.MustParseAddrPort(listen(t, free))
	stop := run(t, free)
	stop()
	other := netip.MustParseAddrPort("127.0.0.9:" + strconv.Itoa(int(at.Port())))

	first := newServer(t, Options{Keeper: k})
	stop = run(t, first)
	if err := first.SetListen([]netip.AddrPort{at, other}); err != nil {
		t.Fatal(err)
	}
	ask(t, "udp", at.String(), question("db.weft.local.", miekg.TypeA))
	stop()
	if want := 2 * (readers() + 1); len(k) != want {
		t.Fatalf("held: %v, want %d", slices.Collect(maps.Keys(k)), want)
	}
	var answers sync.WaitGroup
	for _, network := range []string{"udp", "tcp"} {
		c, err := miekg.DialTimeout(network, at.String(), 5*time.Second)
		if err != nil {
			t.Fatalf("%s while nobody serves: %v", network, err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := c.WriteMsg(question("db.weft.local.", miekg.TypeA)); err != nil {
			t.Fatal(err)
		}
		answers.Go(func() {
			if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
				t.Errorf("%s, asked while nobody served: %v %v", network, m, err)
			}
		})
	}
	second := newServer(t, Options{Keeper: k})
	run(t, second)
	if err := second.SetListen([]netip.AddrPort{at}); err != nil {
		t.Fatal(err)
	}
	answers.Wait()
	// What is not wanted any more is held no more, and what goes is dropped.
	if want := readers() + 1; len(k) != want {
		t.Errorf("held: %v, want %d", slices.Collect(maps.Keys(k)), want)
	}
	if err := second.SetListen(nil); err != nil || len(k) != 0 {
		t.Errorf("nothing is bound, held: %v, %v", slices.Collect(maps.Keys(k)), err)
	}
	third := newServer(t, Options{})
	if err := third.SetListen([]netip.AddrPort{at, other}); err != nil {
		t.Errorf("dropped, and still there: %v", err)
	}
	third.SetListen(nil)
}
