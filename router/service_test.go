package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/docker"
	"weft/ipam"
	"weft/peer"
)

// foundAt tells of a container what is found of it, names only.
func foundAt(a *attachment) string {
	var out []string
	a.found("weft.local", func(netip.Addr) bool { return false }, func(k nameKey) {
		s := shortName(k.Name, "weft.local")
		if k.Type != typeAddr {
			s += ":" + record(k, peer.ID{}, false).Type()
		}
		out = append(out, s)
	})
	slices.Sort(out)
	return strings.Join(out, " ")
}

// What a container offers is found at the name that it got when it was attached, or else at the first that it was given since,
// whichever events come in between.
func TestServicesAreAtTheMainName(t *testing.T) {
	c := docker.Container{Exposed: []docker.Port{{Number: 80, Proto: "tcp"}}, Labels: map[string]string{"weft.txt": "x", "weft.service": "http"}}
	a := &attachment{Key: "c", running: true, Default: "web.weft.local."}
	for _, x := range []struct {
		what, names, want string
	}{
		{"no name", "", ""},
		{"only a wildcard", "*.a", "*.a"},
		{"its own name", "web www", "_http._tcp.web:SRV _http._tcp:SRV c.web web web:SRV web:TXT www"},
		{"that was removed", "www", "_http._tcp.www:SRV _http._tcp:SRV c.www www www:SRV www:TXT"},
		{"and added again", "www web", "_http._tcp.web:SRV _http._tcp:SRV c.web web web:SRV web:TXT www"},
	} {
		a.Names = nil
		for n := range strings.FieldsSeq(x.names) {
			a.addName(attachedName{FQDN: n + ".weft.local.", Addr: netip.MustParseAddr("10.32.0.1")})
		}
		for _, event := range []bool{false, true} {
			if event || a.Offers == nil {
				a.follow(c, "weft.local")
			}
			if got := foundAt(a); got != x.want {
				t.Errorf("%s, after an event %v: %s, want %s", x.what, event, got, x.want)
			}
		}
	}
}

// A container that was attached without a name and given one later is found as any other: with its services, and as unhealthy.
func TestNamedLater(t *testing.T) {
	c := docker.Container{ID: "c", Name: "web", Unhealthy: true, Exposed: []docker.Port{{Number: 80, Proto: "tcp"}}}
	to := target{Key: c.ID, Name: c.Name, container: c}
	got := []ipam.Allocation{{Container: c.ID, Addr: pfx("10.32.0.1/12")}}
	named := attachedTo(nil, to, attachRequest{}, got, "web.weft.local.", "weft.local")
	later := attachedTo(nil, to, attachRequest{WithoutDNS: true}, got, "web.weft.local.", "weft.local")
	if got := foundAt(later); got != "" || later.Default != "" {
		t.Errorf("without a name it is found at %s", got)
	}
	later.addName(attachedName{FQDN: "web.weft.local.", Addr: got[0].Addr.Addr()})
	if a, b := foundAt(named), foundAt(later); a != b || !strings.Contains(a, "web:SRV") || !named.Unhealthy || !later.Unhealthy {
		t.Errorf("named at once: %s, unhealthy %v; later: %s, %v", a, named.Unhealthy, b, later.Unhealthy)
	}
}

// What a container offers is stored with its attachment whenever that has changed.
func TestOffersAreStored(t *testing.T) {
	r := newFounder(t).start()
	r.attached = map[string]*attachment{"c": {Key: "c"}}
	for _, ports := range [][]docker.Port{{{Number: 80, Proto: "tcp"}}, {{Number: 80, Proto: "udp"}, {Number: 81, Proto: "tcp"}}, nil} {
		a := &attachment{Key: "c", Addrs: []netip.Prefix{pfx("10.32.0.1/12")}}
		a.follow(docker.Container{ID: "c", Exposed: ports}, "weft.local")
		if err := r.updateNames(a); err != nil {
			t.Fatal(err)
		}
		stored, err := loadAttachments(r.db.Load)
		if err != nil || stored["c"] == nil || !slices.Equal(stored["c"].Offers, a.Offers) || len(a.Offers) != len(ports) {
			t.Errorf("%v: stored %+v, %v", ports, stored["c"], err)
		}
	}
}

// A container that exposes all ports leaves the others of its host room for their names; what its labels say stays.
func TestOffersAreBounded(t *testing.T) {
	c := docker.Container{Labels: map[string]string{labelService: "rtp/udp=20000", labelText + ".owner": "ops"}}
	for n := range 16384 {
		c.Exposed = append(c.Exposed, docker.Port{Number: uint16(49152 + n), Proto: "udp"})
	}
	os := offers(c, "weft.local")
	has := func(o offer) bool { return slices.Contains(os, o) }
	if len(os) != maxOffers || !has(offer{Service: "_rtp._udp", Port: 20000}) || !has(offer{Text: "owner=ops"}) || !has(offer{Port: 49152}) {
		t.Errorf("%d: %v", len(os), os[:3])
	}
}

// Of too many, services are left out last: there are few of them, and who asks for one has nothing else to go by. Then come texts.
func TestServicesGoBeforeTextsAndTextsBeforePorts(t *testing.T) {
	count := func(texts, ports int) (got [3]int) {
		c := docker.Container{Labels: map[string]string{labelService: "http=80,rtp/udp=20000"}}
		for i := range texts {
			c.Labels[fmt.Sprintf("%s.k%03d", labelText, i)] = "v"
		}
		for i := range ports {
			c.Exposed = append(c.Exposed, docker.Port{Number: uint16(1000 + i), Proto: "tcp"})
		}
		os := offers(c, "weft.local")
		for _, o := range os {
			got[o.rank()]++
		}
		if !slices.IsSortedFunc(os, offer.compare) {
			t.Errorf("%d texts and %d ports: %v", texts, ports, os)
		}
		return got
	}
	for _, x := range []struct {
		texts, ports int
		want         [3]int
	}{{10, 10, [3]int{2, 10, 10}}, {300, 0, [3]int{2, 254, 0}}, {300, 300, [3]int{2, 254, 0}}, {100, 300, [3]int{2, 100, 154}}} {
		if got := count(x.texts, x.ports); got != x.want {
			t.Errorf("of %d texts and %d ports there are %v services, texts and ports, want %v", x.texts, x.ports, got, x.want)
		}
	}
}
