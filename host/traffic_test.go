package host

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// sink is a TCP server that answers each connection, at its end, with the number
// of bytes that came, checked to be what pour sends.
func (s *space) sink(port int) {
	s.t.Helper()
	var l net.Listener
	var err error
	s.in(func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			total, buf := 0, make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				for i := range n {
					if buf[i] != byte((total+i)*7) {
						c.Close()
					}
				}
				total += n
				if err != nil {
					break
				}
			}
			fmt.Fprint(c, total)
			c.Close()
		}
	}()
	s.t.Cleanup(func() { l.Close(); <-done })
}

// pour sends n bytes to a sink.
func (s *space) pour(to string, n int) error { return s.pourFor(to, n, patience) }

func (s *space) pourFor(to string, n int, wait time.Duration) error {
	var err error
	s.in(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", to, wait); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		buf := make([]byte, n)
		for i := range buf {
			buf[i] = byte(i * 7)
		}
		if _, err = c.Write(buf); err != nil {
			return
		}
		c.(*net.TCPConn).CloseWrite()
		var answer []byte
		if answer, err = io.ReadAll(c); err == nil && string(answer) != fmt.Sprint(n) {
			err = fmt.Errorf("%q of %d bytes arrived whole", answer, n)
		}
	})
	return err
}

// listen opens a UDP socket, and returns a function that says whether a packet
// came. A multicast group is joined on ethwe.
func (s *space) listen(at string) func(time.Duration) bool {
	s.t.Helper()
	var c *net.UDPConn
	var err error
	s.in(func() {
		addr, _ := net.ResolveUDPAddr("udp4", at)
		if addr.IP.IsMulticast() {
			link, e := net.InterfaceByName(containerLink)
			if e != nil {
				err = e
				return
			}
			c, err = net.ListenMulticastUDP("udp4", link, addr)
			return
		}
		c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: addr.Port})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return func(wait time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(wait))
		_, _, err := c.ReadFrom(make([]byte, 100))
		return err == nil
	}
}

// send sends one UDP packet from an address.
func (s *space) send(from, to string) {
	s.t.Helper()
	s.in(func() {
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		c, err := d.Dial("udp", to)
		if err != nil {
			s.t.Errorf("send from %s: %v", from, err)
			return
		}
		defer c.Close()
		c.Write([]byte("hello"))
	})
}

// shout sends to a group or a broadcast address.
func (s *space) shout(to string) {
	s.t.Helper()
	s.in(func() {
		c, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			s.t.Error(err)
			return
		}
		defer c.Close()
		addr, _ := net.ResolveUDPAddr("udp4", to)
		if _, err := c.WriteTo([]byte("hello"), addr); err != nil {
			s.t.Errorf("send to %s: %v", to, err)
		}
	})
}

// icmp6 sends an ICMPv6 echo request; the kernel fills in the checksum.
func (s *space) icmp6(to string, wait time.Duration) error {
	var err error
	s.in(func() {
		var c net.PacketConn
		if c, err = net.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
			return
		}
		defer c.Close()
		if _, err = c.WriteTo([]byte{128, 0, 0, 0, 0x57, 0xef, 0, 1}, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(wait))
		buf := make([]byte, 1500)
		for {
			n, peer, e := c.ReadFrom(buf)
			if e != nil {
				err = e
				return
			}
			if n >= 8 && buf[0] == 129 && peer.String() == to {
				return
			}
		}
	})
	return err
}

// counter reads a value of /proc/net/snmp.
func (s *space) counter(group, name string) string {
	var names []string
	for line := range strings.Lines(s.run("cat", "/proc/net/snmp")) {
		f := strings.Fields(line)
		if f[0] != group+":" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, n := range names {
			if n == name {
				return f[i]
			}
		}
	}
	return "?"
}

func (s *space) hasRoute(want string) {
	s.t.Helper()
	if got := s.run("ip", "route"); !strings.Contains(got, want) {
		s.t.Errorf("no route %q:\n%s", want, got)
	}
}

func (s *space) lacksRoute(want string) {
	s.t.Helper()
	if got := s.run("ip", "route"); strings.Contains(got, want) {
		s.t.Errorf("route %q:\n%s", want, got)
	}
}
