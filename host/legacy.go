package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's second, older packet filter, which iptables-legacy fills: it is read
// through getsockopt (linux/netfilter_ipv4/ip_tables.h). Its tables are not
// written: that needs the whole table replaced, without a lock that others keep.

const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO
	iptGetEntries = 65 // IPT_SO_GET_ENTRIES
	hookInput     = 1  // NF_INET_LOCAL_IN
	hookForward   = 2  // NF_INET_FORWARD
	hookOutput    = 3  // NF_INET_LOCAL_OUT
)

// legacyTable is the head and the entries of a table of ip_tables.
type legacyTable struct {
	entry, underflow [5]uint32 // offsets of each hook's first rule and of its policy
	blob             []byte
}

// legacyObstacles finds chains of iptables-legacy that drop our packets.
func (h *Host) legacyObstacles() ([]Obstacle, error) {
	t, err := legacyFilter()
	if t == nil {
		return nil, err
	}
	var out []Obstacle
	if t.drops(hookForward, h.bridge, h.tunnel) || t.drops(hookForward, h.bridge, h.bridge) || t.drops(hookForward, h.tunnel, h.bridge) {
		out = append(out, Obstacle{"chain FORWARD of iptables-legacy",
			fmt.Sprintf("iptables-legacy -I FORWARD -i %[1]s+ -o %[1]s+ -j ACCEPT", namePrefix)})
	}
	if t.drops(hookInput, h.bridge, "") {
		out = append(out, Obstacle{"chain INPUT of iptables-legacy", fmt.Sprintf("iptables-legacy -I INPUT -i %s+ -j ACCEPT", namePrefix)})
	}
	return out, nil
}

// legacyFilter is the table filter; nil without an error when there is none.
func legacyFilter() (*legacyTable, error) {
	// Asking for a table makes it; only look at one that is there.
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for iptables-legacy: %w", err)
	}
	if !slices.Contains(strings.Fields(string(names)), "filter") {
		return nil, nil
	}
	t, err := readLegacy("filter")
	if err != nil {
		return nil, fmt.Errorf("read table filter of iptables-legacy: %w", err)
	}
	return t, nil
}

func readLegacy(table string) (*legacyTable, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// struct ipt_getinfo: name 32, valid_hooks 4, hook_entry 5*4, underflow 5*4, num_entries 4, size 4.
	info := make([]byte, 84)
	copy(info, table)
	if err := getsockopt(fd, iptGetInfo, info); err != nil {
		return nil, err
	}
	t := &legacyTable{}
	for i := range 5 {
		t.entry[i] = binary.NativeEndian.Uint32(info[36+4*i:])
		t.underflow[i] = binary.NativeEndian.Uint32(info[56+4*i:])
	}
	// struct ipt_get_entries: name 32, size 4, padding 4, entries.
	size := binary.NativeEndian.Uint32(info[80:])
	entries := make([]byte, 40+size)
	copy(entries, table)
	binary.NativeEndian.PutUint32(entries[32:], size)
	if err := getsockopt(fd, iptGetEntries, entries); err != nil {
		return nil, err // EAGAIN: changed in between; the next Set sees it
	}
	t.blob = entries[40:]
	return t, nil
}

func getsockopt(fd, name int, buf []byte) error {
	length := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Offsets in struct ipt_entry, and of the standard target's verdict.
const (
	entrySize    = 112
	entryIn      = 16 // names 16+16, then masks 16+16, after source and destination
	entryProto   = 80
	entryInverse = 83
	entryTarget  = 88 // u16 offset of the target, u16 offset of the next entry
	targetName   = 2
	targetSize   = 32
)

// drops judges a packet by the rules that only look at interfaces, from the hook's
// first to its policy; others (ports, addresses, jumps) are taken not to match.
func (t *legacyTable) drops(hook int, in, out string) bool {
	for at := t.entry[hook]; ; {
		if uint64(at)+entrySize > uint64(len(t.blob)) {
			return false
		}
		e := t.blob[at:]
		target, next := binary.NativeEndian.Uint16(e[entryTarget:]), binary.NativeEndian.Uint16(e[entryTarget+2:])
		if int(next) > len(e) || next < entrySize || int(target)+targetSize > int(next) {
			return false
		}
		if target == entrySize && onlyLinks(e) && linkMatches(e, 0, in) && linkMatches(e, 16, out) {
			switch verdict, name := standardTarget(e[target:next]); {
			case name == "" && verdict == -unixNFAccept-1:
				return false
			case name == "" && verdict == -unixNFDrop-1, name == "REJECT":
				return true
			}
		}
		if at == t.underflow[hook] {
			return false // a policy that is neither
		}
		at += uint32(next)
	}
}

// accepts says that a hook has no rule, and a policy that accepts.
func (t *legacyTable) accepts(hook int) bool {
	at := t.entry[hook]
	if at != t.underflow[hook] || uint64(at)+entrySize+targetSize+4 > uint64(len(t.blob)) {
		return false
	}
	verdict, name := standardTarget(t.blob[at+entrySize:])
	return name == "" && verdict == -unixNFAccept-1
}

const unixNFDrop, unixNFAccept = 0, 1

// standardTarget is the verdict of an entry, or the name of its extension.
func standardTarget(t []byte) (verdict int32, name string) {
	name, _, _ = strings.Cut(string(t[targetName:targetName+29]), "\x00")
	if name == "" && len(t) >= targetSize+4 {
		verdict = int32(binary.NativeEndian.Uint32(t[targetSize:]))
	}
	return verdict, name
}

// onlyLinks: no condition on addresses or protocol, none inverted.
func onlyLinks(e []byte) bool {
	return bytes.Equal(e[:16], make([]byte, 16)) && e[entryProto] == 0 && e[entryProto+1] == 0 && e[entryInverse] == 0
}

// linkMatches compares a name under the entry's mask: field 0 is the incoming
// interface, 16 the outgoing one.
func linkMatches(e []byte, field int, name string) bool {
	want, mask := e[entryIn+field:][:16], e[entryIn+32+field:][:16]
	if name == "" {
		return bytes.Equal(mask, make([]byte, 16))
	}
	have := ifname(name)
	for i := range 16 {
		if (want[i]^have[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}
