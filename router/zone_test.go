package router

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/docker"
	"weft/mesh"
	"weft/peer"
)

func shown(mesh.Host) bool { return false }

func stateIs(st *mesh.State) func() *mesh.State { return func() *mesh.State { return st } }

// A zone that follows logs entry by entry, in whatever portions and epochs, has what one has that
// reads the last state at once.
func TestZoneFollowsLogs(t *testing.T) {
	s := mesh.NewSecret()
	hosts := []*signer{newSigner(t, s), newSigner(t, s)}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func() nameKey {
			k := nameKey{Name: rapid.SampledFrom([]string{"a.weft.local.", "b.weft.local.", "*.c.weft.local.", "odd name."}).Draw(rt, "name"),
				Container: rapid.SampledFrom([]string{"", "c1", "c2"}).Draw(rt, "container")}
			switch rapid.IntRange(0, 4).Draw(rt, "type") {
			case 0:
				return nameKey{Container: "c1", Type: typeUnhealthy}
			case 1:
				k.Type, k.Data = typeCNAME, "b.weft.local."
			case 2:
				k.Type, k.Port, k.Data = typeSRV, 80, "b.weft.local."
			default:
				k.Addr = netip.AddrFrom4([4]byte{10, 32, 0, rapid.Byte().Draw(rt, "addr") % 4})
			}
			return k
		}
		logs := map[peer.ID][]mesh.Entry{}
		seqs := map[peer.ID]uint64{}
		epoch := uint64(1)
		z := newZone("weft.local.", true)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			h := rapid.SampledFrom(hosts).Draw(rt, "host")
			id := h.id.ID()
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0: // a restart: another epoch with a snapshot
				epoch++
				logs[id], seqs[id] = nil, 0
			case 1:
				if len(logs) > 1 {
					delete(logs, id)
				}
				continue
			}
			es := slices.Clone(logs[id])
			for range rapid.IntRange(1, 4).Draw(rt, "entries") {
				seqs[id]++
				if rapid.IntRange(0, 30).Draw(rt, "departs") == 0 {
					es = append(es, h.entryAt(t, epoch, seqs[id]+1, mesh.KindDepart, nil))
					continue
				}
				b, err := encodeName(op(rapid.IntRange(1, 2).Draw(rt, "op")), draw())
				if err != nil {
					rt.Fatal(err)
				}
				es = append(es, h.entryAt(t, epoch, seqs[id]+1, mesh.KindName, b))
			}
			logs[id] = es
			st := &mesh.State{Self: hosts[0].id.ID(), Logs: logs}
			z.sync(stateIs(st), shown)

			whole := newZone("weft.local.", true)
			whole.sync(stateIs(st), shown)
			if got, want := z.all(), whole.all(); !slices.Equal(got, want) {
				rt.Fatalf("followed\n%+v\nread at once\n%+v", got, want)
			}
			if got, want := z.table.Load().Records(), whole.table.Load().Records(); !slices.Equal(got, want) {
				rt.Fatalf("followed\n%+v\nread at once\n%+v", got, want)
			}
			for id := range logs {
				if !maps.Equal(z.hosts[id].down, whole.hosts[id].down) {
					rt.Fatalf("unhealthy on %v: %v, want %v", id, z.hosts[id].down, whole.hosts[id].down)
				}
				if !reflect.DeepEqual(ownNames(z, id), ownNames(whole, id)) {
					rt.Fatalf("own names of %v: %v, want %v", id, ownNames(z, id), ownNames(whole, id))
				}
			}
		}
	})
}

// Only what is no name makes a pass.
func TestZoneTellsWhatElseChanged(t *testing.T) {
	s := mesh.NewSecret()
	a := newSigner(t, s)
	name := func(n string) []byte {
		b, err := encodeName(opSet, nameKey{Name: n, Addr: netip.MustParseAddr("10.32.0.1")})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	z := newZone("weft.local.", true)
	st := &mesh.State{Self: a.id.ID(), Logs: map[peer.ID][]mesh.Entry{a.id.ID(): {a.entryAt(t, 1, 2, mesh.KindName, name("x.weft.local."))}}}
	if !z.sync(stateIs(st), shown) {
		t.Error("the first state is no change")
	}
	next := *st
	next.Logs = map[peer.ID][]mesh.Entry{a.id.ID(): append(slices.Clone(st.Logs[a.id.ID()]), a.entryAt(t, 1, 3, mesh.KindName, name("y.weft.local.")))}
	before := z.changed.next()
	if z.sync(stateIs(&next), shown) {
		t.Error("a name alone makes a pass")
	}
	select {
	case <-before:
	default:
		t.Error("nobody was told of the new name")
	}
	if z.table.Load().Lookup("y") == nil {
		t.Error("the new name is not answered")
	}
	last := next
	last.Logs = map[peer.ID][]mesh.Entry{a.id.ID(): append(slices.Clone(next.Logs[a.id.ID()]), a.entryAt(t, 1, 4, mesh.KindClaim, encodeClaim(opSet, pfx("172.30.0.1/24"))))}
	if !z.sync(stateIs(&last), shown) {
		t.Error("a claim makes no pass")
	}
	hidden := last
	z.look(stateIs(&hidden), func(mesh.Host) bool { return true })
	if z.table.Load().Lookup("y") != nil {
		t.Error("a hidden host's name is answered")
	}
	// Other reverse zones, and the names are still there.
	z.setRanges([]netip.Prefix{pfx("10.32.0.0/12")}, stateIs(&hidden), shown)
	if got := z.table.Load().Records(); len(got) != 3 {
		t.Errorf("records after a change of ranges: %+v", got)
	}
}

func TestRankOf(t *testing.T) {
	for _, c := range []struct {
		had  uint16
		rtt  time.Duration
		want uint16
	}{
		{0, 0, farRank}, {3, -1, farRank},
		{0, 100 * time.Microsecond, 1}, {0, 700 * time.Microsecond, 2}, {0, 1500 * time.Microsecond, 3}, {0, time.Hour, farRank - 1},
		{1, 550 * time.Microsecond, 1}, {2, 450 * time.Microsecond, 2}, // near the border it stays
		{1, 900 * time.Microsecond, 2}, {2, 300 * time.Microsecond, 1}, {farRank, time.Millisecond, 3},
	} {
		if got := rankOf(c.had, c.rtt); got != c.want {
			t.Errorf("rank %d, then %v: %d, want %d", c.had, c.rtt, got, c.want)
		}
	}
}

// A name that several hosts have is answered with the own host's address first, then by round trip; if nothing is to be nearest, in any order.
func TestZoneOrder(t *testing.T) {
	s := mesh.NewSecret()
	st := &mesh.State{Logs: map[peer.ID][]mesh.Entry{}}
	distances := []time.Duration{0, 200 * time.Microsecond, 3 * time.Millisecond, 40 * time.Millisecond, 0} // the first is this host, of the last nothing is known
	var want []netip.Addr
	for i, rtt := range distances {
		h := newSigner(t, s)
		a := netip.AddrFrom4([4]byte{10, 32, 0, byte(9 - i)})
		b, err := encodeName(opSet, nameKey{Name: "web.weft.local.", Addr: a, Container: "c"})
		if err != nil {
			t.Fatal(err)
		}
		st.Logs[h.id.ID()] = []mesh.Entry{h.entry(t, mesh.KindName, b)}
		st.Hosts = append(st.Hosts, mesh.Host{ID: h.id.ID(), Self: i == 0, Liveness: mesh.Alive, RTT: rtt})
		want = append(want, a)
	}
	byID := func(a, b mesh.Host) int { return a.ID.Compare(b.ID) }
	slices.SortFunc(st.Hosts, byID)
	z := newZone("weft.local.", true)
	z.sync(stateIs(st), shown)
	expect := func(what string) {
		t.Helper()
		for range 20 {
			if got := z.table.Load().Lookup("web"); !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
		}
	}
	expect("nearest first")
	// The third comes nearer than the second, and that is all that changes.
	next := *st
	next.Hosts = slices.Clone(st.Hosts)
	for i := range next.Hosts {
		if next.Hosts[i].RTT == 3*time.Millisecond {
			next.Hosts[i].RTT = 50 * time.Microsecond
		}
		if next.Hosts[i].RTT == 200*time.Microsecond {
			next.Hosts[i].RTT = 2 * time.Millisecond
		}
	}
	want[1], want[2] = want[2], want[1]
	z.sync(stateIs(&next), shown)
	expect("the third came nearer")

	z = newZone("weft.local.", false)
	z.sync(stateIs(st), shown)
	first := map[netip.Addr]int{}
	for range 500 {
		first[z.table.Load().Lookup("web")[0]]++
	}
	if len(first) != len(distances) {
		t.Errorf("shuffled: first were %v", first)
	}
}

// A change of what the mesh knows of a host is seen at once, and so is one that time brings, with look.
func TestZoneHidesHosts(t *testing.T) {
	s := mesh.NewSecret()
	st := &mesh.State{Logs: map[peer.ID][]mesh.Entry{}}
	for i := range 3 {
		h := newSigner(t, s)
		b, err := encodeName(opSet, nameKey{Name: "web.weft.local.", Addr: netip.AddrFrom4([4]byte{10, 32, 0, byte(i)})})
		if err != nil {
			t.Fatal(err)
		}
		st.Logs[h.id.ID()] = []mesh.Entry{h.entry(t, mesh.KindName, b)}
		st.Hosts = append(st.Hosts, mesh.Host{ID: h.id.ID(), Liveness: mesh.Alive})
	}
	slices.SortFunc(st.Hosts, func(a, b mesh.Host) int { return a.ID.Compare(b.ID) })
	z := newZone("weft.local.", true)
	silent := false
	hidden := func(h mesh.Host) bool { return h.Liveness != mesh.Alive || silent }
	expect := func(what string, want int) {
		t.Helper()
		if got := z.table.Load().Lookup("web"); len(got) != want {
			t.Errorf("%s: %v, want %d", what, got, want)
		}
	}
	z.sync(stateIs(st), hidden)
	expect("all", 3)
	change := func(f func(hosts []mesh.Host) []mesh.Host) {
		next := *st
		next.Hosts = f(slices.Clone(st.Hosts))
		st = &next
		z.sync(stateIs(st), hidden)
	}
	change(func(hs []mesh.Host) []mesh.Host { hs[1].Liveness = mesh.Failed; return hs })
	expect("one has failed", 2)
	change(func(hs []mesh.Host) []mesh.Host { hs[1].Liveness, hs[2].Liveness = mesh.Alive, mesh.Left; return hs })
	expect("it is back, and another has left", 2)
	gone := st.Hosts[0]
	change(func(hs []mesh.Host) []mesh.Host { return hs[1:] })
	expect("of another only its log is known", 1)
	change(func(hs []mesh.Host) []mesh.Host { return append([]mesh.Host{gone}, hs...) })
	expect("it is met", 2)
	silent = true
	if z.sync(stateIs(st), hidden); len(z.table.Load().Lookup("web")) != 2 {
		t.Error("a call that brings nothing new looks at hosts")
	}
	z.look(stateIs(st), hidden)
	expect("time has passed", 0)
}

// Hosts that are no more are forgotten at last, with what the others have kept.
func TestZoneForgetsHosts(t *testing.T) {
	s := mesh.NewSecret()
	h := newSigner(t, s)
	entry := func(name string) []mesh.Entry {
		b, err := encodeName(opSet, nameKey{Name: name, Addr: netip.MustParseAddr("10.32.0.1")})
		if err != nil {
			t.Fatal(err)
		}
		return []mesh.Entry{h.entry(t, mesh.KindName, b)}
	}
	web, db := entry("web.weft.local."), entry("db.weft.local.")
	z := newZone("weft.local.", true)
	for round := range byte(6) {
		st := &mesh.State{Logs: map[peer.ID][]mesh.Entry{{255}: db}}
		for i := range 1000 {
			st.Logs[peer.ID{1, round, byte(i >> 8), byte(i)}] = web
		}
		z.sync(stateIs(st), shown)
		webs, dbs := z.table.Load().At("web.weft.local."), z.table.Load().At("db.weft.local.")
		if len(webs) != 1000 || len(dbs) != 1 || len(z.ranks) != 1001 {
			t.Fatalf("round %d: %d and %d records, ranks of %d hosts", round, len(webs), len(dbs), len(z.ranks))
		}
	}
	if got := z.table.Load().Hosts(); got > 1001+maxForgotten {
		t.Errorf("the table knows %d hosts", got)
	}
}

// served are the records of what a container offers.
func served(c docker.Container) (out []attachedName) {
	services(offers(c, "weft.local"), "web.weft.local.", "weft.local", "c.web.weft.local.", func(n attachedName) { out = append(out, n) })
	slices.SortFunc(out, func(a, b attachedName) int { return a.key("").compare(b.key("")) })
	return out
}

func TestServices(t *testing.T) {
	c := docker.Container{Exposed: []docker.Port{{Number: 53, Proto: "udp"}, {Number: 80, Proto: "tcp"}, {Number: 443, Proto: "tcp"}}}
	for _, x := range []struct {
		labels map[string]string
		want   string // beside the SRV records of the exposed ports
	}{
		{nil, ""},
		{map[string]string{"weft.service": "http"}, "_http._tcp.web 80 _http._tcp 80"},
		{map[string]string{"weft.service": "HTTP, domain/udp ,x=99", "weft.port": "8080"},
			"_domain._udp.web 8080 _domain._udp 8080 _http._tcp.web 8080 _http._tcp 8080 _x._tcp.web 99 _x._tcp 99"},
		{map[string]string{"weft.service": "domain/udp"}, "_domain._udp.web 53 _domain._udp 53"},
		{map[string]string{"weft.service": "sip/sctp"}, ""}, // no such port
		{map[string]string{"weft.service": "a b,http=0,http=99999,/tcp,=80"}, ""},
		{map[string]string{"weft.port": "8080", "other": "x"}, ""},
		{map[string]string{"weft.txt": "hello", "weft.txt.version": "1", "weft.txtual": "no"}, "TXT hello TXT version=1"},
	} {
		c.Labels = x.labels
		got := ""
		for _, n := range served(c) {
			switch {
			case n.Type == typeTXT:
				got += " TXT " + n.Data
			case n.FQDN != "web.weft.local.":
				got += fmt.Sprintf(" %s %d", shortName(n.FQDN, "weft.local"), n.Port)
			}
		}
		if got != "" {
			got = got[1:]
		}
		if got != x.want {
			t.Errorf("%v:\n got %s\nwant %s", x.labels, got, x.want)
		}
	}
	c.Labels = nil
	if got := served(c); len(got) != 3 || got[0].Port != 53 || got[0].Data != "c.web.weft.local." {
		t.Errorf("exposed ports: %+v", got)
	}
}

// BenchmarkZone is one name of one host among all, announced and followed. Besides it tells what a router keeps
// for them: the hosts' log entries, and the zone with its table.
func BenchmarkZone(b *testing.B) {
	for _, c := range []struct{ hosts, names int }{{25, 40}, {25, 4000}, {1000, 1}, {1000, 100}} {
		b.Run(fmt.Sprintf("hosts=%d/names=%d", c.hosts, c.hosts*c.names), func(b *testing.B) { benchmarkZone(b, c.hosts, c.names) })
	}
}

func benchmarkZone(b *testing.B, hosts, names int) {
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	empty := heap()
	s := mesh.NewSecret()
	st := &mesh.State{Logs: map[peer.ID][]mesh.Entry{}}
	payload := func(o op, host, i int) []byte {
		p, err := encodeName(o, nameKey{Name: fmt.Sprintf("n%d-%d.weft.local.", host, i), Addr: netip.AddrFrom4([4]byte{10, 32 + byte(host%8), byte(i >> 8), byte(i)}), Container: "c"})
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	var signers []*signer
	for host := range hosts {
		h := newSigner(b, s)
		signers = append(signers, h)
		id := h.id.ID()
		st.Hosts = append(st.Hosts, mesh.Host{ID: id, Liveness: mesh.Alive})
		for i := range names {
			st.Logs[id] = append(st.Logs[id], h.entry(b, mesh.KindName, payload(opSet, host, i)))
		}
	}
	slices.SortFunc(st.Hosts, func(a, b mesh.Host) int { return a.ID.Compare(b.ID) })
	logs := heap()
	z := newZone("weft.local.", true)
	z.sync(stateIs(st), shown)
	zone := heap()
	h := signers[0]
	id := h.id.ID()
	var more []mesh.Entry
	for i := range 1000 {
		more = append(more, h.entry(b, mesh.KindName, payload(op(1+i%2), 0, 5000)))
	}
	log := append(slices.Clone(st.Logs[id]), more...)
	next := *st
	next.Logs = maps.Clone(st.Logs)
	n := 0
	for b.Loop() {
		next := next
		next.Logs[id] = log[:names+1+n%len(more)]
		z.sync(stateIs(&next), shown)
		n++
	}
	b.ReportMetric(logs-empty, "logs-MiB")
	b.ReportMetric(zone-logs, "zone-MiB")
}

// ownNames are what a host's log announces.
func ownNames(z *zone, id peer.ID) map[nameKey]bool {
	names, _ := z.differs(id, nil)
	all := map[nameKey]bool{}
	for _, k := range names {
		all[k] = true
	}
	return all
}
