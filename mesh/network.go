package mesh

import (
	"context"
	"net"
	"net/netip"
)

// hostNetwork is the sockets of this machine.
type hostNetwork struct{}

// Inside the tunnel a packet must fit the smallest MTU that weftwg may have
// (1,280), the tunnel's own 80 bytes aside.
const tunnelMSS = 1100

// gossipBuffer is the receive buffer that is asked for: bursts of gossip come
// while the router is busy.
const gossipBuffer = 2 << 20

// inTunnel guesses from an address that it is a control address: those are
// ULAs. For any other ULA the options set because of it do no harm.
func inTunnel(a netip.Addr) bool { return a.Is6() && a.IsPrivate() }

func (hostNetwork) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: controlSocket(addr.Addr())}
	return lc.Listen(ctx, "tcp", addr.String())
}

func (hostNetwork) ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: controlSocket(addr.Addr())}
	pc, err := lc.ListenPacket(ctx, "udp", addr.String())
	if u, ok := pc.(*net.UDPConn); ok && err == nil {
		for size := gossipBuffer; size >= 64<<10 && u.SetReadBuffer(size) != nil; size /= 2 {
		}
	}
	return pc, err
}

func (hostNetwork) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Control: controlSocket(addr.Addr()), KeepAlive: -1}
	return d.DialContext(ctx, "tcp", addr.String())
}

func (hostNetwork) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	as, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range as {
		as[i] = as[i].Unmap()
	}
	return as, err
}
