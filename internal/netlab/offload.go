package netlab

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setOffloads switches what a link leaves to its hardware when it sends:
// checksums, and cutting large packets into segments. The link is one of the
// calling thread's network namespace (ethtool ioctl, linux/ethtool.h).
func setOffloads(link string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open ethtool socket: %w", err)
	}
	defer unix.Close(fd)
	type ethtoolValue struct{ cmd, data uint32 }
	type ifreq struct { // struct ifreq with the pointer of its union
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	cmds := []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SSG, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO}
	for _, cmd := range cmds {
		v := &ethtoolValue{cmd: cmd}
		if on {
			v.data = 1
		}
		r := ifreq{data: unsafe.Pointer(v)}
		copy(r.name[:unix.IFNAMSIZ-1], link)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
		runtime.KeepAlive(v)
		if errno != 0 {
			return fmt.Errorf("set offload %#x of %s: %w", cmd, link, errno)
		}
	}
	return nil
}
