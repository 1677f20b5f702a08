package mesh

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"weft/internal/simnet"
)

// falseFailures watches hosts that are all healthy for so long. It returns how often
// one was seen failed by another, and for how long at most. It looks whenever a router
// is told of a change, so that nothing is too short for it.
func (w *world) falseFailures(long time.Duration, bs ...*box) (n int, worst time.Duration) {
	var mu sync.Mutex // guards n, worst and since
	since := make(map[[2]*box]time.Time)
	look := func(a *box) {
		mu.Lock()
		defer mu.Unlock()
		for _, b := range bs {
			k := [2]*box{a, b}
			at, failed := since[k]
			switch {
			case a == b:
			case a.sees(b) != Alive && !failed:
				n++
				since[k] = time.Now()
			case a.sees(b) == Alive && failed:
				worst = max(worst, time.Since(at))
				delete(since, k)
			}
		}
	}
	w.setWatch(look)
	defer w.setWatch(nil)
	for _, a := range bs {
		look(a)
	}
	time.Sleep(long)
	mu.Lock()
	defer mu.Unlock()
	for _, at := range since {
		worst = max(worst, time.Since(at))
	}
	return n, worst
}

// some hosts that have met.
func (w *world) meet(n int) (bs []*box) {
	w.t.Helper()
	for i := range n {
		bs = append(bs, w.box(fmt.Sprintf("host%d", i+1)))
		if i == 0 {
			bs[0].found()
		} else {
			bs[i].join(bs[0])
		}
	}
	w.within(30*time.Second, "one mesh", func() bool { return oneMesh(bs...) })
	return bs
}

// Streams lose as much as datagrams do, and nobody healthy is taken for dead.
func TestLossFailsNobody(t *testing.T) {
	for _, c := range []struct {
		hosts int
		loss  float64
		long  time.Duration
		worst time.Duration // that somebody is taken for failed
	}{
		{10, 0.05, 5 * time.Minute, 0},
		{10, 0.10, 5 * time.Minute, 0},
		{10, 0.20, 10 * time.Minute, 0},
		{10, 0.40, 10 * time.Minute, 5 * time.Second},
		{50, 0.20, 4 * time.Minute, 0}, // many probes: rare failures show
		{50, 0.40, 2 * time.Minute, 5 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d hosts %.0f%%", c.hosts, 100*c.loss), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.log = slog.New(slog.DiscardHandler)
				bs := w.meet(c.hosts)
				w.net.SetDefault(simnet.Link{Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: c.loss})
				n, worst := w.falseFailures(c.long, bs...)
				t.Logf("%d false failures, undone within %v", n, worst)
				if worst > c.worst || c.worst == 0 && n > 0 {
					t.Errorf("a healthy host is taken for failed %d times, for up to %v\n%s", n, worst, w.picture())
				}
				w.net.SetDefault(simnet.Link{Delay: time.Millisecond})
				bs[0].append("web")
				w.within(10*time.Second, "one mesh", func() bool { return oneMesh(bs...) })
			})
		})
	}
}

// What a bad link or a machine that stands still does is over when that is over. A
// link between two hosts alone fails nobody: the others vouch for both.
func TestNoLastingDamage(t *testing.T) {
	for _, c := range []struct {
		name    string
		trouble func(w *world, a, b *box)
		failed  bool // somebody may be taken for failed meanwhile
	}{
		{"one-way link", func(w *world, a, b *box) { w.net.CutOneWay(a.host, b.host) }, false},
		{"cut link", func(w *world, a, b *box) { w.net.Cut(a.host, b.host) }, false},
		{"flapping link", func(w *world, a, b *box) {
			for range 30 {
				w.net.Cut(a.host, b.host)
				time.Sleep(1500 * time.Millisecond)
				w.net.Heal(a.host, b.host)
				time.Sleep(500 * time.Millisecond)
			}
		}, false},
		{"host that hears nothing", func(w *world, a, b *box) {
			for _, x := range w.boxes {
				if x != a {
					w.net.CutOneWay(x.host, a.host)
				}
			}
		}, true},
		{"host that nobody hears", func(w *world, a, b *box) {
			for _, x := range w.boxes {
				if x != a {
					w.net.CutOneWay(a.host, x.host)
				}
			}
		}, true},
		{"standing still for 3s", func(w *world, a, b *box) { a.host.Pause(3 * time.Second) }, false},
		{"standing still for 30s", func(w *world, a, b *box) { a.host.Pause(30 * time.Second) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				bs := w.meet(5)
				go c.trouble(w, bs[1], bs[2])
				n, worst := w.falseFailures(time.Minute, bs...)
				bs[1].append("web")
				bs[2].append("db")
				for _, x := range bs {
					for _, y := range bs {
						if x != y {
							w.net.Heal(x.host, y.host)
						}
					}
				}
				took := w.within(10*time.Second, "healed", func() bool { return oneMesh(bs...) })
				t.Logf("%d times taken for failed, for up to %v; healed %v after it was over", n, worst, took)
				if n > 0 && !c.failed {
					t.Errorf("a healthy host is taken for failed\n%s", w.picture())
				}
				if n, worst := w.falseFailures(time.Minute, bs...); n > 0 {
					t.Errorf("a minute later: taken for failed %d times, for up to %v\n%s", n, worst, w.picture())
				}
			})
		})
	}
}

// Gossip says that a healthy host is dead, and its tunnel has been silent for a while,
// as it is between two hosts of many: it is asked before it counts as failed.
func TestSilentHostIsAskedBeforeItFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("host3")
		a.found(func(o *Options) { o.Discovery = false }) // it does not dial those that it misses: asking is all it has
		b.join(a)
		c.join(a)
		r := newRogue(t, w, a)
		all := []*box{a, b, c, r.box}
		w.within(30*time.Second, "one mesh", func() bool { return oneMesh(all...) })
		for i := range 10 {
			w.net.CutOneWay(b.host, a.host)
			w.within(time.Minute, "a silent tunnel", func() bool {
				silent, _ := a.LastReceive(b.id.ID())
				return silent > grace+time.Second
			})
			if a.sees(b) != Alive {
				t.Fatalf("host2 is %v, although the others vouch for it", a.sees(b))
			}
			w.net.Heal(b.host, a.host)
			r.say(a, r.seal(dead(b.mesh.own.rec.Name(), r.mesh.own.rec.Name(), uint32(100+i)), nil))
			gone, answered := false, false
			for ms := range 5000 {
				time.Sleep(time.Millisecond)
				gone = gone || len(a.mesh.live(directMax)) < 3
				silent, _ := a.LastReceive(b.id.ID())
				answered = answered || silent < time.Second && ms < 100 // sooner than gossip brings host2 to contradict
				if a.sees(b) != Alive {
					t.Fatalf("host2 is %v", a.sees(b))
				}
			}
			if !gone || !answered {
				t.Fatalf("gossip has taken host2 for dead: %v; it was asked and has answered: %v", gone, answered)
			}
			w.within(30*time.Second, "one mesh", func() bool { return oneMesh(all...) })
		}
	})
}
