package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// LinkAdder makes and deletes links. Package host is one.
type LinkAdder interface {
	// AddWireGuard makes a link of type wireguard, down and without addresses.
	// The error is errors.ErrUnsupported when the kernel has no WireGuard.
	AddWireGuard(name string) error
	// DeleteLink deletes a link of any type; one that is not there is no error.
	DeleteLink(name string) error
}

// DefaultMTU fits WireGuard over IPv6 in packets of 1,500 bytes.
const DefaultMTU = 1420

const (
	// minMTU: below 1,280 Linux drops the IPv6 addresses of a link.
	minMTU = 1280
	maxMTU = 65535
	// startTimeout bounds the start of the device process, changeTimeout the
	// time for a link and a socket that come and go together to do so.
	startTimeout  = 20 * time.Second
	changeTimeout = 5 * time.Second
)

// Options are what [Open] needs to know.
type Options struct {
	Interface  string   // name of the link, 1 to 15 bytes
	ListenPort int      // UDP; zero: leave it to the device
	PrivateKey Key      // required
	MTU        int      // of a device made here; zero: DefaultMTU. Later changes are package host's, by netlink
	Datapath   Datapath // zero: Auto
	RunDir     string   // for device.pid and device.log of a userspace device; required
	// Executable is the argv that runs [Serve]; "--interface NAME --mtu N
	// --run-dir DIR" is appended. Empty: no userspace device can be made.
	Executable []string
	Links      LinkAdder    // nil: the kernel's WireGuard can be adopted, not made or ended
	Log        *slog.Logger // nil: nothing is logged

	inline bool // see control
}

func (o Options) check() (Options, error) {
	var errs []error
	if n := len(o.Interface); n == 0 || n >= unix.IFNAMSIZ {
		errs = append(errs, fmt.Errorf("interface name %q: want 1 to %d bytes", o.Interface, unix.IFNAMSIZ-1))
	}
	if o.ListenPort < 0 || o.ListenPort > 65535 {
		errs = append(errs, fmt.Errorf("listen port %d: want 0 to 65535", o.ListenPort))
	}
	if o.PrivateKey.IsZero() {
		errs = append(errs, errors.New("private key: it is empty"))
	}
	if o.RunDir == "" {
		errs = append(errs, errors.New("run directory: it is not given"))
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.MTU < minMTU || o.MTU > maxMTU {
		errs = append(errs, fmt.Errorf("mtu %d: want %d to %d", o.MTU, minMTU, maxMTU))
	}
	var err error
	if o.Datapath, err = ParseDatapath(string(o.Datapath)); err != nil {
		errs = append(errs, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.PrivateKey = o.PrivateKey.clamped()
	return o, errors.Join(errs...)
}

// Open adopts the device that lives under this name without disturbing its
// sessions, or makes one. It sets the private key and the listen port, and only
// where they differ: setting a key ends all sessions, setting a port makes new
// sockets. It leaves the peers alone and the link down if it made it. Errors
// for which there is a cure have a method Hint() string.
func Open(ctx context.Context, o Options) (*Device, error) {
	o, err := o.check()
	if err != nil {
		return nil, fmt.Errorf("open WireGuard device: %w", err)
	}
	kind, err := settle(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open WireGuard device: %w", err)
	}
	d := &Device{o: o, kind: kind}
	if kind == "" {
		if d.kind, d.child, err = create(ctx, o); err != nil {
			return nil, fmt.Errorf("make WireGuard device: %w", err)
		}
	} else if o.Datapath != Auto && o.Datapath != kind {
		return nil, withHint(fmt.Errorf("open WireGuard device: %s lives as a %s device, and a %s device was asked for", o.Interface, kind, o.Datapath),
			"'weft stop' ends it (and the tunnels until the next launch); or launch with --datapath auto")
	}
	err = d.begin()
	if err == nil {
		return d, nil
	}
	if kind == "" { // made here: leave nothing behind
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
		defer cancel()
		err = errors.Join(err, d.Remove(ctx))
	}
	d.Close()
	return nil, fmt.Errorf("open WireGuard device: %w", err)
}

// begin connects to the device and sets what is its own.
func (d *Device) begin() error {
	var err error
	// Only now: wgctrl looks for the kernel's WireGuard once, and its module
	// may have been loaded by making the link.
	if d.control, err = newControl(d.o.Interface, d.o.inline); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err = d.readLocked()
	return err
}

// settle finds the device, "" if there is none. A device process that starts or
// ends has a link without a socket, or the other way round, for a moment.
func settle(ctx context.Context, o Options) (Datapath, error) {
	c, err := newControl(o.Interface, o.inline)
	if err != nil {
		return "", err
	}
	defer c.client.Close()
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	for {
		kind, _, err := c.find()
		if err != nil {
			return "", err
		}
		_, linkErr := net.InterfaceByName(o.Interface)
		proc, procErr := readProcess(o.RunDir)
		busy := procErr == nil && proc.alive()
		switch link := linkErr == nil; {
		case kind != "" && link:
			return kind, nil
		case kind == "" && !link && !busy:
			return "", nil
		case kind == "" && link && !busy:
			return "", withHint(fmt.Errorf("interface %s exists and is not a WireGuard device", o.Interface),
				fmt.Sprintf("look at it with 'ip -d link show %s'; if nothing needs it: ip link delete %s", o.Interface, o.Interface))
		}
		if err := pause(ctx); err != nil {
			switch {
			case kind != "":
				return "", withHint(fmt.Errorf("%s answers, but its interface is not in this network namespace", socketPath(o.Interface)),
					"two routers that share /run need network namespaces and /run of their own; or end that device's process")
			default:
				return "", withHint(fmt.Errorf("the device process %d runs, but does not answer at %s", proc.pid, socketPath(o.Interface)),
					"end it and launch again: kill "+strconv.Itoa(proc.pid))
			}
		}
	}
}

// create makes the device. The pid of a process started here is for reaping.
func create(ctx context.Context, o Options) (kind Datapath, child int, err error) {
	if o.Datapath != Userspace {
		err := errors.ErrUnsupported
		if o.Links != nil {
			err = o.Links.AddWireGuard(o.Interface)
		}
		switch {
		case err == nil:
			return Kernel, 0, nil
		case !errors.Is(err, errors.ErrUnsupported):
			return "", 0, err
		case o.Datapath == Kernel:
			return "", 0, withHint(errors.New("this kernel has no WireGuard"),
				"load it with 'modprobe wireguard' (Linux 5.6 or later has it), or launch with --datapath auto")
		}
	}
	child, err = startProcess(ctx, o)
	return Userspace, child, err
}

// checkPort says early and clearly that somebody has the UDP port: a userspace
// device binds it when its link comes up and can only log the failure.
func checkPort(port int) error {
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenPacket(network, ":"+strconv.Itoa(port))
		if errors.Is(err, unix.EADDRINUSE) {
			return withHint(fmt.Errorf("listen on UDP port %d: it is in use", port),
				fmt.Sprintf("see who has it with 'ss -lunp sport = :%d', or launch with another --port", port))
		}
		if err == nil { // other errors: a host without IPv6
			c.Close()
		}
	}
	return nil
}

// pause waits a little between two looks at the system, which has no event for
// "socket and link and process are gone".
func pause(ctx context.Context) error {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
