package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
)

// filled is an allocator of one host that has given out n addresses.
func filled(b testing.TB, n int) *Allocator {
	whole := pfx("10.32.0.0/12")
	r, _ := NewRing(whole, []Grant{Seed(whole, host(1))})
	al := NewAllocator(host(1), whole, netip.Prefix{})
	al.SetRing(r)
	var as []Allocation
	a := whole.Addr()
	for i := range n {
		a = a.Next()
		as = append(as, Allocation{Container: fmt.Sprint("c", i), Addr: netip.PrefixFrom(a, 12)})
	}
	if errs := al.Restore(as); errs != nil {
		b.Fatal(errs)
	}
	return al
}

func BenchmarkAllocate(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("among%d", n), func(b *testing.B) {
			al := filled(b, n)
			b.ReportAllocs()
			for b.Loop() {
				a, _, err := al.Allocate("new", netip.Prefix{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				al.Free(start, "new", a.Addr.Addr())
				al.Expire(start.Add(2 * Hold))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkClaim(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("among%d", n), func(b *testing.B) {
			al := filled(b, n)
			want := pfx("10.47.1.1/12")
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := al.Claim("new", want); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				al.Free(start, "new", want.Addr())
				al.Expire(start.Add(2 * Hold))
				b.StartTimer()
			}
		})
	}
}

// owner1000 makes owner number n of many.
func owner1000(n int) Owner { return Owner{0: byte(n >> 8), 1: byte(n), 9: 1} }

// bigMesh is the facts of a mesh of many hosts that have each got a part from whoever had most, and accepted it.
func bigMesh(hosts int) (netip.Prefix, []Fact) {
	whole := pfx("10.0.0.0/8")
	gs := []Grant{Seed(whole, owner1000(1))}
	facts := []Fact{{By: owner1000(1), Kind: FactGrant, Grant: gs[0]}}
	blocks := []Part{{whole, owner1000(1), 1}}
	for n := 2; n <= hosts; n++ {
		i := 0
		for j, b := range blocks {
			if b.Prefix.Bits() < blocks[i].Prefix.Bits() {
				i = j
			}
		}
		low, high := halves(blocks[i].Prefix)
		g := Grant{Prefix: high, From: blocks[i].Owner, To: owner1000(n), Version: blocks[i].Version + 1}
		blocks[i].Prefix = low
		blocks = append(blocks, Part{high, g.To, g.Version})
		facts = append(facts, Fact{By: g.From, Kind: FactGrant, Grant: g}, Fact{By: g.To, Kind: FactAccept, Grant: g}, Fact{By: g.To, Kind: FactStand, Count: 1})
	}
	return whole, facts
}

// The whole fold of a ring of 1,000 hosts, as a host does it when anything of it changes.
func BenchmarkLedger1000Hosts(b *testing.B) {
	whole, facts := bigMesh(1000)
	b.ReportAllocs()
	for b.Loop() {
		NewLedger(owner1000(7), owner1000(1), whole, facts)
	}
	l := NewLedger(owner1000(7), owner1000(1), whole, facts)
	b.ReportMetric(float64(len(l.Ring().Parts())), "parts")
}

// What 100,000 addresses of one host, and the ring of 1,000, take in memory.
func BenchmarkMemory(b *testing.B) {
	whole, facts := bigMesh(1000)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		l := NewLedger(owner1000(7), owner1000(1), whole, facts)
		ring := heap()
		al := filled(b, 100000)
		after := heap()
		b.ReportMetric(float64(ring-before)/1024, "KiB/ring1000")
		b.ReportMetric(float64(after-ring)/1024, "KiB/100000addresses")
		runtime.KeepAlive(l)
		runtime.KeepAlive(al)
	}
}

// churn lets hosts of a mesh start and remove containers, ask each other for space, leave and join, and returns how many allowed IPs a
// host has, worst and on average, after each tenth of the steps.
func churn(hosts, steps int) (worst []int, mean []float64) {
	whole := pfx("10.32.0.0/16")
	rng := rand.New(rand.NewPCG(7, 7))
	als := map[Owner]*Allocator{}
	var members []Owner
	next := 0
	r, _ := NewRing(whole, []Grant{Seed(whole, owner1000(1))})
	join := func() {
		next++
		o := owner1000(next)
		members = append(members, o)
		als[o] = NewAllocator(o, whole, netip.Prefix{})
		als[o].SetRing(r)
	}
	set := func(more []Grant) {
		r, _ = newRing(whole, r.parts, more)
		for _, al := range als {
			al.SetRing(r)
		}
	}
	for range hosts {
		join()
	}
	now, name := start, 0
	for step := range steps {
		now = now.Add(Hold)
		o := members[rng.IntN(len(members))]
		al := als[o]
		al.Expire(now)
		switch x := rng.IntN(1000); {
		case x < 500:
			for range 1 + rng.IntN(40) {
				name++
				c := fmt.Sprint("c", name)
				if _, _, err := al.Allocate(c, netip.Prefix{}); err == nil {
					continue
				}
				for _, d := range r.Asked(o, whole, rng.Float64) {
					if g := Donate(r, d, o, als[d].Used, whole); len(g) > 0 {
						set(g)
						break
					}
				}
				al.Allocate(c, netip.Prefix{})
			}
		case x < 996:
			all := al.All()
			for range min(len(all), 1+rng.IntN(40)) {
				i := rng.IntN(len(all))
				al.Free(now, all[i].Container, all[i].Addr.Addr())
				all = slices.Delete(all, i, i+1)
			}
		case len(members) > 2: // a host is reset, and another comes
			i := rng.IntN(len(members))
			o = members[i]
			members = slices.Delete(members, i, i+1)
			delete(als, o)
			set(HandOver(r, o, r.Donors(o, whole)[0]))
			join()
		}
		if (step+1)%(steps/10) == 0 {
			most, sum := 0, 0
			for _, m := range members {
				n := len(r.Owned(m))
				most, sum = max(most, n), sum+n
			}
			worst, mean = append(worst, most), append(mean, float64(sum)/float64(len(members)))
		}
	}
	return worst, mean
}

// After long churn a host has few allowed IPs, and no more than before: neighbours merge again. Who is asked for space is drawn at random,
// so the worst of ten hosts goes up and down, and rises for some thirty thousand steps.
func TestFragmentationStaysBounded(t *testing.T) {
	worst, mean := churn(10, churnSteps)
	t.Logf("allowed IPs per host after each tenth: worst %v, mean %.1f", worst, mean)
	var early, late float64
	for i := range 5 {
		early, late = early+mean[i]/5, late+mean[5+i]/5
	}
	if slices.Max(worst) > 128 || late > 25 || churnSteps == 100000 && late > 1.25*early {
		t.Errorf("the worst host has %d allowed IPs; the mean of the first half is %.1f, of the second %.1f", slices.Max(worst), early, late)
	}
}

func BenchmarkFragmentation(b *testing.B) {
	for b.Loop() {
		worst, mean := churn(50, 20000)
		b.ReportMetric(float64(slices.Max(worst)), "allowedIPs/worst")
		b.ReportMetric(mean[len(mean)-1], "allowedIPs/mean")
	}
}
