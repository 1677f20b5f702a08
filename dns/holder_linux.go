package dns

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder names the process that has a socket in the way of an address, as "NAME
// (pid N)", or gives "" if it can't be seen from here.
func holder(network string, a netip.AddrPort) string {
	for _, family := range []string{"", "6"} {
		f, err := os.Open("/proc/net/" + network + family)
		if err != nil {
			continue
		}
		inode := findSocket(f, a)
		f.Close()
		if inode == 0 {
			continue
		}
		if who := processOf(inode); who != "" {
			return who
		}
	}
	return ""
}

// findSocket gives the inode of the first unconnected socket in a table of
// /proc/net (proc_net_tcp.rst) that is bound to the address or to all, or 0.
func findSocket(table io.Reader, a netip.AddrPort) uint64 {
	sc := bufio.NewScanner(table)
	for sc.Scan() {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		local, ok := parseProcAddr(f[1])
		if !ok || local.Port() != a.Port() {
			continue
		}
		if remote, ok := parseProcAddr(f[2]); !ok || remote.Port() != 0 {
			continue
		}
		if local.Addr() != a.Addr() && !local.Addr().IsUnspecified() && !a.Addr().IsUnspecified() {
			continue
		}
		if inode, err := strconv.ParseUint(f[9], 10, 64); err == nil && inode != 0 {
			return inode
		}
	}
	return 0
}

// parseProcAddr reads "0100007F:0035": words of 32 bits in the machine's byte order,
// and a port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for w := b; len(w) > 0; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), true
}

func processOf(inode uint64) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != want {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return "pid " + pid
		}
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}
