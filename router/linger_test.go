package router

import (
	"net/netip"
	"testing"
	"time"

	"weft/dns"
	"weft/peer"
)

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
	for _, c := range []struct {
		what      string
		here      []nameKey
		elsewhere []nameKey
		until     time.Duration
		stays     bool
	}{
		{"nothing", nil, nil, time.Hour, true},
		{"its own services only", []nameKey{srv}, nil, time.Hour, true},
		{"services elsewhere only", nil, []nameKey{srv}, time.Hour, true},
		{"another address", []nameKey{srv, other}, nil, time.Hour, false},
		{"another address elsewhere", nil, []nameKey{other}, time.Hour, false},
		{"an alias", []nameKey{alias}, nil, time.Hour, false},
		{"an alias elsewhere", nil, []nameKey{alias}, time.Hour, false},
		{"its time is over", nil, nil, -time.Second, false},
	} {
		r := &Router{id: id, zone: newZone("weft.local", true), linger: map[nameKey]time.Time{old: time.Now().Add(c.until)}}
		rs := []dns.Record{record(old, id.ID(), false)}
		for _, k := range c.elsewhere {
			rs = append(rs, record(k, peer.ID{9}, false))
		}
		r.zone.table.Store(dns.NewTable("weft.local", nil, rs))
		names := map[nameKey]bool{}
		for _, k := range c.here {
			names[k] = true
		}
		r.addLingeringLocked(names)
		if names[old] != c.stays {
			t.Errorf("%s takes its place: it stays: %v", c.what, names[old])
		}
	}
}
