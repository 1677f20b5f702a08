package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// ServeOptions are what the device process needs to know.
type ServeOptions struct {
	Interface string       // name of the link
	MTU       int          // at the start; zero: DefaultMTU. Later changes of the link's MTU are followed
	RunDir    string       // for device.pid
	Log       *slog.Logger // nil: nothing is logged
}

// Serve is the device process: a TUN link, wireguard-go behind it, and its
// control socket in /var/run/wireguard. It returns nil when ctx ends, when the
// link is deleted, or when the control socket is removed (which is how
// wireguard-go is told to stop). Its caller ignores SIGHUP, since the device
// must outlive whatever terminal its starter had. It reads WEFT_DEVICE_READY_FD, by which
// [Open] waits for it.
func Serve(ctx context.Context, o ServeOptions) (err error) {
	ready := readiness()
	defer func() { ready(err) }() // does nothing after the first call
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	link, err := makeTUN(o.Interface, o.MTU)
	if err != nil {
		return err
	}
	// The pid file says whose the link is as long as there is one.
	forget, err := announce(o.RunDir)
	if err != nil {
		link.Close()
		return err
	}
	defer forget()
	// A socket left by a dead process is replaced, one that answers is an error.
	socket, err := ipc.UAPIOpen(o.Interface)
	if err != nil {
		link.Close()
		return fmt.Errorf("open control socket %s: %w", socketPath(o.Interface), err)
	}
	control, err := ipc.UAPIListen(o.Interface, socket)
	socket.Close() // UAPIListen has a duplicate
	if err != nil {
		link.Close()
		return fmt.Errorf("listen on control socket %s: %w", socketPath(o.Interface), err)
	}
	// The bind asks for socket buffers of 7 MiB, beyond rmem_max as root.
	dev := device.NewDevice(link, conn.NewDefaultBind(), wireguardLog(o.Log))
	var accepting sync.WaitGroup
	closed := make(chan struct{})
	accepting.Go(func() {
		defer close(closed)
		for {
			c, err := control.Accept()
			if err != nil {
				return
			}
			go dev.IpcHandle(c) // ends with its connection
		}
	})
	defer os.Remove(socketDir) // stays unless it is empty
	defer accepting.Wait()
	defer dev.Close()
	defer control.Close()
	o.Log.Info("device serves", "interface", o.Interface, "mtu", o.MTU, "pid", os.Getpid())
	ready(nil)
	select {
	case <-ctx.Done():
		o.Log.Info("device ends: it was asked to", "interface", o.Interface)
	case <-dev.Wait():
		o.Log.Info("device ends: its link is gone", "interface", o.Interface)
	case <-closed:
		o.Log.Info("device ends: its control socket is gone", "interface", o.Interface)
	}
	return nil
}

func makeTUN(name string, mtu int) (tun.Device, error) {
	// TUNSETIFF would take over a persistent TUN of that name.
	if _, err := net.InterfaceByName(name); err == nil {
		return nil, withHint(fmt.Errorf("make interface %s: it exists", name), "ip link delete "+name)
	}
	link, err := tun.CreateTUN(name, mtu)
	switch {
	case err == nil:
		return link, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, withHint(fmt.Errorf("make interface %s: %w", name, err), "run as root, or with CAP_NET_ADMIN and access to /dev/net/tun")
	}
	if _, statErr := os.Stat("/dev/net/tun"); statErr != nil {
		return nil, withHint(fmt.Errorf("make interface %s: %w", name, err),
			"modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN")
	}
	return nil, fmt.Errorf("make interface %s: %w", name, err)
}

// announce writes the pid file; forget removes it if it is still ours.
func announce(runDir string) (forget func(), err error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	st, err := statOf(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	self := process{os.Getpid(), st.start}
	if err := self.write(runDir); err != nil {
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	return func() {
		if p, err := readProcess(runDir); err == nil && p == self {
			os.Remove(pidPath(runDir))
		}
	}, nil
}

// readiness gives the function that tells the starter, if there is one, how the
// start went.
func readiness() func(error) {
	fd, err := strconv.Atoi(os.Getenv(readyFD))
	os.Unsetenv(readyFD)
	if err != nil || fd <= 2 {
		return func(error) {}
	}
	unix.CloseOnExec(fd)
	w := os.NewFile(uintptr(fd), "ready")
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			answer := readyOK
			if err != nil {
				answer = err.Error()
				if h, ok := errors.AsType[*hintError](err); ok {
					answer += "\x00" + h.hint
				}
			}
			io.WriteString(w, answer)
			w.Close()
		})
	}
}
