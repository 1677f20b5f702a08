package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// owner is a model of a host: what its disk holds, and the state that is folded from it.
type owner struct {
	id      Owner
	known   []Grant // on disk, in the order of arrival
	saved   []Allocation
	al      *Allocator
	ring    *Ring
	waiting int // containers made so far, to name the next
}

// world is some hosts and a network that delivers grants late, twice, in any order or not at all.
type world struct {
	whole  netip.Prefix
	hosts  []*owner
	sent   []Grant // all that was ever written
	now    time.Time
	failed func(string, ...any)
}

func (o *owner) refold(w *world) {
	var conflicts []Conflict
	o.ring, conflicts = NewRing(w.whole, o.known)
	if len(conflicts) > 0 {
		w.failed("honest hosts have a conflict: %v", conflicts)
	}
	o.al.SetRing(o.ring)
}

func (o *owner) learn(w *world, gs ...Grant) {
	o.known = append(o.known, gs...)
	o.refold(w)
}

// restart forgets everything but the disk.
func (o *owner) restart(w *world) {
	o.al = NewAllocator(o.id, w.whole, netip.Prefix{})
	if errs := o.al.Restore(o.saved); errs != nil {
		w.failed("restore: %v", errs)
	}
	o.refold(w)
}

// check is the promise: no address is two containers' at the same time.
func (w *world) check() {
	seen := map[netip.Addr]string{}
	for _, o := range w.hosts {
		for _, a := range o.al.All() {
			me := fmt.Sprintf("%s/%s", letter(o.id), a.Container)
			if other, ok := seen[a.Addr.Addr()]; ok {
				w.failed("%v is both %s's and %s's", a.Addr, other, me)
			}
			seen[a.Addr.Addr()] = me
		}
	}
	// Nor do two hosts believe at the same time that they own it, whatever each has heard.
	for _, a := range addrs(w.whole) {
		believers := ""
		for _, o := range w.hosts {
			if o.ring.Owner(a) == o.id {
				believers += letter(o.id)
			}
		}
		if len(believers) > 1 {
			w.failed("%v is thought their own by %s", a, believers)
		}
	}
}

func TestNoAddressTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{whole: pfx("10.0.0.0/27"), now: start, failed: t.Fatalf}
		if rapid.Bool().Draw(t, "IPv6") {
			w.whole = pfx("fd00::/123")
		}
		for n := range rapid.IntRange(3, 7).Draw(t, "hosts") {
			w.hosts = append(w.hosts, &owner{id: host(n + 1)})
		}
		seed := Seed(w.whole, w.hosts[0].id)
		w.sent = []Grant{seed}
		w.hosts[0].known = []Grant{seed}
		for _, o := range w.hosts {
			o.restart(w)
		}
		pick := func(name string) *owner { return rapid.SampledFrom(w.hosts).Draw(t, name) }
		subnet := func() netip.Prefix {
			return rapid.SampledFrom([]netip.Prefix{{}, netip.PrefixFrom(w.whole.Addr(), w.whole.Bits()+1), netip.PrefixFrom(lastAddr(w.whole), w.whole.Bits()+2).Masked()}).Draw(t, "subnet")
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				o := pick("host")
				o.waiting++
				if _, _, err := o.al.Allocate(fmt.Sprint("c", o.waiting), subnet()); err == nil {
					o.saved = o.al.All()
				}
			},
			"claim": func(t *rapid.T) {
				o, a := pick("host"), rapid.SampledFrom(addrs(w.whole)).Draw(t, "address")
				o.waiting++
				if _, _, err := o.al.Claim(fmt.Sprint("c", o.waiting), netip.PrefixFrom(a, w.whole.Bits())); err == nil {
					o.saved = o.al.All()
				}
			},
			"free": func(t *rapid.T) {
				o := pick("host")
				if all := o.al.All(); len(all) > 0 {
					a := rapid.SampledFrom(all).Draw(t, "allocation")
					o.al.Free(w.now, a.Container, a.Addr.Addr())
					o.saved = o.al.All()
				}
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
				for _, o := range w.hosts {
					o.al.Expire(w.now)
				}
			},
			// A host asks whom it takes for the one with most; the answer may get lost, the giver's grant stands.
			"ask": func(t *rapid.T) {
				o, s := pick("host"), subnet()
				giver := w.hosts[0]
				if !s.IsValid() {
					s = w.whole
				}
				if donors := o.ring.Donors(o.id, s); len(donors) > 0 {
					giver = w.hosts[slices.IndexFunc(w.hosts, func(h *owner) bool { return h.id == donors[0] })]
				}
				if giver == o {
					return
				}
				gift := Donate(giver.ring, giver.id, o.id, giver.al.Used, s)
				w.sent = append(w.sent, gift...)
				giver.learn(w, gift...)
				if rapid.Bool().Draw(t, "answered") {
					o.learn(w, giver.known...)
				}
			},
			"hand over": func(t *rapid.T) {
				o, to := pick("host"), pick("to")
				if len(o.al.All()) > 0 || o.al.Used(w.whole) {
					return
				}
				gift := HandOver(o.ring, o.id, to.id)
				w.sent = append(w.sent, gift...)
				o.learn(w, gift...)
			},
			"deliver": func(t *rapid.T) {
				o := pick("host")
				o.learn(w, rapid.SliceOfN(rapid.SampledFrom(w.sent), 1, 6).Draw(t, "grants")...)
			},
			"crash": func(*rapid.T) { pick("host").restart(w) },
			"":      func(*rapid.T) { w.check() },
		})
		// When all has been heard, all agree, and nothing of the range is lost.
		for i, o := range w.hosts {
			o.learn(w, rapid.Permutation(w.sent).Draw(t, "at last")...)
			if !slices.Equal(o.ring.Parts(), w.hosts[0].ring.Parts()) {
				t.Fatalf("host %d sees\n%s, the first\n%s", i, show(o.ring), show(w.hosts[0].ring))
			}
		}
		for _, a := range addrs(w.whole) {
			if w.hosts[0].ring.Owner(a).IsZero() {
				t.Fatalf("%v is nobody's", a)
			}
		}
		w.check()
	})
}
