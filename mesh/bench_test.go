package mesh

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/simnet"
)

// benchLink is what lies between any two hosts.
var benchLink = simnet.Link{Delay: time.Millisecond, Jitter: 2 * time.Millisecond}

// TestBench is `make bench`: it measures meshes of several sizes in virtual time and
// prints a table. Nothing is judged. BENCH_HOSTS="3 50" picks other sizes; beyond 200
// hosts it only lets them converge and be idle. The tests run it with 3, so that it
// goes on working.
func TestBench(t *testing.T) {
	sizes := os.Getenv("BENCH_HOSTS")
	if sizes == "" {
		sizes = "3"
	}
	noRace(t)
	fmt.Printf("each link: %v and up to %v more, a way; what is lost hits streams as it hits TCP\n", benchLink.Delay, benchLink.Jitter)
	for _, f := range strings.Fields(sizes) {
		n, err := strconv.Atoi(f)
		if err != nil || n < 2 {
			t.Fatalf("%q is not a number of hosts", f)
		}
		start := time.Now()
		synctest.Test(t, func(t *testing.T) { newBench(t, n).run() })
		fmt.Printf("  (took %.0f s here)\n", time.Since(start).Seconds())
	}
}

type bench struct {
	*world
	bs []*box
}

func newBench(t *testing.T, n int) *bench {
	b := &bench{world: newWorld(t)}
	b.log = slog.New(slog.DiscardHandler)
	b.net.SetDefault(benchLink)
	for range n {
		b.bs = append(b.bs, b.box(fmt.Sprintf("host%d", len(b.boxes)+1)))
	}
	return b
}

func (b *bench) row(what, format string, args ...any) {
	fmt.Printf("  %-34s %s\n", what, fmt.Sprintf(format, args...))
}

func (b *bench) run() {
	defer b.world.end()
	n := len(b.bs)
	fmt.Printf("%d hosts\n", n)
	before := heap()
	start := time.Now()
	for i, x := range b.bs {
		if i == 0 {
			x.found()
		} else {
			x.join(b.bs[rand.IntN(i)]) // all at once
		}
	}
	b.until(10*time.Minute, 100*time.Millisecond, "one mesh", func() bool { return b.agree() })
	b.row("launched at once, one mesh", "after %v", short(time.Since(start)))
	// memberlist tells of each newcomer some 16 times per host, in at most 16 KB/s: with
	// 1,000 newcomers at once that takes it 6 to 7 minutes.
	time.Sleep(max(2*time.Minute, time.Duration(n)*600*time.Millisecond))
	b.row("memory", "%.2f MB per host", float64(heap()-before)/1e6/float64(n))
	b.row("idle", "%v", b.traffic(time.Minute, nil))
	if n > 200 {
		return
	}
	b.row("10 writes/s in all", "%v", b.traffic(30*time.Second, func() {
		for range 300 {
			b.pick().append("x")
			time.Sleep(100 * time.Millisecond)
		}
	}))
	b.writes("a write", benchLink, 200)
	lossy := benchLink
	lossy.Loss = 0.05
	b.writes("a write, 5 % lost", lossy, 200)
	b.joins(10)
	b.crashes(10)
	b.partition()
}

// heap is what lives on it.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (b *bench) pick() *box { return b.bs[rand.IntN(len(b.bs))] }

// until looks every step until ok, and tells how long that took.
func (b *bench) until(limit, step time.Duration, what string, ok func() bool) time.Duration {
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			b.t.Fatalf("after %v: not yet %s", limit, what)
		}
		time.Sleep(step)
	}
	return time.Since(start)
}

// agree tells that all see all alive and hold the same.
func (b *bench) agree() bool {
	for _, x := range b.bs {
		alive := 0
		for _, h := range x.mesh.State().Hosts {
			if h.Liveness == Alive {
				alive++
			}
		}
		if alive < len(b.bs) {
			return false
		}
	}
	root := b.bs[0].root()
	return !slices.ContainsFunc(b.bs, func(x *box) bool { return x.root() != root })
}

// rate is the traffic of one host, on average.
type rate struct{ bits, packets, datagrams float64 }

func (r rate) String() string {
	return fmt.Sprintf("%.1f kbit/s of payload and %.1f packets/s per host (%.0f %% of them datagrams)",
		r.bits/1e3, r.packets, 100*r.datagrams/r.packets)
}

func (b *bench) traffic(d time.Duration, meanwhile func()) rate {
	sum := func() (t simnet.Traffic) {
		for _, x := range b.bs {
			s := x.host.Sent()
			t.Datagrams, t.DatagramBytes = t.Datagrams+s.Datagrams, t.DatagramBytes+s.DatagramBytes
			t.Segments, t.StreamBytes = t.Segments+s.Segments, t.StreamBytes+s.StreamBytes
		}
		return t
	}
	before, end := sum(), time.Now().Add(d)
	if meanwhile != nil {
		meanwhile()
	}
	time.Sleep(time.Until(end))
	t := sum().Sub(before)
	per := float64(len(b.bs)) * d.Seconds()
	return rate{8 * float64(t.Bytes()) / per, float64(t.Packets()) / per, float64(t.Datagrams) / per}
}

// writes measures when a name is at each other host, and when at all of them.
func (b *bench) writes(what string, l simnet.Link, n int) {
	b.net.SetDefault(l)
	defer b.net.SetDefault(benchLink)
	var each, all []time.Duration
	for range n {
		at := b.pick()
		es, err := at.mesh.Append(Draft{KindName, []byte("y")})
		if err != nil {
			b.t.Fatal(err)
		}
		start, e := time.Now(), es[0]
		waiting := slices.Clone(b.bs)
		for step := time.Millisecond; ; step = min(step*21/20+1, 20*time.Millisecond) {
			waiting = slices.DeleteFunc(waiting, func(x *box) bool {
				if !x.has(e) {
					return false
				}
				if x != at {
					each = append(each, time.Since(start))
				}
				return true
			})
			if len(waiting) == 0 {
				break
			}
			if time.Since(start) > 5*time.Minute {
				b.t.Fatalf("a write is not everywhere after 5 minutes")
			}
			time.Sleep(step)
		}
		all = append(all, time.Since(start))
		time.Sleep(rand.N(time.Second))
	}
	b.row(what+", at another host", "%v", quantiles(each))
	b.row(what+", everywhere", "%v", quantiles(all))
}

// has tells that a host holds an entry, or the author's log beyond it. It makes no
// State: here all hosts are asked all the time.
func (b *box) has(e Entry) bool {
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	log := b.mesh.logs.log(e.Author)
	return len(log) > 0 && (log[0].Epoch > e.Epoch || log[0].Epoch == e.Epoch && uint64(len(log)) >= e.Seq)
}

// joins measures new hosts: when all see them alive, and hold the same.
func (b *bench) joins(n int) {
	var took []time.Duration
	for range n {
		x := b.box(fmt.Sprintf("host%d", len(b.boxes)+1))
		x.join(b.pick())
		took = append(took, b.until(5*time.Minute, 5*time.Millisecond, "joined", func() bool {
			return !slices.ContainsFunc(b.bs, func(y *box) bool { return y.sees(x) != Alive || x.sees(y) != Alive })
		}))
		x.stop()
		time.Sleep(5 * time.Second)
	}
	b.row("a join, known everywhere", "%v", quantiles(took))
}

// crashes measures power cuts: when all see the host failed.
func (b *bench) crashes(n int) {
	var took []time.Duration
	for range n {
		x := b.bs[1+rand.IntN(len(b.bs)-1)]
		x.crash()
		took = append(took, b.until(5*time.Minute, 20*time.Millisecond, "failed", func() bool {
			return !slices.ContainsFunc(b.bs, func(y *box) bool { return y != x && y.sees(x) != Failed })
		}))
		x.host.Up()
		x.launch()
		b.until(5*time.Minute, 100*time.Millisecond, "one mesh again", b.agree)
		time.Sleep(10 * time.Second)
	}
	b.row("a crash, known everywhere", "%v", quantiles(took))
}

// partition measures how long two halves need that were apart for 60 s.
func (b *bench) partition() {
	left, right := b.bs[:len(b.bs)/2], b.bs[len(b.bs)/2:]
	b.cut(left, right)
	time.Sleep(time.Minute)
	left[0].append("left")
	right[0].append("right")
	b.heal(left, right)
	took := b.until(15*time.Minute, 20*time.Millisecond, "one mesh again", b.agree)
	b.row("a partition of 60 s, healed", "%v after the cut ended", short(took))
}

// quantiles prints the distribution of what was measured.
func quantiles(ds []time.Duration) string {
	slices.SortFunc(ds, cmp.Compare[time.Duration])
	return fmt.Sprintf("p50 %-8v p99 %-8v worst %v", short(ds[len(ds)/2]), short(ds[len(ds)*99/100]), short(ds[len(ds)-1]))
}

func short(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
