package ipam

import (
	"slices"
	"testing"
)

// beginning is three hosts whose founder was launched with consensus=3, as far as they have come: what each has written.
type beginning struct {
	logs    [3][]Fact
	ballots int // that they may begin yet
}

// schedules looks at every beginning that hosts can come to, whatever of the others' logs has reached whom: a part that has not come is a
// message that is late or lost, or of one that has crashed; who never acts again has crashed itself.
type schedules struct {
	t     *testing.T
	hosts []Owner
	ids   map[string]byte // of entries
	known map[string]bool
	todo  []beginning
	rings map[string]string    // of views; none where it has not begun
	acts  map[string]beginning // of a host with a view: what it writes then, in its own log alone, and whether that takes a ballot
}

// log is a short name of what a host has written.
func (s *schedules) log(by int, fs []Fact) string {
	b := []byte{255, byte(by)}
	for _, f := range fs {
		raw, err := f.AppendBinary(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		e := string(append([]byte{byte(by)}, raw...))
		if _, ok := s.ids[e]; !ok {
			s.ids[e] = byte(len(s.ids))
		}
		b = append(b, s.ids[e])
	}
	if len(s.ids) > 250 {
		s.t.Fatal("too many entries for their names")
	}
	return string(b)
}

func (s *schedules) add(b beginning) {
	k := string(byte(b.ballots))
	for i, fs := range b.logs {
		k += s.log(i, fs)
	}
	if !s.known[k] {
		s.known[k] = true
		s.todo = append(s.todo, b)
	}
}

func (s *schedules) ledger(i int, facts ...[]Fact) *Ledger {
	return NewLedger(s.hosts[i], s.hosts[0], pfx("10.0.0.0/24"), slices.Concat(facts...))
}

// act is what host i writes when it knows that much of the others, whom of them it has in reach, and whether it may begin a ballot.
func (s *schedules) act(i int, view string, mine, rest []Fact, alive func(Owner) bool, start, wanted bool, key string) beginning {
	if got, ok := s.acts[key+view]; ok {
		return got
	}
	var got beginning
	e := Env{Hosts: s.hosts, Dead: nobody, Gone: nobody, Start: start, Wanted: wanted, Alive: alive}
	for range 4 { // as it does until it has nothing more to say
		fs := s.ledger(i, mine, got.logs[i], rest).Next(e)
		if len(fs) == 0 {
			break
		}
		if e.Start {
			got.ballots, e.Start = 1, false
		}
		got.logs[i] = append(got.logs[i], fs...)
	}
	s.acts[key+view] = got
	return got
}

// look takes every step from b, and compares what its hosts see.
func (s *schedules) look(b beginning) (ring string) {
	if l := s.ledger(0, b.logs[:]...); l.Ring().Seeded() {
		ring = show(l.Ring())
	}
	for i := range s.hosts {
		x, y := (i+1)%3, (i+2)%3
		for nx := range len(b.logs[x]) + 1 {
			for ny := range len(b.logs[y]) + 1 {
				rest := slices.Concat(b.logs[x][:nx], b.logs[y][:ny])
				view := string(byte(i)) + s.log(i, b.logs[i]) + s.log(x, b.logs[x][:nx]) + s.log(y, b.logs[y][:ny])
				seen, ok := s.rings[view]
				if !ok {
					if l := s.ledger(i, b.logs[i], rest); l.Ring().Seeded() {
						seen = show(l.Ring())
					}
					s.rings[view] = seen
				}
				if seen != "" && seen != ring {
					s.t.Fatalf("%s sees\n%s, who knows all\n%s", letter(s.hosts[i]), seen, ring)
				}
				for how := range 12 {
					alive, start, wanted := how&3, how>>2 > 0, how>>2 == 2
					if start && b.ballots == 0 || !start && alive > 0 { // who is in reach counts for ballots only
						continue
					}
					reach := func(o Owner) bool {
						return o == s.hosts[i] || o == s.hosts[x] && alive&1 != 0 || o == s.hosts[y] && alive&2 != 0
					}
					got := s.act(i, view, b.logs[i], rest, reach, start, wanted, string(byte(how)))
					if len(got.logs[i]) == 0 {
						continue
					}
					next := b
					next.ballots -= got.ballots
					next.logs[i] = append(slices.Clip(next.logs[i]), got.logs[i]...)
					s.add(next)
				}
			}
		}
	}
	return ring
}

// Three hosts begin one ring or none, whatever is lost, late or out of order and whoever crashes: every schedule of what their ledgers say,
// with three ballots at most.
func TestBeginsExhaustively(t *testing.T) {
	s := &schedules{
		t: t, hosts: []Owner{host(1), host(2), host(3)}, ids: map[string]byte{}, known: map[string]bool{},
		rings: map[string]string{}, acts: map[string]beginning{},
	}
	first := beginning{ballots: 3}
	for i, h := range s.hosts {
		first.logs[i] = []Fact{{By: h, Kind: FactStand, Count: 1}}
	}
	first.logs[0] = append(first.logs[0], Fact{By: s.hosts[0], Kind: FactInit, First: 3})
	s.add(first)
	rings := map[string]bool{}
	for len(s.todo) > 0 {
		b := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		rings[s.look(b)] = true
	}
	t.Logf("%d states, %d rings, none included", len(s.known), len(rings))
	if len(s.known) < 1000 || len(rings) < 2 || !rings[""] {
		t.Errorf("that is not all: %d states, rings %v", len(s.known), rings)
	}
}
