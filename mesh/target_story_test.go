package mesh

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// movingName is a Network with one name that may lead elsewhere later, and counts how often it is asked.
type movingName struct {
	Network
	mu    sync.Mutex
	at    netip.Addr
	asked int
}

func (n *movingName) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if host != "weft.example" {
		return n.Network.Resolve(ctx, host)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	return []netip.Addr{n.at}, nil
}

// A target's name is asked anew at every try, without any word of the operator's; also after it was met.
func TestNameIsAskedAtEveryTry(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.box("host1"), w.box("host2"), w.box("nobody")
		c.host.Crash()
		dns := &movingName{Network: b.host, at: c.addr}
		a.found()
		b.launch(func(o *Options) { o.Network, o.Targets = dns, []string{"weft.example"} })
		time.Sleep(20 * time.Second)
		dns.mu.Lock()
		dns.at = a.addr
		dns.mu.Unlock()
		took := w.within(backoffMax+5*time.Second, "one mesh", func() bool { return oneMesh(a, b) })
		t.Logf("after %v", took)
	})
}

// One host that is lost, drawn at random, is dialled through its tunnel every second.
func TestOneLostHostASecondInTheTunnel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.box("host1"), w.box("host2")
		dials := countDials(a.host)
		a.found(func(o *Options) { o.Network = dials })
		b.join(a)
		w.within(10*time.Second, "two hosts", func() bool { return oneMesh(a, b) })
		b.crash()
		w.within(time.Minute, "the loss known", func() bool { return a.sees(b) != Alive })
		before := dials.of(b.control())
		time.Sleep(time.Minute)
		if n := dials.of(b.control()) - before; n < 10 || n > 65 { // one of them may take insideTry
			t.Errorf("dialled %d times in a minute", n)
		}
	})
}
