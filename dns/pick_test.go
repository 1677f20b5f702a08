package dns

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	miekg "github.com/miekg/dns"
	"pgregory.net/rapid"
)

// What is picked is right whatever the entries are, and however few of them have room.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := &Table{hosts: &hosts{}}
		for range rapid.IntRange(1, 4).Draw(t, "hosts") {
			table.hosts.list = append(table.hosts.list, hostState{HostState: HostState{
				Rank: rapid.Uint16Range(0, 2).Draw(t, "rank"), Hidden: rapid.IntRange(0, 3).Draw(t, "hidden") == 0}})
		}
		var es []entry
		for range rapid.IntRange(2, 60).Draw(t, "entries") {
			es = append(es, entry{data: rapid.StringMatching("[a-z]").Draw(t, "data"),
				host: uint16(rapid.IntRange(0, len(table.hosts.list)-1).Draw(t, "host")), down: rapid.IntRange(0, 3).Draw(t, "down") == 0})
		}
		slices.SortFunc(es, entry.compare)
		most := rapid.IntRange(1, 20).Draw(t, "most")

		up := slices.ContainsFunc(es, func(e entry) bool { return !e.down && !table.hosts.list[e.host].Hidden })
		rank := map[string]int{} // of all that could be answered
		for _, e := range es {
			h := table.hosts.list[e.host]
			if was, is := rank[e.data]; !h.Hidden && !(up && e.down) && (!is || int(h.Rank) < was) {
				rank[e.data] = int(h.Rank)
			}
		}
		want := slices.Sorted(maps.Values(rank))
		want = want[:min(most, len(want))]
		for range 200 {
			var got []int
			left := maps.Clone(rank)
			for _, p := range table.pick(nil, es, most) {
				r, is := left[es[p.at].data]
				if !is {
					t.Fatalf("%+v is picked, again or of what is to be left out", es[p.at])
				}
				delete(left, es[p.at].data)
				got = append(got, r)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("picked are entries of ranks %v, want %v", got, want)
			}
		}
	})
}

// Of those of one rank each has the same chance of each place in an answer, whether or not all have room.
func TestPickIsFair(t *testing.T) {
	const n, rounds = 40, 20000
	table := &Table{hosts: &hosts{list: []hostState{{}, {HostState: HostState{Rank: 1}}}}}
	var es []entry
	for i := range n {
		es = append(es, entry{data: string(rune('A' + i)), host: uint16(i % 2)})
	}
	for _, most := range []int{n, n/2 + 5, n/2 - 5} {
		var at [n][n]int // how often each entry was at each place
		for range rounds {
			for place, p := range table.pick(nil, es, most) {
				at[p.at][place]++
			}
		}
		const share = rounds / (n / 2)
		for i := range n {
			for place := range most {
				want, far := 0.0, 0.0
				if i%2 == place/(n/2) { // the near ones have the first half of all places
					want, far = share, 7*math.Sqrt(share) // once in 10^11 by chance
				}
				if got := float64(at[i][place]); math.Abs(got-want) > far {
					t.Errorf("%d of %d: entry %d was at place %d %v times, of %d, want about %v", most, n, i, place, got, rounds, want)
				}
			}
		}
	}
}

// A reply in which nothing has room any more is cut, and not one that says that there is nothing.
func TestNoRoom(t *testing.T) {
	table := testTable()
	f := table.find([]byte("\x04many\x04weft\x05local\x00"))
	for limit := range 3 {
		w := writer{limit: limit}
		if !w.all(table, &query{qtype: miekg.TypeA}, f.node, toQuestion) || !w.cut {
			t.Errorf("room for %d bytes: cut %v, %d answers", limit, w.cut, w.an)
		}
	}
}

// An answer that lacks records for want of room says so, however short they are.
func TestManyShortRecordsAreCut(t *testing.T) {
	for _, n := range []int{80, 85, 90, 95} { // of 14 bytes each in 1,187
		e := NewTable("weft.local", nil, nil).Edit()
		for i := range n {
			if err := e.Add(Record{Name: "short.weft.local", Text: string(rune('!' + i)), Host: "h"}); err != nil {
				t.Fatal(err)
			}
		}
		q := new(query)
		packet, err := question("short.weft.local.", miekg.TypeTXT).SetEdns0(1232, false).Pack()
		if err != nil || !q.parse(packet) {
			t.Fatal(err)
		}
		reply, _, _ := e.Done().answer(make([]byte, 0, maxUDP), q, 1)
		m := new(miekg.Msg)
		if err := m.Unpack(reply); err != nil || m.Truncated != (len(m.Answer) < n) || len(m.Answer) < min(n, 80) {
			t.Errorf("%d of %d records, cut: %v; %v", len(m.Answer), n, m.Truncated, err)
		}
	}
}

// tableOfService has n containers of 25 hosts, which all offer one service.
func tableOfService(t testing.TB, n int) *Table {
	e := NewTable("weft.local", nil, nil).Edit()
	for i := range n {
		name := fmt.Sprintf("c%d.weft.local", i*7919%n)
		addr := netip.AddrFrom4([4]byte{10, 32, byte(i >> 8), byte(i)})
		for _, r := range []Record{
			{Name: name, Addr: addr, Host: strconv.Itoa(i % 25)},
			{Name: "all.weft.local", Addr: addr, Host: strconv.Itoa(i % 25)},
			{Name: "_http._tcp.weft.local", Port: 80, Target: name, Owner: name, Host: strconv.Itoa(i % 25)},
		} {
			if err := e.Add(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	for host := range 25 {
		e.SetHost(strconv.Itoa(host), HostState{Rank: uint16(host)})
	}
	return e.Done()
}

// However many offer a service, the answer has addresses of the first of them only: the rest can be asked for.
func TestAddressesOfManyTargets(t *testing.T) {
	s, addr := start(t, Options{})
	for n, most := range map[int]int{20: 20, 300: maxTargets} {
		s.SetTable(tableOfService(t, n))
		m := ask(t, "tcp", addr, question("_http._tcp.weft.local.", miekg.TypeSRV))
		if m.Truncated || len(m.Answer) != n || len(m.Extra) != most {
			t.Fatalf("of %d: truncated %v, %d answers, %d addresses", n, m.Truncated, len(m.Answer), len(m.Extra))
		}
		for i, rr := range m.Extra {
			if target := m.Answer[i].(*miekg.SRV).Target; rr.Header().Name != target {
				t.Errorf("of %d: address %d is %s's, want %s's", n, i, rr.Header().Name, target)
			}
		}
	}
}

// BenchmarkService is a question for a service that all containers of a mesh offer: one name with a record of each. It is what a
// question over UDP, and one over TCP, takes.
func BenchmarkService(b *testing.B) {
	for _, n := range []int{20, 1000, 32000} {
		table := tableOfService(b, n)
		for _, c := range []struct {
			name  string
			qtype uint16
		}{{"all.weft.local.", miekg.TypeA}, {"_http._tcp.weft.local.", miekg.TypeSRV}} {
			b.Run(fmt.Sprintf("%s/%d", miekg.TypeToString[c.qtype], n), func(b *testing.B) {
				packet, err := question(c.name, c.qtype).SetEdns0(1232, false).Pack()
				if err != nil {
					b.Fatal(err)
				}
				q, buf := new(query), make([]byte, 0, maxUDP)
				for b.Loop() {
					if !q.parse(packet) {
						b.Fatal("not parsed")
					}
					if reply, _, ok := table.answer(buf, q, 1); !ok || reply[7] == 0 {
						b.Fatal("not answered")
					}
				}
			})
		}
	}
}
