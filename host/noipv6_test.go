package host

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A kernel that was started without IPv6 is named, with the cure; the rest of the
// host is set all the same.
func TestKernelWithoutIPv6(t *testing.T) {
	h := newTestHost(t)
	h.tunnel()
	var err error
	h.in(func() { // on a thread that ends with this function
		for _, e := range []error{
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("none", "/proc/sys/net/ipv6", "tmpfs", 0, ""), // hides what such a kernel lacks
		} {
			if e != nil {
				t.Errorf("hide IPv6: %v", e)
				return
			}
		}
		err = h.h.Set(h.c)
	})
	missing, ok := errors.AsType[*noIPv6Error](err)
	if !ok || !strings.Contains(err.Error(), "weftwg") || !strings.Contains(missing.Hint(), "ipv6.disable=1") {
		t.Fatalf("got %v, want an error of the kernel without IPv6", err)
	}
	h.hasRoute("unreachable 10.32.0.0/12")
	h.set()
	if got := h.run("ip", "-6", "addr", "show", "weftwg"); !strings.Contains(got, testControl.String()) {
		t.Errorf("no control address once IPv6 is there:\n%s", got)
	}
}
