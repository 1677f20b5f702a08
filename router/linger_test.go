package router

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/dns"
	"weft/peer"
)

// What takes a removed name's place on another host ends it as soon as this one hears of it.
func TestLingeringEndsByAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFounder(t).start()
		r.zone = newZone("weft.local.", true)
		r.namePoke, r.logPoke = make(chan struct{}, 1), make(chan struct{}, 1)
		old := nameKey{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}
		r.static = map[nameKey]bool{}
		if err := r.changeStatic([]nameKey{old}, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go r.followNames(ctx)
		answers := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, a := range r.zone.table.Load().Lookup("web") {
				got = append(got, a.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		r.pokeNames()
		answers("it is added", "10.32.0.1")
		if err := r.changeStatic(nil, func(k nameKey) bool { return k == old }); err != nil {
			t.Fatal(err)
		}
		r.pokeNames()
		answers("it is removed", "10.32.0.1")
		e := r.zone.table.Load().Edit() // as when its log has come
		e.Add(dns.Record{Name: old.Name, Addr: netip.MustParseAddr("10.32.0.2"), Host: peer.ID{9}.String()})
		r.zone.table.Store(e.Done())
		r.logsChanged()
		answers("another host has it", "10.32.0.2")
	})
}

// A host that has been silent for a time is hidden though nothing has told of it.
func TestHostsAreLookedAtEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFounder(t).start()
		r.zone = newZone("weft.local.", true)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go r.followNames(ctx)
		synctest.Wait()
		id := peer.ID{9} // no tunnel hears it
		r.zone.hosts[id] = &zoneHost{}
		e := r.zone.table.Load().Edit()
		e.Add(dns.Record{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.2"), Host: id.String()})
		r.zone.table.Store(e.Done())
		if got := r.zone.table.Load().Lookup("web"); len(got) != 1 {
			t.Fatalf("at first: %v", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.zone.table.Load().Lookup("web"); len(got) != 0 {
			t.Errorf("after a second: %v", got)
		}
	})
}

// A name without a container that was removed is gone for good.
func TestStaticNamesGo(t *testing.T) {
	f := newFounder(t)
	r := f.start()
	r.static = map[nameKey]bool{}
	web, db := nameKey{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}, nameKey{Name: "db.weft.local.", Addr: netip.MustParseAddr("10.32.0.2")}
	if err := r.changeStatic([]nameKey{web, db}, nil); err != nil {
		t.Fatal(err)
	}
	remove := func() error { return r.changeStatic(nil, func(k nameKey) bool { return k == web }) }
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if err := remove(); !errors.Is(err, errNoSuchName) {
		t.Errorf("removed twice: %v", err)
	}
	stored, err := loadStatic(r.db.Load)
	if want := map[nameKey]bool{db: true}; err != nil || !maps.Equal(r.static, want) || !maps.Equal(stored, want) {
		t.Errorf("left %v, stored %v, %v", r.static, stored, err)
	}
}

// A removed name is answered for a moment longer, unless something that leads to an address takes its place, here or elsewhere.
func TestLingering(t *testing.T) {
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	old := nameKey{Name: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1"), Container: "c1"}
	srv := nameKey{Name: old.Name, Type: typeSRV, Port: 80, Data: old.Name, Container: "c1"}
	other := old
	other.Addr, other.Container = netip.MustParseAddr("10.32.0.2"), "c2"
	alias := nameKey{Name: old.Name, Type: typeCNAME, Data: "db.weft.local."}
	otherSRV := srv
	otherSRV.Port, otherSRV.Container = 81, "c2"
	for _, c := range []struct {
		what      string
		old       nameKey
		here      []nameKey
		elsewhere []nameKey
		until     time.Duration
		stays     bool
	}{
		{"nothing", old, nil, nil, time.Hour, true},
		{"its own services only", old, []nameKey{srv}, nil, time.Hour, true},
		{"services elsewhere only", old, nil, []nameKey{srv}, time.Hour, true},
		{"another address", old, []nameKey{srv, other}, nil, time.Hour, false},
		{"another address elsewhere", old, nil, []nameKey{other}, time.Hour, false},
		{"an alias", old, []nameKey{alias}, nil, time.Hour, false},
		{"an alias elsewhere", old, nil, []nameKey{alias}, time.Hour, false},
		{"its time is over", old, nil, nil, -time.Second, false},
		{"an address, and it is a service", srv, []nameKey{other}, nil, time.Hour, true},
		{"another service", srv, []nameKey{otherSRV}, nil, time.Hour, false},
		{"another service elsewhere", srv, nil, []nameKey{otherSRV}, time.Hour, false},
		{"an alias, and it is a service", srv, []nameKey{alias}, nil, time.Hour, false},
		{"an address, and it is an alias", alias, nil, []nameKey{other}, time.Hour, false},
	} {
		old := c.old
		r := &Router{id: id, zone: newZone("weft.local", true), linger: map[nameKey]leaving{old: {until: time.Now().Add(c.until)}}}
		rs := []dns.Record{record(old, id.ID(), false)}
		for _, k := range c.elsewhere {
			rs = append(rs, record(k, peer.ID{9}, false))
		}
		r.zone.table.Store(dns.NewTable("weft.local", nil, rs))
		names := map[nameKey]bool{}
		for _, k := range c.here {
			names[k] = true
		}
		r.addLingeringLocked(names, func(netip.Addr) bool { return false })
		if names[old] != c.stays {
			t.Errorf("%s takes its place: it stays: %v", c.what, names[old])
		}
	}
}

// What is still answered for a moment after dns-remove is what was answered before: nothing of a container that does not
// live, no address that is another host's now, and its services with its name.
func TestRemovedNames(t *testing.T) {
	one, two := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	a := &attachment{Key: "c", running: true, Default: "web.weft.local.",
		Names:  []attachedName{{FQDN: "web.weft.local.", Addr: one}, {FQDN: "web.weft.local.", Addr: two}, {FQDN: "other.weft.local.", Addr: one}},
		Offers: []offer{{Port: 80}}}
	stopped := a.clone()
	stopped.running = false
	for _, c := range []struct {
		what   string
		of     *attachment
		fqdn   string
		ips    []netip.Addr
		others netip.Addr
		gone   int
		lost   string
	}{
		{"the name of its services", a, "web.weft.local.", nil, netip.Addr{}, 2, "A web.weft.local. 10.32.0.1, A web.weft.local. 10.32.0.2, SRV web.weft.local., A c.web.weft.local. 10.32.0.1, A c.web.weft.local. 10.32.0.2"},
		{"one address of it", a, "web.weft.local.", []netip.Addr{one}, netip.Addr{}, 1, "A web.weft.local. 10.32.0.1, A c.web.weft.local. 10.32.0.1"},
		{"another name", a, "other.weft.local.", nil, netip.Addr{}, 1, "A other.weft.local. 10.32.0.1"},
		{"an address is another host's", a, "web.weft.local.", nil, one, 2, "A web.weft.local. 10.32.0.2, SRV web.weft.local., A c.web.weft.local. 10.32.0.2"},
		{"it does not run", stopped, "web.weft.local.", nil, netip.Addr{}, 2, ""},
		{"none of its names", a, "nosuch.weft.local.", nil, netip.Addr{}, 0, ""},
	} {
		b := c.of.clone()
		gone := b.removeNames(c.fqdn, c.ips)
		want := map[string]bool{}
		for s := range strings.SplitSeq(c.lost, ", ") {
			want[s] = s != ""
		}
		delete(want, "")
		got := map[string]bool{}
		lost := lost(c.of, b, "weft.local", func(a netip.Addr) bool { return a == c.others })
		for k := range lost {
			rec := record(k, peer.ID{}, false)
			s := rec.Type() + " " + k.Name
			if k.Addr.IsValid() {
				s += " " + k.Addr.String()
			}
			got[s] = true
		}
		if len(gone) != c.gone || len(b.Names) != 3-c.gone || !maps.Equal(got, want) {
			t.Errorf("%s: %v removed, %v lost", c.what, gone, got)
		}
	}
}

// What is still answered for a moment is not answered when it may lead to another container.
func TestLingeringIsNoOthersAddress(t *testing.T) {
	id, err := peer.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	one, two, elsewhere := pfx("10.32.0.1/12"), pfx("10.32.0.2/12"), netip.MustParseAddr("192.0.2.1")
	c1 := &attachment{Key: "c1", running: true, Addrs: []netip.Prefix{one, two}}
	dead := c1.clone()
	dead.running = false
	for _, c := range []struct {
		what string
		now  *attachment
		of   nameKey
		not  netip.Addr // ours
		want bool
	}{
		{"it lives and has it", c1, nameKey{Addr: one.Addr()}, netip.Addr{}, true},
		{"it has died", dead, nameKey{Addr: one.Addr()}, netip.Addr{}, false},
		{"its services, and it has died", dead, nameKey{Type: typeSRV, Port: 80, Data: "x."}, netip.Addr{}, false},
		{"it was removed", nil, nameKey{Addr: one.Addr()}, netip.Addr{}, false},
		{"it was taken from it", &attachment{Key: "c1", running: true, Addrs: []netip.Prefix{two}}, nameKey{Addr: one.Addr()}, netip.Addr{}, false},
		{"another address was taken from it", &attachment{Key: "c1", running: true, Addrs: []netip.Prefix{two}}, nameKey{Addr: two.Addr()}, netip.Addr{}, true},
		{"an address that was never its own", c1, nameKey{Addr: elsewhere}, netip.Addr{}, true},
		{"the address is another host's", c1, nameKey{Addr: one.Addr()}, one.Addr(), false},
	} {
		c.of.Name, c.of.Container = "web.weft.local.", "c1"
		r := &Router{id: id, zone: newZone("weft.local", true), attached: map[string]*attachment{}, linger: map[nameKey]leaving{}, namePoke: make(chan struct{}, 1)}
		r.lingerLocked(c.of, c1)
		if c.now != nil {
			r.attached["c1"] = c.now
		}
		names := map[nameKey]bool{}
		if r.addLingeringLocked(names, func(a netip.Addr) bool { return a == c.not }); names[c.of] != c.want {
			t.Errorf("%s: it lingers: %v", c.what, names[c.of])
		}
	}
}

// A container that is unhealthy is so for as long as any of its names is answered.
func TestLingeringAndUnhealthy(t *testing.T) {
	r := newFounder(t).start()
	r.zone, r.static, r.namePoke = newZone("weft.local.", true), map[nameKey]bool{}, make(chan struct{}, 1)
	a := &attachment{Key: "c1", running: true, Unhealthy: true, Addrs: []netip.Prefix{pfx("10.32.0.1/12")}}
	web := attachedName{FQDN: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}
	a.addName(web)
	r.attached = map[string]*attachment{"c1": a}
	if err := r.change("c1", func(b *attachment) { b.removeNames("", nil); r.lingerLocked(web.key("c1"), a) }); err != nil {
		t.Fatal(err)
	}
	if got, want := r.announce().Names, map[nameKey]bool{web.key("c1"): true, mark("c1"): true}; !maps.Equal(got, want) {
		t.Errorf("its name was removed a moment ago: announced are %v", got)
	}
	r.linger = map[nameKey]leaving{}
	if got := r.announce().Names; len(got) != 0 {
		t.Errorf("all its names are gone: announced are %v", got)
	}
}
