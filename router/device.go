package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"

	"weft/peer"
)

// tunnelDevice is a peer.Device, which says what each method does.
type tunnelDevice interface {
	Set([]peer.Config) error
	Status() ([]peer.Status, error)
	Renew(peer.Key) error
	Kind() peer.Datapath
	Close() error
	Remove(context.Context) error
}

// openDevice adopts the living tunnel device, or makes one.
func (r *Router) openDevice(ctx context.Context) error {
	path, err := peer.ParseDatapath(r.o.Datapath)
	if err != nil {
		return badRequest("one of auto, kernel, userspace", "%v", err)
	}
	mtu, err := r.mtu()
	if err != nil {
		return err
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if r.stopped {
		return nil
	}
	dev, err := peer.Open(ctx, peer.Options{Interface: wireGuardName, ListenPort: r.o.Port, PrivateKey: r.id.WireGuardPrivate(),
		MTU: max(mtu, minTunnelMTU), Datapath: path, RunDir: r.o.RunDir, Executable: r.o.DeviceCommand, Links: r.host, Log: r.log})
	if err != nil {
		return err
	}
	if r.dev != nil {
		r.dev.Close()
	}
	r.dev = dev
	return nil
}

// keepGeneration draws a number for a device that was just made, and takes that
// of a device that was adopted from the state file.
func (r *Router) keepGeneration(adopted bool) error {
	if adopted {
		kept, err := r.db.Load(bucketRouter)
		if err != nil {
			return err
		}
		if b := kept[keyGeneration]; len(b) == 8 {
			r.generation.Store(binary.BigEndian.Uint64(b))
			return nil
		}
	}
	b := make([]byte, 8)
	if _, err := rand.Read(b); err != nil {
		return fmt.Errorf("draw device generation: %w", err)
	}
	if err := r.db.Apply(bucketRouter, map[string][]byte{keyGeneration: b}, nil); err != nil {
		return err
	}
	r.generation.Store(binary.BigEndian.Uint64(b))
	return nil
}

// mtu is the tunnel's: what the underlay leaves after WireGuard's overhead on
// IPv6 (40 + 8 + 32), so that it holds for either family.
func (r *Router) mtu() (int, error) {
	if r.o.MTU != 0 {
		return r.o.MTU, nil
	}
	var to []netip.Addr
	for _, h := range r.mesh.State().Hosts {
		if !h.Self {
			for _, e := range h.Record.Endpoints {
				to = append(to, e.Addr())
			}
		}
	}
	under, err := r.host.UnderlayMTU(to)
	if err != nil {
		return 0, fmt.Errorf("find the underlay's MTU: %w", err)
	}
	return max(under-80, minMTU), nil
}

const (
	// minMTU is what every IPv4 path carries (RFC 791).
	minMTU = 576
	// minTunnelMTU is the least that an interface with IPv6 has (RFC 8200, section
	// 5): below it Linux takes the control address off the tunnel. Where the
	// underlay has less, package host gives the routes a smaller MTU.
	minTunnelMTU = 1280
)

// endpoints are this host's own, as announced to the others.
func (r *Router) endpoints() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range r.o.Advertise {
		if ap, err := netip.ParseAddrPort(a); err == nil {
			out = append(out, ap)
		} else if ip, err := netip.ParseAddr(a); err == nil {
			out = append(out, netip.AddrPortFrom(ip, uint16(r.o.Port)))
		}
	}
	if len(out) > 0 {
		return out
	}
	if r.o.Host != "" {
		if ip := netip.MustParseAddr(r.o.Host); !ip.IsUnspecified() {
			return []netip.AddrPort{netip.AddrPortFrom(ip, uint16(r.o.Port))}
		}
	}
	addrs, err := r.host.Endpoints()
	if err != nil {
		r.log.Warn("list own addresses", "err", err)
		return nil
	}
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a, uint16(r.o.Port)))
	}
	return out[:min(len(out), 6)]
}
