package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Device drives a WireGuard device that lives on its own. It may be used by
// several goroutines. Every method but Close fails with [ErrGone] once the
// device has ended.
type Device struct {
	o     Options
	kind  Datapath
	child int // pid of the device process if this process started it, for reaping

	mu      sync.Mutex // one change at a time; guards the field below
	control *control   // nil: closed
}

// Kind is Kernel or Userspace.
func (d *Device) Kind() Datapath { return d.kind }

// readLocked reads the device, and puts right its private key and its port if
// somebody changed them.
func (d *Device) readLocked() (*wgtypes.Device, error) {
	if d.control == nil {
		return nil, os.ErrClosed
	}
	kind, dev, err := d.control.find()
	if err != nil {
		return nil, err
	}
	if kind != d.kind {
		reap(d.child)
		return nil, ErrGone
	}
	var cfg wgtypes.Config
	if Key(dev.PrivateKey) != d.o.PrivateKey {
		cfg.PrivateKey = (*wgtypes.Key)(&d.o.PrivateKey)
	}
	if d.o.ListenPort != 0 && dev.ListenPort != d.o.ListenPort {
		if err := checkPort(d.o.ListenPort); err != nil {
			return nil, err
		}
		cfg.ListenPort = &d.o.ListenPort
	}
	if cfg.PrivateKey == nil && cfg.ListenPort == nil {
		return dev, nil
	}
	if err := d.control.set(cfg); err != nil {
		return nil, fmt.Errorf("set key and port of %s: %w", d.o.Interface, err)
	}
	return dev, nil
}

// Set makes the device have exactly these peers, by single steps: what is as
// wanted is not touched, and its sessions live on. It may be repeated. After an
// error it goes on with the next step and joins the errors, which [ErrorsOf] tells
// apart; what is wrong in want is left out and reported.
func (d *Device) Set(want []Config) error {
	peers, invalid := normalise(want, d.o.PrivateKey.public())
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := d.readLocked()
	if err != nil {
		return errors.Join(invalid, fmt.Errorf("set peers: %w", err))
	}
	errs := []error{invalid}
	for _, s := range plan(states(dev), peers) {
		d.o.Log.Debug("change device", "step", s.String())
		if err := d.control.do(s); err != nil {
			errs = append(errs, peerErrorf(s.key, "%s: %w", s, err))
			if errors.Is(err, ErrGone) {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Status gives what the device knows about its peers, sorted by public key.
func (d *Device) Status() ([]Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := d.readLocked()
	if err != nil {
		return nil, fmt.Errorf("read peers: %w", err)
	}
	counters := make(map[Key]wgtypes.Peer, len(dev.Peers))
	for _, p := range dev.Peers {
		counters[Key(p.PublicKey)] = p
	}
	out := make([]Status, 0, len(dev.Peers))
	for _, s := range states(dev) {
		p := counters[s.PublicKey]
		out = append(out, Status{
			PublicKey: s.PublicKey, Endpoint: s.Endpoint, AllowedIPs: s.AllowedIPs,
			LastHandshake: p.LastHandshakeTime, RxBytes: p.ReceiveBytes, TxBytes: p.TransmitBytes,
		})
	}
	return out, nil
}

// Renew removes a peer and adds it anew with the same configuration. That ends
// its session and forgets the newest timestamp seen from it, which a clock that
// ran ahead leaves in the way of all later handshakes (WireGuard paper, 5.1).
func (d *Device) Renew(pub Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := d.readLocked()
	if err != nil {
		return fmt.Errorf("renew peer %s: %w", pub, err)
	}
	for _, h := range states(dev) {
		if h.PublicKey != pub {
			continue
		}
		for _, s := range []step{{verb: stepRemove, key: pub}, renewal(h)} {
			if err := d.control.do(s); err != nil {
				return peerErrorf(pub, "renew peer: %s: %w", s, err)
			}
		}
		return nil
	}
	return peerErrorf(pub, "renew peer %s: the device does not have it", pub)
}

// Close forgets the device, which lives on.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.control == nil {
		return nil
	}
	err := d.control.client.Close()
	d.control = nil
	return err
}

// Remove ends whatever device lives under the name, without opening it: for a
// router that is to stop while none runs. It reads Interface, RunDir and Links.
// No device is no error, and an interface that is not WireGuard's is left alone.
func Remove(ctx context.Context, o Options) error {
	c, err := newControl(o.Interface, o.inline)
	if err != nil {
		return fmt.Errorf("remove WireGuard device %s: %w", o.Interface, err)
	}
	defer c.client.Close()
	kind, _, err := c.find()
	if proc, procErr := readProcess(o.RunDir); procErr == nil && proc.alive() {
		kind = Userspace // even one that does not answer
	} else if err != nil {
		return fmt.Errorf("remove WireGuard device %s: %w", o.Interface, err)
	}
	d := &Device{o: o, kind: kind}
	if kind == "" {
		return d.clear()
	}
	return d.Remove(ctx)
}

// Remove ends the device and forgets it: the kernel's link is deleted; the
// device process is ended and waited for. A device that is gone is no error.
func (d *Device) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := d.end(ctx)
	if err != nil {
		err = fmt.Errorf("remove WireGuard device %s: %w", d.o.Interface, err)
	}
	return errors.Join(err, d.Close())
}

func (d *Device) end(ctx context.Context) error {
	deleteLink := func() error {
		if d.o.Links == nil {
			return errors.New("nobody to delete the link")
		}
		return d.o.Links.DeleteLink(d.o.Interface)
	}
	if d.kind == Kernel {
		return deleteLink()
	}
	proc, err := readProcess(d.o.RunDir)
	if err == nil && proc.alive() {
		if err := proc.stop(ctx); err != nil {
			return err
		}
	} else if probe(d.o.Interface) == nil {
		// The pid file is lost, or speaks of another pid namespace. Without its
		// link the process ends.
		if err := deleteLink(); err != nil {
			return err
		}
	}
	return d.waitGone(ctx)
}

// waitGone waits until link, socket and process are gone.
func (d *Device) waitGone(ctx context.Context) error {
	for {
		err := probe(d.o.Interface)
		_, linkErr := net.InterfaceByName(d.o.Interface)
		if errors.Is(err, ErrGone) && linkErr != nil && reap(d.child) {
			break
		}
		if pause(ctx) != nil {
			return fmt.Errorf("wait for the end of its process: %w", ctx.Err())
		}
	}
	return d.clear()
}

// clear removes the files that a process that was killed leaves behind.
func (d *Device) clear() error {
	for _, path := range []string{socketPath(d.o.Interface), pidPath(d.o.RunDir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
