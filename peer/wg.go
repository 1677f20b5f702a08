package peer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// ErrGone says that the device has ended: its process died, or somebody deleted
// its link. A new [Open] makes a new one.
var ErrGone = errors.New("the WireGuard device is gone")

// control speaks to the device of one name, of either kind.
type control struct {
	name   string
	client *wgctrl.Client
	hung   atomic.Bool // a call that did not come back in time is still under way
	inline bool        // for tests, whose namespaces belong to a thread: no goroutine, no time limit
}

func newControl(name string, inline bool) (*control, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, err
	}
	return &control{name: name, client: client, inline: inline}, nil
}

// find asks which device has the name: "" for none. It fails when something has
// it that does not answer.
func (c *control) find() (Datapath, *wgtypes.Device, error) {
	if err := probe(c.name); err != nil && !errors.Is(err, ErrGone) {
		return "", nil, err
	}
	var d *wgtypes.Device
	err := c.call(func() (err error) {
		d, err = c.client.Device(c.name)
		return err
	})
	switch {
	case err == nil && d.Type == wgtypes.LinuxKernel:
		return Kernel, d, nil
	case err == nil:
		return Userspace, d, nil
	case errors.Is(err, ErrGone):
		return "", nil, nil
	}
	return "", nil, fmt.Errorf("read WireGuard device %s: %w", c.name, err)
}

// set changes the device.
func (c *control) set(cfg wgtypes.Config) error {
	return c.call(func() error { return c.client.ConfigureDevice(c.name, cfg) })
}

// call runs f, which must be one call of wgctrl. That sets no deadline on the
// control socket, so a device process that is stopped, or in a deadlock, would
// hang us too. A call that takes too long is left behind in its goroutine, until
// the process goes on or dies; meanwhile there are no others, so that there is
// never more than one.
func (c *control) call(f func() error) error {
	var err error
	if c.inline {
		err = f()
	} else {
		if c.hung.Swap(true) {
			return notAnswering(c.name)
		}
		done := make(chan error, 1)
		go func() {
			err := f()
			c.hung.Store(false)
			done <- err
		}()
		late := time.NewTimer(answerTimeout)
		defer late.Stop()
		select {
		case err = <-done:
		case <-late.C:
			return notAnswering(c.name)
		}
	}
	if err != nil && isGone(err) {
		return ErrGone
	}
	return err
}

// isGone tells the errors of wgctrl that mean "no such device": no link and no
// socket, a socket left behind by a dead process, a process that died while it
// was spoken to.
func isGone(err error) bool {
	for _, e := range []error{os.ErrNotExist, ErrGone, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.ENODEV, io.EOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// do makes one step on the device.
func (c *control) do(s step) error {
	key := wgtypes.Key(s.key)
	switch s.verb {
	case stepRemove:
		return c.setPeer(wgtypes.PeerConfig{PublicKey: key, Remove: true})
	case stepDrop:
		// Older kernels and wgctrl have no "remove this allowed IP". A peer
		// that nobody is takes the IPs over and leaves with them. If we die in
		// between, the next Set removes it like any unwanted peer.
		rand.Read(key[:]) // never fails (crypto/rand, Go 1.24)
		err := c.setPeer(wgtypes.PeerConfig{PublicKey: key, AllowedIPs: ipNets(s.allowed)})
		return errors.Join(err, c.setPeer(wgtypes.PeerConfig{PublicKey: key, Remove: true}))
	}
	cfg := wgtypes.PeerConfig{
		PublicKey:                   key,
		UpdateOnly:                  s.verb == stepUpdate, // a peer that somebody removed meanwhile must not come back half configured
		PresharedKey:                (*wgtypes.Key)(s.psk),
		PersistentKeepaliveInterval: s.keepalive,
		AllowedIPs:                  ipNets(s.allowed),
	}
	if s.endpoint.IsValid() {
		cfg.Endpoint = net.UDPAddrFromAddrPort(s.endpoint)
	}
	return c.setPeer(cfg)
}

func (c *control) setPeer(p wgtypes.PeerConfig) error {
	return c.set(wgtypes.Config{Peers: []wgtypes.PeerConfig{p}})
}

func ipNets(ps []netip.Prefix) []net.IPNet {
	out := make([]net.IPNet, 0, len(ps))
	for _, p := range ps {
		out = append(out, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

func prefixes(ns []net.IPNet) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(ns))
	for _, n := range ns {
		a, ok := netip.AddrFromSlice(n.IP)
		ones, bits := n.Mask.Size()
		if ok && bits > 0 {
			out = append(out, netip.PrefixFrom(a.Unmap(), ones))
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

// states are the device's peers for plan, sorted by key.
func states(d *wgtypes.Device) []peerState {
	out := make([]peerState, 0, len(d.Peers))
	for _, p := range d.Peers {
		s := peerState{Config: Config{
			PublicKey:    Key(p.PublicKey),
			PresharedKey: Key(p.PresharedKey),
			Endpoint:     endpoint(p.Endpoint),
			Keepalive:    p.PersistentKeepaliveInterval.Truncate(time.Second),
			AllowedIPs:   prefixes(p.AllowedIPs),
		}, allowed: make(map[netip.Prefix]bool)}
		for _, a := range s.AllowedIPs {
			s.allowed[a] = true
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b peerState) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out
}

func endpoint(a *net.UDPAddr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	return unmapped(a.AddrPort())
}
