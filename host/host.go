package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway is the address that every host's bridge has: the containers' next hop
// and DNS server. It is link-local (RFC 3927), so it never leaves the link.
var Gateway = netip.MustParseAddr("169.254.53.1")

const (
	containerLink = "ethwe" // the interface inside a container
	vethPrefix    = "vwe"   // starts the names of the host's ends
	namePrefix    = "weft"  // starts the names of bridge and tunnel
	routeProtocol = 87      // marks our routes, as `proto 87` (free in iproute2's rt_protos)
)

// Options for New.
type Options struct {
	Bridge    string       // name of the bridge, starts with "weft"; empty: weft
	WireGuard string       // name of the tunnel's interface, likewise; empty: weftwg
	Log       *slog.Logger // nil: discard
}

// Host changes the network of the machine it runs on. See the package comment.
type Host struct {
	bridge, tunnel string
	log            *slog.Logger
	mu             sync.Mutex // one change at a time; guards the field below
	judge          string     // the chain that may judge the name server's packets by what conntrack says
}

// New checks o. It neither touches nor reads the kernel.
func New(o Options) (*Host, error) {
	h := &Host{bridge: o.Bridge, tunnel: o.WireGuard, log: o.Log}
	if h.bridge == "" {
		h.bridge = "weft"
	}
	if h.tunnel == "" {
		h.tunnel = "weftwg"
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range []string{h.bridge, h.tunnel} {
		if !validLinkName(name) || !strings.HasPrefix(name, namePrefix) {
			return nil, fmt.Errorf("interface %q: want a name of at most 15 characters that starts with %s", name, namePrefix)
		}
	}
	if h.bridge == h.tunnel {
		return nil, fmt.Errorf("interface %q: want different names for bridge and tunnel", h.bridge)
	}
	return h, nil
}

// Set makes the host match c: whole state, repeatable, by diff. It goes on after
// an error and returns all of them; a *BlockedError among them says that
// everything is in place but somebody else's firewall drops the packets.
//
// The tunnel's interface may be missing; the covered prefixes are unreachable
// until a later Set finds it.
func (h *Host) Set(c Config) error {
	if err := c.validate(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()

	var errs []error
	do := func(err error) { errs = append(errs, err) }
	// What closes comes before what opens: without the firewall and the
	// unreachable routes nothing may be able to pass.
	do(setRoutes(nl, c.unreachable(), onlyUnreachable))
	free, _, _ := h.untracked(nl, c) // asked again below
	do(h.setTables(c, free))
	do(h.setBridge(nl, c))
	do(h.setPorts(nl, c))
	up, err := h.setTunnel(nl, c)
	do(err)
	do(setRoutes(nl, c.routes(h.bridge, h.tunnel, up), allRoutes))
	do(h.setAccepts(nl, c))
	now, judge, err := h.untracked(nl, c)
	if do(err); !slices.Equal(now, free) { // the accepts are there now
		do(h.setTables(c, now))
	}
	h.setJudge(judge)
	do(h.blocked())
	return errors.Join(errs...)
}

// Remove takes everything away that this package made, whatever the Config was:
// interfaces (and with them the containers' ends), routes, tables and rules.
// Repeatable. The one thing left is net.ipv4.conf.all.send_redirects, which Set
// switches off and which every interface but ours has in a switch of its own.
func (h *Host) Remove() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()

	var errs []error
	errs = append(errs, deleteLink(nl, h.tunnel))
	links, err := dump(nl.LinkList)
	if err != nil {
		errs = append(errs, fmt.Errorf("list interfaces: %w", err))
	}
	for _, l := range links {
		if _, ok := l.(*netlink.Veth); ok && isVethName(l.Attrs().Name) {
			errs = append(errs, deleteLink(nl, l.Attrs().Name))
		}
	}
	errs = append(errs, deleteLink(nl, h.bridge))
	errs = append(errs, setRoutes(nl, nil, allRoutes), removeAccepts(), removeTables())
	return errors.Join(errs...)
}

// RemoveTunnel deletes the tunnel's interface. The unreachable routes and the
// firewall stay, so that what was encrypted does not leave in clear.
func (h *Host) RemoveTunnel() error { return h.DeleteLink(h.tunnel) }

// AddWireGuard makes a link of type wireguard. errors.Is(err,
// errors.ErrUnsupported) when the kernel has none; a link of that name that
// exists already is errors.Is(err, fs.ErrExist).
func (h *Host) AddWireGuard(name string) error {
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add WireGuard interface %s: %w", name, err)
	}
	return nil
}

// DeleteLink deletes a link of any type; one that is not there is no error.
func (h *Host) DeleteLink(name string) error {
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	return deleteLink(nl, name)
}

// openNetlink opens a handle in the calling thread's network namespace.
func openNetlink() (*netlink.Handle, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return nl, nil
}

func validLinkName(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c == '/' || c == ':' || c == '"' || c == '*' || c > '~' {
			return false
		}
	}
	return true
}
