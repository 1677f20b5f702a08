package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What containers have is seen without a path to their namespaces, also when the interface
// was renamed or when only an open file keeps the namespace.
func TestAttached(t *testing.T) {
	h := newTestHost(t)
	h.set()
	want := func(what, want string) {
		t.Helper()
		h.in(func() {
			found, err := h.h.Attached()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			var lines []string
			for k, as := range found {
				slices.SortFunc(as, netip.Prefix.Compare)
				lines = append(lines, fmt.Sprint(k, as))
			}
			slices.Sort(lines)
			if got := strings.Join(lines, " "); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		})
	}
	want("nothing is attached", "")
	a := h.container("a", "10.32.0.1/12", "10.60.0.1/24")
	b := h.container("b", "10.32.0.2/12")
	h.run("ip", "link", "add", "vwe0123456789", "type", "bridge")
	b.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
	want("two", "a[10.32.0.1/12 10.60.0.1/24] b[10.32.0.2/12]")
	a.run("ip", "addr", "del", "10.32.0.1/12", "dev", "ethwe")
	b.sh("ip link set ethwe down; ip link set ethwe name other; ip addr flush dev other; ip addr add 10.32.0.3/16 dev other")
	want("as they are now", "a[10.60.0.1/24] b[10.32.0.3/16]")
	b.run("ip", "link", "set", "other", "netns", h.path())
	want("back on the host, where an interface loses its addresses", "a[10.60.0.1/24] b[]")
	h.sh("ip addr add 10.32.0.4/16 dev other")
	want("back on the host", "a[10.60.0.1/24] b[10.32.0.4/16]")
	b.file.Close()
	h.run("ip", "link", "del", "other")
	a.run("ip", "link", "del", "ethwe")
	want("gone", "")
}
