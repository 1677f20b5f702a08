package mesh

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

const longNames = 500

// longLog founds a mesh of one host whose log has 430 KB, and whose uplink carries so
// many bytes a second.
func (w *world) longLog(rate int) *box {
	w.t.Helper()
	w.log = slog.New(slog.DiscardHandler)
	a := w.box("host1")
	a.found()
	time.Sleep(time.Second)
	for i := range longNames {
		a.append(fmt.Sprintf("%d %0800d", i, i))
	}
	time.Sleep(5 * time.Second)
	a.host.SetUplink(rate)
	return a
}

// newcomers are launched at the same moment, with a as target. whole is how long a's
// log takes to all of them if nothing of it is sent twice.
func (w *world) newcomers(a *box, n, rate int) (bs []*box, whole time.Duration) {
	w.t.Helper()
	for i := range n {
		b := w.box(fmt.Sprint("new", i))
		b.join(a)
		bs = append(bs, b)
	}
	a.mesh.mu.Lock()
	size := a.mesh.logs.held
	a.mesh.mu.Unlock()
	return bs, time.Duration(n*size) * time.Second / time.Duration(rate)
}

func haveAll(a *box, bs []*box) bool {
	for _, b := range bs {
		if len(b.names(a)) < longNames || b.sees(a) != Alive || a.sees(b) != Alive {
			return false
		}
	}
	return true
}

// However many join over an uplink at the same moment, and whether or not their tunnels
// are there already, what is to be sent is sent about once.
func TestJoinsShareAnUplink(t *testing.T) {
	for name, c := range map[string]struct {
		newcomers, rate int
		tunnels         bool
	}{
		"a crowd":                    {20, 1 << 20, false},
		"a slow uplink":              {8, 128 << 10, false},
		"a slow uplink with tunnels": {8, 128 << 10, true},
		"a slower one":               {12, 64 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.joinsOnly = !c.tunnels
				a := w.longLog(c.rate)
				bs, whole := w.newcomers(a, c.newcomers, c.rate)
				before := a.host.Sent().StreamBytes
				took := w.within(2*whole+10*time.Second, "all in", func() bool { return haveAll(a, bs) })
				sent := time.Duration(a.host.Sent().StreamBytes-before) * time.Second / time.Duration(c.rate)
				t.Logf("all in after %v, at best %v", took, whole)
				if sent > whole*3/2 {
					t.Errorf("what takes %v was sent in %v", whole, sent)
				}
				for _, x := range w.boxes { // nobody is blamed for what they share
					for _, o := range x.mesh.Rejections() {
						t.Errorf("%s: %+v", x.name, o)
					}
				}
			})
		})
	}
}

// A link that carries a log in the time of an exchange takes one, and on a slower one
// each exchange that is cut off has brought what came.
func TestJoinOverASlowLink(t *testing.T) {
	for name, c := range map[string]struct {
		rate int
		slow bool // an exchange is cut off
	}{"as slow as it may be": {slowest * 5 / 4, false}, "slower": {slowest / 2, true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a := w.longLog(c.rate)
				bs, whole := w.newcomers(a, 1, c.rate)
				took := w.within(whole*3/2+20*time.Second, "in", func() bool { return haveAll(a, bs) })
				t.Logf("in after %v, at best %v", took, whole)
				if cut := bs[0].mesh.Counters()["repairs"] > 1; cut != c.slow {
					t.Errorf("took several exchanges: %v", cut)
				}
			})
		})
	}
}

// A host that went in the middle of an exchange, or whose way was cut, gets on soon after it
// is back, though the other side has not noticed anything.
func TestJoinBreaksOff(t *testing.T) {
	for name, breaks := range map[string]func(*world, *box, *box){
		"a crash": func(w *world, a, b *box) {
			b.crash()
			time.Sleep(time.Second)
			b.host.Up()
			b.join(a)
		},
		"a cut": func(w *world, a, b *box) {
			w.net.Cut(a.host, b.host)
			time.Sleep(30 * time.Second)
			w.net.Heal(a.host, b.host)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				const rate = 16 << 10
				a := w.longLog(rate)
				bs, whole := w.newcomers(a, 1, rate)
				time.Sleep(whole / 2)
				breaks(w, a, bs[0])
				took := w.within(whole/2+15*time.Second, "in", func() bool { return haveAll(a, bs) })
				t.Logf("in after another %v, at best %v", took, whole/2)
			})
		})
	}
}
