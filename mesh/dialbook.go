package mesh

import (
	"net/netip"
	"time"
)

// Where a host is to be dialled, its own record says, and it may say any address; who
// has the secret can make up any number of such hosts. So what this host dials because
// of others' records has bounds: each endpoint once in redialEvery, whoever names it,
// which is enough, since the two then know each other, whoever was looked for; so many
// ports of an address in that time; and hosts that were never met ever less.
const (
	dialsMet      = 64 // ports of an address, for hosts that this one has met
	dialsStranger = 8  // … for others

	// strangerFade is which part of the time that it has been dialled a host that was
	// never met waits for its next dial: redialEvery for 5 minutes, backoffMax after an hour.
	strangerFade = 60
)

// dialBook has the dials of the last redialEvery. One goroutine uses it.
type dialBook struct {
	at    map[netip.AddrPort]time.Time
	ports map[netip.Addr]int // of at
}

func newDialBook() *dialBook {
	return &dialBook{at: make(map[netip.AddrPort]time.Time), ports: make(map[netip.Addr]int)}
}

// forget drops the dials that count no more.
func (b *dialBook) forget(now time.Time) {
	for e, at := range b.at {
		if now.Sub(at) < redialEvery {
			continue
		}
		delete(b.at, e)
		if b.ports[e.Addr()]--; b.ports[e.Addr()] == 0 {
			delete(b.ports, e.Addr())
		}
	}
}

// free are those of the endpoints that may be dialled now, with so many ports of an address.
func (b *dialBook) free(es []netip.AddrPort, most int) (out []netip.AddrPort) {
	for _, e := range es {
		ports := b.ports[e.Addr()]
		for _, o := range out {
			if o.Addr() == e.Addr() {
				ports++
			}
		}
		if _, dialled := b.at[e]; !dialled && ports < most {
			out = append(out, e)
		}
	}
	return out
}

func (b *dialBook) note(es []netip.AddrPort, now time.Time) {
	for _, e := range es {
		if _, dialled := b.at[e]; !dialled {
			b.ports[e.Addr()]++
		}
		b.at[e] = now
	}
}

// untilRedial is how long a host waits for its next dial. dialled is for how long it has
// been dialled; met tells whether it has shown in that time that it is there.
func untilRedial(dialled time.Duration, met bool) time.Duration {
	if met {
		return redialEvery
	}
	return min(max(redialEvery, dialled/strangerFade), backoffMax)
}
