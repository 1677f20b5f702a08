package dns

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultResolvConf = "/etc/resolv.conf"
	// systemdConf holds the servers that systemd-resolved itself asks.
	systemdConf   = "/run/systemd/resolve/resolv.conf"
	maxServers    = 6
	maxResolvConf = 64 << 10
	// recheck is how old what was read may get before it is read again.
	recheck = time.Second
)

// upstream knows which servers to ask: those given, or those of resolv.conf.
type upstream struct {
	fixed         []netip.AddrPort // nil: the files'
	conf, systemd string
	recheck       time.Duration
	own           func() []netip.AddrPort
	changed       func() // called when the files name other servers than before; may be nil
	log           *slog.Logger

	mu     sync.Mutex // guards the fields below
	read   time.Time
	raw    []byte // both files, as last read
	usable []netip.AddrPort
}

func newUpstream(fixed []netip.AddrPort, conf string, own func() []netip.AddrPort, log *slog.Logger) *upstream {
	if conf == "" {
		conf = defaultResolvConf
	}
	return &upstream{fixed: fixed, conf: conf, systemd: systemdConf, recheck: recheck, own: own, log: log}
}

// servers gives the servers in the order of the file, without ourselves. Files are read
// again after a second, not watched: they are replaced by renaming, by bind
// mounts and over network file systems.
func (u *upstream) servers() []netip.AddrPort {
	if u.fixed != nil {
		return u.foreign(u.fixed)
	}
	u.refresh()
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.foreign(u.usable)
}

// refresh reads the files again if it is time.
func (u *upstream) refresh() {
	if u.fixed != nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); u.read.IsZero() || now.Sub(u.read) >= u.recheck {
		u.read = now
		u.loadLocked()
	}
}

// loadLocked reads the files. What can't be read changes nothing.
func (u *upstream) loadLocked() {
	raw, err := readConf(u.conf)
	if err != nil {
		if u.raw == nil {
			u.log.Warn("no upstream dns servers", "path", u.conf, "err", err)
			u.raw = []byte{}
		}
		return
	}
	servers := parseResolvConf(raw)
	if slices.ContainsFunc(servers, isSystemdStub) {
		// The stub itself works from the host only by its loopback rules; what is
		// behind it is better asked directly, and can't lead back here.
		if more, err := readConf(u.systemd); err == nil {
			raw = append(append(raw, '\n'), more...)
			servers = slices.Concat(parseResolvConf(more), slices.DeleteFunc(servers, isSystemdStub))
		}
	}
	if u.raw != nil && bytes.Equal(raw, u.raw) {
		return
	}
	usable := make([]netip.AddrPort, 0, len(servers))
	for _, a := range servers {
		if ap := netip.AddrPortFrom(a, 53); !slices.Contains(usable, ap) && len(usable) < maxServers {
			usable = append(usable, ap)
		}
	}
	if u.raw == nil || !slices.Equal(usable, u.usable) {
		u.log.Info("upstream dns servers", "path", u.conf, "servers", usable)
		if u.raw != nil && u.changed != nil {
			u.changed() // another network may have other answers
		}
	}
	u.raw, u.usable = raw, usable
}

func readConf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxResolvConf))
}

func isSystemdStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// parseResolvConf gives the servers of a resolv.conf(5), in order. Lines that
// it does not understand are passed over, as the C library does.
func parseResolvConf(raw []byte) []netip.Addr {
	var servers []netip.Addr
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil || a.IsMulticast() {
			continue
		}
		if a.IsUnspecified() { // means this host
			a = netip.IPv6Loopback()
			if !strings.Contains(f[1], ":") {
				a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
		}
		servers = append(servers, a.Unmap())
	}
	return servers
}

// foreign leaves out the addresses that we listen on: a question that we ask
// ourselves never ends.
func (u *upstream) foreign(servers []netip.AddrPort) []netip.AddrPort {
	own := u.own()
	return slices.DeleteFunc(slices.Clone(servers), func(a netip.AddrPort) bool { return slices.Contains(own, a) })
}
