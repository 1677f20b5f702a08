package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	probeTimeout = 2 * time.Second
	// probeAgain is how long after a probe that came to something the next is due.
	probeAgain = time.Minute
)

// loops finds out which upstream servers lead back to this one: a resolver of the host that
// forwards to us, as Docker's or dnsmasq may. Each server is asked for a name that nobody else
// can know, when it is first seen, then every minute, and when no server answered a question; at the next
// question if nothing came of it. If that name is asked for here, the server is a loop until such a probe does
// not come back. Only servers that may reach us are probed, see [nearby].
type loops struct {
	log *slog.Logger

	mu     sync.Mutex // guards the fields below
	probes map[string]*probe
	known  map[netip.AddrPort]*probed
}

// probe is a question on its way.
type probe struct {
	server netip.AddrPort
	back   bool // it was asked here
}

// probed is what is known of a server.
type probed struct {
	due    time.Time // when it is to be probed
	onWay  bool
	isLoop bool
}

func newLoops(log *slog.Logger) *loops {
	return &loops{log: log, probes: map[string]*probe{}, known: map[netip.AddrPort]*probed{}}
}

// without leaves out the servers that lead back here, and says which are to be probed now.
func (l *loops) without(servers []netip.AddrPort) (good, probe []netip.AddrPort) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		p := l.ofLocked(s)
		if !p.onWay && !now.Before(p.due) {
			p.onWay = true
			probe = append(probe, s)
		}
		if !p.isLoop {
			good = append(good, s)
		}
	}
	return good, probe
}

func (l *loops) ofLocked(server netip.AddrPort) *probed {
	p := l.known[server]
	if p == nil {
		if len(l.known) > 1000 {
			clear(l.known)
		}
		p = new(probed)
		l.known[server] = p
	}
	return p
}

// suspect makes all servers be probed: none has answered.
func (l *loops) suspect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.known {
		p.due = time.Time{}
	}
}

// probe asks a server for a name of its own.
func (l *loops) probe(ctx context.Context, server netip.AddrPort) {
	var nonce [16]byte
	rand.Read(nonce[:])
	name := hex.EncodeToString(nonce[:8]) + "." + hex.EncodeToString(nonce[8:]) + "."
	p := &probe{server: server}
	l.mu.Lock()
	l.probes[name] = p
	l.mu.Unlock()
	told := true
	if nearby(server.Addr()) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		q := new(miekg.Msg).SetQuestion(name, miekg.TypeHINFO)
		packed, err := q.Pack()
		if err == nil {
			_, err = exchangeUDP(ctx, server, q, packed) // what it says is no matter
		}
		told = err == nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.probes, name)
	is := l.ofLocked(server)
	is.onWay, is.isLoop = false, p.back
	is.due = time.Time{}
	if told || p.back {
		is.due = time.Now().Add(probeAgain)
	}
}

// nearby says whether a server with such an address may be one that asks us: we listen on addresses that nobody
// reaches from afar.
func nearby(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a) || isLocal(a)
}

// sharedSpace is that of RFC 6598, which carriers and overlay networks use.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// is says whether a question is one of our probes, come back.
func (l *loops) is(q miekg.Question) bool {
	if q.Qtype != miekg.TypeHINFO {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.probes[strings.ToLower(q.Name)]
	if p == nil {
		return false
	}
	p.back = true
	if s := l.ofLocked(p.server); !s.isLoop {
		s.isLoop = true
		l.log.Error("an upstream dns server asks this one: it is not asked for as long as it does; name others with --dns-upstream", "server", p.server)
	}
	return true
}
