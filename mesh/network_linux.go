package mesh

import (
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// controlSocket prepares sockets inside the tunnel. IPV6_FREEBIND (ipv6(7)):
// the control address may come after us and may go and come while we listen,
// since weftwg loses its addresses when it is made anew.
func controlSocket(a netip.Addr) func(network, address string, c syscall.RawConn) error {
	if !inTunnel(a) {
		return nil
	}
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
				return
			}
			if strings.HasPrefix(network, "tcp") {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, tunnelMSS)
			}
		}); e != nil {
			return e
		}
		return err
	}
}
