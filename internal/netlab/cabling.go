package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "switch"
	// hostLink is the host's end of its cable.
	hostLink = "eth0"
)

// cabling is the switch, a bridge in a namespace of its own, and the cables
// from it to the hosts.
type cabling struct {
	space *space
	links *netlink.Handle // of the switch's namespace

	mu     sync.Mutex // guards the fields below
	cables []*cable
	cut    map[way]bool
	impair map[way]*dice
}

// cable is a veth pair between a host and its port of the switch.
type cable struct {
	host *Host
	n    int    // 1, 2, …
	port string // the switch's end of the cable
	// forwarder, when not nil, reads the port and has a second veth pair to
	// the bridge; see forward.go.
	forwarder *forwarder
}

// bridgePort is the name under which the bridge knows the cable.
func (c *cable) bridgePort() string {
	if c.forwarder != nil {
		return c.innerName()
	}
	return c.port
}

// mac is the host's address on the cable: locally administered, easy to read
// in a capture.
func (c *cable) mac() net.HardwareAddr {
	return net.HardwareAddr{0x02, 'w', 'e', 'f', byte(c.n >> 8), byte(c.n)}
}

// way is the direction from one host to another.
type way struct{ from, to *cable }

func newCabling() (*cabling, error) {
	c := &cabling{cut: make(map[way]bool), impair: make(map[way]*dice)}
	var err error
	c.space, err = newSpace(nil, unix.CLONE_NEWNET, func() error {
		// A switch that talks would be a stranger in every capture.
		if err := disableIPv6("all", "default"); err != nil {
			return err
		}
		var err error
		c.links, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make switch: %w", err)
	}
	off := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := c.links.LinkAdd(bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("make switch: %w", err), c.close())
	}
	if err := c.links.LinkSetUp(bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("start switch: %w", err), c.close())
	}
	return c, nil
}

// plug makes a cable to h. Its host end is set up by setUp, inside the host.
func (c *cabling) plug(h *Host, setUp func() error) (*cable, error) {
	cb := &cable{host: h, n: h.n, port: fmt.Sprintf("p%d", h.n)}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = cb.port
	veth := &netlink.Veth{
		LinkAttrs: attrs,
		PeerName:  hostLink, PeerHardwareAddr: cb.mac(), PeerNamespace: netlink.NsFd(h.space.fd("net")),
	}
	if err := c.links.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make cable of %s: %w", h.name, err)
	}
	if err := h.space.do(setUp); err != nil {
		return nil, err
	}
	if err := c.connect(cb.port); err != nil {
		return nil, err
	}
	err := h.space.do(func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		return waitUp(links, hostLink)
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cables = append(c.cables, cb)
	return cb, nil
}

// connect puts a link of the switch's namespace up and into the bridge.
func (c *cabling) connect(name string) error {
	link, err := c.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find port %s: %w", name, err)
	}
	bridge, err := c.links.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find switch: %w", err)
	}
	if err := c.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("start port %s: %w", name, err)
	}
	if err := waitUp(c.links, name); err != nil {
		return err
	}
	if err := c.links.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("plug port %s: %w", name, err)
	}
	return nil
}

// waitUp waits until a link passes frames. The kernel learns of a veth's
// carrier later than LinkSetUp returns, and drops frames until then; a link
// that is up already forwards as soon as the bridge has it.
func waitUp(links *netlink.Handle, name string) error {
	const limit = 5 * time.Second
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		link, err := links.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Since(start) > limit {
			return fmt.Errorf("start link %s: it is %v after %v", name, link.Attrs().OperState, limit)
		}
	}
}

// anchor starts a process that holds the switch's namespace.
func (c *cabling) anchor(l *Lab) error {
	_, err := startAnchor(l, c.space, l.record.ID+"/switch/anchor")
	return err
}

func (c *cabling) close() error {
	if c.links != nil {
		c.links.Close()
	}
	return c.space.close()
}

// disableIPv6 silences links of the calling thread's network namespace. The
// names all and default stand for what their sysctl says.
func disableIPv6(links ...string) error {
	for _, link := range links {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("disable IPv6 on %s: %w", link, err)
		}
	}
	return nil
}
