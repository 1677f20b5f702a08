package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAttachAgainTouchesNothing(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12", "10.60.0.1/24")
	h.c.Covered = append(h.c.Covered, netip.MustParsePrefix("10.60.0.0/24"))
	h.run("iptables", "-P", "FORWARD", "DROP")
	h.tunnel()
	h.set()
	changes := h.events()
	inside := a.events()
	// The kernel tells of an IPv6 address when a worker of its own has made the
	// local route; after that it has nothing more to say.
	for begin := time.Now(); !strings.Contains(h.run("ip", "-6", "route", "show", "table", "local"), testControl.String()); {
		if time.Since(begin) > patience {
			t.Fatal("no local route to the control address")
		}
	}
	for len(changes()) > 0 {
	}
	// Another Host is a restarted router: it knows nothing but the kernel.
	again, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []*Host{h.h, again} {
		h.h = host
		h.attach(a, "a", "10.32.0.1/12", "10.60.0.1/24")
		h.set()
	}
	if got := changes(); len(got) > 0 {
		t.Errorf("the host changed: %v", got)
	}
	if got := inside(); len(got) > 0 {
		t.Errorf("the container changed: %v", got)
	}
	h.c.Local = nil
	h.set()
	if got := changes(); len(got) == 0 {
		t.Error("a change was not seen: the test shows nothing")
	}
}

func TestSeveralAddresses(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.1.1/24")
	b := h.container("b", "10.32.1.2/24", "10.32.2.2/24", "10.32.1.3/24")
	a.echo(9)
	b.echo(9)
	b.hasRoute("10.32.1.0/24 via 169.254.53.1 dev ethwe proto 87 src 10.32.1.2 onlink")
	b.hasRoute("10.32.2.0/24 via 169.254.53.1 dev ethwe proto 87 src 10.32.2.2 onlink")
	a.reaches("10.32.1.2:9")
	for _, src := range []string{"10.32.1.2", "10.32.1.3"} {
		if err := b.ask(src, "10.32.1.1:9", patience); err != nil {
			t.Errorf("from %s: %v", src, err)
		}
	}
	// The subnet's first address goes, the second stays and takes its place.
	h.detach(b, "b", "10.32.1.3/24")
	b.lacksRoute("10.32.2.0/24")
	b.hasRoute("10.32.1.0/24 via 169.254.53.1 dev ethwe proto 87 src 10.32.1.3 onlink")
	if got := b.run("ip", "-o", "-4", "addr", "show", "ethwe"); strings.Contains(got, "10.32.1.2/") || !strings.Contains(got, "10.32.1.3/24") {
		t.Errorf("addresses: %s", got)
	}
	b.reaches("10.32.1.1:9")
	a.misses("10.32.1.2:9")
}

// detach leaves the container with addrs.
func (h *testHost) detach(s *space, key string, addrs ...string) {
	h.t.Helper()
	p := Port{NetNS: s.path(), Key: key}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParsePrefix(a))
	}
	h.in(func() {
		if err := h.h.Detach(p); err != nil {
			h.t.Errorf("Detach: %v", err)
		}
	})
	var local []Local
	for _, l := range h.c.Local {
		if l.Veth == VethName(key) {
			l.Addrs = p.Addrs
		}
		if len(l.Addrs) > 0 {
			local = append(local, l)
		}
	}
	h.c.Local = local
	h.set()
}

func TestDetach(t *testing.T) {
	h := newTestHost(t)
	h.set()
	a := h.container("a", "10.32.0.1/12")
	for range 2 {
		h.detach(a, "a")
		if got := a.run("ip", "-o", "link"); strings.Contains(got, "ethwe") {
			t.Errorf("ethwe is still there: %s", got)
		}
	}
	h.lacksRoute("10.32.0.1")
	if got := h.run("nft", "list", "ruleset"); strings.Contains(got, "10.32.0.1 ") {
		t.Errorf("the firewall still knows the address:\n%s", got)
	}
	h.in(func() {
		gone := Port{NetNS: "/proc/0/ns/net", Key: "never", Addrs: []netip.Prefix{netip.MustParsePrefix("10.32.0.9/12")}}
		if err := h.h.Detach(gone); err != nil {
			t.Errorf("Detach of what never was: %v", err)
		}
		if err := h.h.Detach(Port{Key: "never"}); err != nil {
			t.Errorf("Detach of what never was: %v", err)
		}
		if _, err := h.h.Attach(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Attach to a namespace that is gone: %v", err)
		}
	})
}

func TestContainerRestarts(t *testing.T) {
	h := newTestHost(t)
	h.set()
	b := h.container("b", "10.32.0.2/12")
	b.echo(9)
	old := newSpace(t)
	mac := h.attach(old, "a", "10.32.0.1/12")
	old.reaches("10.32.0.2:9")
	// The old namespace may still be there when the new one comes.
	again := newSpace(t)
	if got := h.attach(again, "a", "10.32.0.1/12"); got != mac {
		t.Errorf("MAC was %s, is %s", mac, got)
	}
	again.reaches("10.32.0.2:9")
	if got := old.run("ip", "-o", "link"); strings.Contains(got, "ethwe") {
		t.Errorf("the old namespace keeps %s", got)
	}
	again.file.Close()
	third := newSpace(t)
	h.attach(third, "a", "10.32.0.1/12")
	third.reaches("10.32.0.2:9")
	if got := third.run("ip", "-o", "link", "show", "ethwe"); !strings.Contains(got, mac) {
		t.Errorf("MAC %s is not on %s", mac, got)
	}
}

func TestAttachRefuses(t *testing.T) {
	h := newTestHost(t)
	a := newSpace(t)
	p := Port{NetNS: a.path(), Key: "a", Addrs: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}}
	refuse := func(p Port, want string) {
		t.Helper()
		h.in(func() {
			if _, err := h.h.Attach(p); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		})
	}
	refuse(p, "no such interface") // no bridge yet
	h.set()
	own := p
	own.NetNS = h.path()
	refuse(own, "the host's own")
	for _, bad := range []string{"127.0.0.1/8", "224.0.0.1/24", "169.254.53.1/16", "fd00::1/64", "0.0.0.0/8"} {
		wrong := p
		wrong.Addrs = []netip.Prefix{netip.MustParsePrefix(bad)}
		refuse(wrong, "container address "+bad)
	}
	small := p
	small.MTU = 500
	refuse(small, "MTU 500")
	a.run("ip", "link", "add", "ethwe", "type", "bridge")
	refuse(p, "is not weft's")
	b := h.container("b", "10.32.0.2/12")
	p.NetNS = b.path()
	refuse(p, "is attached already, as b")
}

func TestNames(t *testing.T) {
	a, b := VethName("a"), VethName("b")
	if a == b || len(a) != 13 || !isVethName(a) || a != VethName("a") {
		t.Errorf("names %s and %s", a, b)
	}
	if got := containerMAC("vwe0123456789").String(); got != "0a:01:23:45:67:89" {
		t.Errorf("MAC %s", got)
	}
	for _, no := range []string{"vwe", "vwe012345678", "vwe01234567zz", "veth0123456789", "vwe01234567890"} {
		if isVethName(no) {
			t.Errorf("%s is no name of ours", no)
		}
	}
	id, err := NetNSID("/proc/self/ns/net")
	if again, _ := NetNSID(fmt.Sprintf("/proc/%d/ns/net", os.Getpid())); err != nil || id != again || id == "" {
		t.Errorf("NetNSID: %q, %q, %v", id, again, err)
	}
	if _, err := NetNSID("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("NetNSID of nothing: %v", err)
	}
}
