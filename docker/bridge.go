package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/moby/moby/client"
)

// BridgeAddr returns the host's IPv4 address on the engine's default bridge, where containers on that bridge can reach the host. It is
// the zero Addr if the engine runs without that bridge, or has not made it yet. Errors: ErrUnavailable.
//
// The interface is asked first. The gateway that the engine tells is often the same, but engine 20.10 tells none between making the
// bridge and its own next restart.
func (c *Client) BridgeAddr(ctx context.Context) (netip.Addr, error) {
	var got netip.Addr
	err := c.do(ctx, func(api *engine) error {
		r, err := api.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{})
		if err != nil || r.Network.Driver != "bridge" {
			return err
		}
		link := r.Network.Options["com.docker.network.bridge.name"]
		for _, conf := range r.Network.IPAM.Config {
			if got = linkAddr(link, conf.Subnet); got.IsValid() {
				return nil
			}
		}
		for _, conf := range r.Network.IPAM.Config {
			if conf.Gateway.Is4() {
				got = conf.Gateway
				return nil
			}
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) { // dockerd --bridge=none
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("inspect network bridge: %w", err)
	}
	return got, nil
}

// linkAddr returns the IPv4 address within subnet that an interface of this network namespace has.
func linkAddr(name string, subnet netip.Prefix) netip.Addr {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}
	}
	addrs, _ := link.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && subnet.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
