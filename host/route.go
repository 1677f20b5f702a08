package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unreachableMetric makes a route the last choice. 1024 is what the kernel gives
// IPv6 routes that ask for none.
const (
	unreachableMetric = 4_000_000
	defaultMetric6    = 1024
)

// route is one of our routes. Comparable; String is what ip-route(8) prints.
type route struct {
	dst    netip.Prefix
	dev    string     // empty: unreachable
	via    netip.Addr // next hop, onlink
	src    netip.Addr // preferred source
	link   bool       // scope link, IPv4 only
	metric int
	mtu    int
}

func (r route) String() string {
	var b strings.Builder
	if r.dev == "" {
		b.WriteString("unreachable ")
	}
	if r.dst.IsSingleIP() {
		b.WriteString(r.dst.Addr().String())
	} else {
		b.WriteString(r.dst.String())
	}
	if r.via.IsValid() {
		fmt.Fprintf(&b, " via %v", r.via)
	}
	if r.dev != "" {
		fmt.Fprintf(&b, " dev %s", r.dev)
	}
	fmt.Fprintf(&b, " proto %d", routeProtocol)
	if r.link {
		b.WriteString(" scope link")
	}
	if r.src.IsValid() {
		fmt.Fprintf(&b, " src %v", r.src)
	}
	if r.metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.metric)
	}
	if r.mtu != 0 {
		fmt.Fprintf(&b, " mtu %d", r.mtu)
	}
	if r.via.IsValid() {
		b.WriteString(" onlink")
	}
	return b.String()
}

// unreachable is the part of the routes that only closes.
func (c *Config) unreachable() []route {
	var rs []route
	for _, p := range append([]netip.Prefix{c.ControlPrefix}, merged(c.Covered)...) {
		rs = append(rs, route{dst: p, metric: unreachableMetric})
	}
	return rs
}

// routes is the whole wanted table of the host; without the tunnel its routes are
// left out.
func (c *Config) routes(bridge, tunnel string, tunnelUp bool) []route {
	rs := c.unreachable()
	_, mtu := c.tunnelMTU()
	if tunnelUp {
		rs = append(rs, route{dst: c.ControlPrefix, dev: tunnel, metric: defaultMetric6})
		for _, p := range merged(c.Covered) {
			rs = append(rs, route{dst: p, dev: tunnel, link: true, mtu: mtu})
		}
	}
	seen := map[netip.Addr]bool{}
	for _, l := range c.Local {
		for _, a := range l.Addrs {
			if !seen[a.Addr()] {
				seen[a.Addr()] = true
				rs = append(rs, route{dst: netip.PrefixFrom(a.Addr(), 32), dev: bridge, link: true, src: Gateway})
			}
		}
	}
	return rs
}

// containerRoutes is the wanted table inside a container. servers are name
// servers that only the mesh leads to.
func containerRoutes(addrs []netip.Prefix, servers []netip.Addr, multicast bool) []route {
	if len(addrs) == 0 {
		return nil
	}
	rs := []route{{dst: netip.PrefixFrom(Gateway, 32), dev: containerLink, link: true}}
	seen := map[netip.Prefix]bool{}
	for _, a := range addrs {
		if p := a.Masked(); !p.IsSingleIP() && !seen[p] {
			seen[p] = true
			rs = append(rs, route{dst: p, dev: containerLink, via: Gateway, src: a.Addr()})
		}
	}
	for _, d := range servers {
		rs = append(rs, route{dst: netip.PrefixFrom(d, 32), dev: containerLink, via: Gateway, src: addrs[0].Addr()})
	}
	if multicast {
		rs = append(rs, route{dst: netip.MustParsePrefix("224.0.0.0/4"), dev: containerLink, link: true})
	}
	return rs
}

// routeChange is one line of a plan.
type routeChange struct {
	verb string // add, replace, delete: the verbs of ip-route(8)
	route
}

func (c routeChange) String() string { return c.verb + " " + c.route.String() }

// planRoutes says what turns have into want: additions first, in want's order (a
// next hop comes before what needs it).
func planRoutes(have, want []route) []routeChange {
	sameSlot := func(a, b route) bool { return a.dst == b.dst && a.metric == b.metric }
	var plan []routeChange
	for _, w := range want {
		if slices.Contains(have, w) {
			continue
		}
		verb := "add"
		if slices.ContainsFunc(have, func(h route) bool { return sameSlot(h, w) }) {
			verb = "replace"
		}
		plan = append(plan, routeChange{verb, w})
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w route) bool { return sameSlot(h, w) }) {
			plan = append(plan, routeChange{"delete", h})
		}
	}
	return plan
}

// routeScope says which of our routes a call is about.
type routeScope int

const (
	allRoutes       routeScope = iota
	onlyUnreachable            // adds what is missing, deletes nothing
)

// setRoutes makes the routes of our protocol in the main table match want.
func setRoutes(nl *netlink.Handle, want []route, scope routeScope) error {
	have, err := listRoutes(nl)
	if err != nil {
		return err
	}
	plan := planRoutes(have, want)
	if scope == onlyUnreachable {
		plan = slices.DeleteFunc(plan, func(c routeChange) bool { return c.verb == "delete" })
	}
	return applyRoutes(nl, plan)
}

// listRoutes reads the routes of our protocol in the main table.
func listRoutes(nl *netlink.Handle) ([]route, error) {
	links, err := dump(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rs, err := dump(func() ([]netlink.Route, error) {
			return nl.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN},
				netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if family == netlink.FAMILY_V6 && errors.Is(err, syscall.EOPNOTSUPP) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range rs {
			have := route{dst: prefixOf(r.Dst), metric: r.Priority, mtu: r.MTU,
				link: family == netlink.FAMILY_V4 && r.Type == unix.RTN_UNICAST && r.Scope == netlink.SCOPE_LINK}
			if r.Type == unix.RTN_UNICAST {
				have.dev = cmp.Or(names[r.LinkIndex], "?")
			}
			if a, ok := netip.AddrFromSlice(r.Gw); ok {
				have.via = a.Unmap()
			}
			if a, ok := netip.AddrFromSlice(r.Src); ok {
				have.src = a.Unmap()
			}
			out = append(out, have)
		}
	}
	return out, nil
}

// outOfReach are those name servers that no route but ours leads to, as in a
// container of Docker's network mode none: its resolv.conf may name Docker's
// bridge all the same.
func (s *sandbox) outOfReach(servers []netip.Addr) ([]netip.Addr, error) {
	if !slices.ContainsFunc(servers, needsRoute) {
		return nil, nil
	}
	rs, err := dump(func() ([]netlink.Route, error) {
		return s.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Addr
	for _, d := range servers {
		known := slices.ContainsFunc(rs, func(r netlink.Route) bool {
			return r.Protocol != routeProtocol && r.Type == unix.RTN_UNICAST && (r.Dst == nil || prefixOf(r.Dst).Contains(d.Unmap()))
		})
		if needsRoute(d) && !known {
			out = append(out, d.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func needsRoute(d netip.Addr) bool { return d.Unmap().Is4() && !d.IsLoopback() && d.Unmap() != Gateway }

func applyRoutes(nl *netlink.Handle, plan []routeChange) error {
	var errs []error
	for _, c := range plan {
		r := netlink.Route{Dst: ipNet(c.dst), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN,
			Priority: c.metric, MTU: c.mtu, Type: unix.RTN_UNICAST}
		if c.dev == "" {
			r.Type = unix.RTN_UNREACHABLE
		} else {
			l, err := findLink(nl, c.dev)
			if l == nil && err == nil && c.verb == "delete" {
				continue // it went with its interface
			}
			if l == nil {
				errs = append(errs, fmt.Errorf("%s route %v: %w", c.verb, c.route, cmp.Or(err, error(syscall.ENODEV))))
				continue
			}
			r.LinkIndex = l.Attrs().Index
		}
		if c.link {
			r.Scope = netlink.SCOPE_LINK
		}
		if c.via.IsValid() {
			r.Gw, r.Flags = c.via.AsSlice(), unix.RTNH_F_ONLINK
		}
		if c.src.IsValid() {
			r.Src = c.src.AsSlice()
		}
		var err error
		switch c.verb {
		case "add":
			err = nl.RouteAdd(&r)
		case "replace":
			err = nl.RouteReplace(&r)
		default:
			if err = nl.RouteDel(&r); errors.Is(err, syscall.ESRCH) {
				err = nil
			}
		}
		if errors.Is(err, syscall.EEXIST) {
			err = fmt.Errorf("%w: a route of somebody else is in the way (ip route show %v)", err, c.dst)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s route %v: %w", c.verb, c.route, err))
		}
	}
	return errors.Join(errs...)
}
