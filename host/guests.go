package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Guests are the networks whose members live on this host: those of bridges that are no way out of it,
// as Docker's are, and this host's own addresses one by one. Everybody else
// reaches the host from outside.
func (h *Host) Guests() ([]netip.Prefix, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, ways, err := interfaces(nl)
	if err != nil {
		return nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	inside := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		inside[a.Index] = (l.Type() == "bridge" || h.isInternal(a.Name)) && !slices.Contains(ways, a.Index)
	}
	out := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		if !inside[a.LinkIndex] {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
