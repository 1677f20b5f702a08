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
	z.sync(stateIs(&hidden), func(mesh.Host) bool { return true })
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
		for _, n := range services(c, "web.weft.local.", "weft.local", "c.web.weft.local.") {
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
	if got := services(c, "web.weft.local.", "weft.local", "c.web.weft.local."); len(got) != 3 || got[0].Port != 53 || got[0].Data != "c.web.weft.local." {
		t.Errorf("exposed ports: %+v", got)
	}
}

// BenchmarkZone is one name of one host among 100,000 of 25 hosts, announced and followed. Besides it tells what a
// router keeps for the 100,000: the hosts' log entries, and the zone with its table.
func BenchmarkZone(b *testing.B) {
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
	for host := range 25 {
		h := newSigner(b, s)
		signers = append(signers, h)
		id := h.id.ID()
		st.Hosts = append(st.Hosts, mesh.Host{ID: id, Liveness: mesh.Alive})
		for i := range 4000 {
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
	n := 0
	for b.Loop() {
		next := *st
		next.Logs = maps.Clone(st.Logs)
		next.Logs[id] = append(st.Logs[id][:len(st.Logs[id]):len(st.Logs[id])], more[:n%1000+1]...)
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

// What a container offers at its name goes with the name.
func TestServicesGoWithTheirName(t *testing.T) {
	web, alias := attachedName{FQDN: "web.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}, attachedName{FQDN: "www.weft.local.", Addr: netip.MustParseAddr("10.32.0.1")}
	a := &attachment{Key: "c", running: true, Names: []attachedName{web, alias}}
	a.follow(docker.Container{Exposed: []docker.Port{{Number: 80, Proto: "tcp"}}, Labels: map[string]string{"weft.txt": "x"}}, "weft.local")
	r := &Router{zone: newZone("weft.local.", true), attached: map[string]*attachment{"c": a}}
	r.mesh = newFounder(t).start().mesh
	for _, x := range []struct {
		what  string
		names []attachedName
		want  int
	}{
		{"all are there", []attachedName{web, alias}, 5},
		{"the main name was removed", []attachedName{alias}, 1},
		{"and added again", []attachedName{alias, web}, 5},
	} {
		if a.Names = x.names; len(r.announce().Names) != x.want {
			t.Errorf("%s: %v", x.what, r.announce().Names)
		}
	}
}
