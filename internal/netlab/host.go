package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// underlay is the network of the switch; host n has address 10+n in it.
var underlay = netip.MustParsePrefix("192.168.48.0/24")

const maxHosts = 200

// HostOptions says what a host has.
type HostOptions struct {
	Docker bool         // start a Docker engine at once
	Addr   netip.Prefix // address on the underlay, with its length. Zero: the next of 192.168.48.11/24, …
	Addr6  netip.Prefix // IPv6 address on the underlay. Zero: the underlay has no IPv6 there
}

// Host is a test host. Its cable is eth0; it has no default route.
type Host struct {
	place
	name      string
	n         int          // 1, 2, …
	addr      netip.Prefix // guarded by Lab.mu once the host is complete
	dir       string       // the host's files outside
	cable     *cable       // set once the host is complete
	workloads []*Workload  // guarded by Lab.mu

	engineMu sync.Mutex // held through starts and stops; guards the field below
	engine   *Proc      // dockerd; nil before the first start
}

// Host adds a host to the lab. The name becomes its hostname and stands in
// /etc/hosts of all hosts: lower-case letters, digits and hyphens.
func (l *Lab) Host(name string, o HostOptions) (*Host, error) {
	h, err := l.newHost(name, o)
	if err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, err)
	}
	if o.Docker {
		if err := h.StartDocker(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (l *Lab) newHost(name string, o HostOptions) (*Host, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	h := &Host{name: name, dir: filepath.Join(l.dir, "hosts", name)}
	h.place = place{lab: l, label: name, part: name, space: new(space)}
	err := l.own(func() error {
		if slices.ContainsFunc(l.hosts, func(o *Host) bool { return o.name == name }) {
			return errors.New("the lab has a host of that name")
		}
		if len(l.hosts) == maxHosts {
			return fmt.Errorf("the lab has %d hosts already", maxHosts)
		}
		h.n = len(l.hosts) + 1
		h.addr = o.Addr
		if !h.addr.IsValid() {
			a := underlay.Addr().As4()
			a[3] = byte(10 + h.n)
			h.addr = netip.PrefixFrom(netip.AddrFrom4(a), underlay.Bits())
		}
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return err
		}
		l.hosts = append(l.hosts, h)
		return l.writeHostsLocked()
	})
	if err != nil {
		return nil, err
	}
	machineID := fmt.Sprintf("%s%020x\n", l.record.ID, h.n)
	files := map[string]string{"/etc/hosts": filepath.Join(l.dir, "etc-hosts")}
	for path, text := range map[string]string{
		"/etc/hostname":    name + "\n",
		"/etc/machine-id":  machineID,
		"/etc/resolv.conf": "# no name server\n",
	} {
		files[path] = filepath.Join(h.dir, filepath.Base(path))
		if err := os.WriteFile(files[path], []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	s, err := newSpace(nil, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS, func() error {
		if err := hostMounts(l.record.mark(name).dir, files); err != nil {
			return err
		}
		return unix.Sethostname([]byte(name))
	})
	if err != nil {
		return nil, err
	}
	h.space.take(s)
	cb, err := l.cabling.plug(h, func() error {
		addrs := []netip.Prefix{h.addr}
		if o.Addr6.IsValid() {
			addrs = append(addrs, o.Addr6)
		} else if err := disableIPv6(hostLink); err != nil {
			return err
		}
		return errors.Join(setUpLink("lo"), setUpLink(hostLink, addrs...))
	})
	if err == nil {
		err = l.own(func() error { h.cable = cb; return nil }) // unless it was closed meanwhile
	}
	if err != nil {
		return nil, errors.Join(err, h.space.close())
	}
	return h, nil
}

// setUpLink starts a link of the calling thread's network namespace and gives
// it addresses.
func setUpLink(name string, addrs ...netip.Prefix) error {
	return withLink(name, func(links *netlink.Handle, link netlink.Link) error {
		for _, p := range addrs {
			if err := links.AddrAdd(link, linkAddr(p)); err != nil {
				return fmt.Errorf("add address %v: %w", p, err)
			}
		}
		if err := links.LinkSetUp(link); err != nil {
			return fmt.Errorf("start link %s: %w", name, err)
		}
		return nil
	})
}

// withLink runs f with a link of the calling thread's network namespace.
func withLink(name string, f func(*netlink.Handle, netlink.Link) error) error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer links.Close()
	link, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return f(links, link)
}

func linkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // usable at once
	}
	return a
}

// writeHostsLocked writes the /etc/hosts of all hosts, in place: it is bind-mounted.
func (l *Lab) writeHostsLocked() error {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, h := range l.hosts {
		fmt.Fprintf(&b, "%v %s\n", h.addr.Addr(), h.name)
	}
	return os.WriteFile(filepath.Join(l.dir, "etc-hosts"), []byte(b.String()), 0o644)
}

// own runs f with the lab's lock held, unless the lab is closed.
func (l *Lab) own(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("lab: %w", os.ErrClosed)
	}
	return f()
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Addr is the host's IPv4 address on the underlay.
func (h *Host) Addr() netip.Addr {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.addr.Addr()
}

// Move gives the host another IPv4 address on the underlay instead of its own, as
// another lease does. Its name in /etc/hosts follows; routes by the old address are gone.
func (h *Host) Move(to netip.Addr) error {
	err := h.lab.own(func() error {
		old := h.addr
		h.addr = netip.PrefixFrom(to, old.Bits())
		return errors.Join(h.space.do(func() error {
			return withLink(hostLink, func(links *netlink.Handle, link netlink.Link) error {
				// The old one first: with it would go one of its subnet that came second.
				return errors.Join(links.AddrDel(link, linkAddr(old)), links.AddrAdd(link, linkAddr(h.addr)))
			})
		}), h.lab.writeHostsLocked())
	})
	if err != nil {
		return fmt.Errorf("move host %s to %v: %w", h.name, to, err)
	}
	return nil
}

// Kill ends every process of the host by SIGKILL, as a power cut does, those of
// Docker and its containers among them. What it had in /run stays, and so do
// links without a process.
func (h *Host) Kill() error {
	m := h.lab.record.mark(h.name)
	thaw(m.cgroup)
	if err := endMarked(m, 0); err != nil {
		return fmt.Errorf("kill host %s: %w", h.name, err)
	}
	return nil
}
