package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"slices"
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
// question if nothing came of it. If that name is asked for here, the server is a loop until it answers such a probe
// without having asked here. A server of a split domain is asked for a name of that domain: it may send others elsewhere.
// Only servers that may reach us are probed, see [nearby].
type loops struct {
	log *slog.Logger

	mu     sync.Mutex // guards the fields below
	probes map[string]*probe
	known  map[asked]*probed
}

// asked is a server and the domain that it is asked for.
type asked struct {
	domain string // lower case, with the last dot
	server netip.AddrPort
}

// probe is a question on its way.
type probe struct {
	asked
	back bool // it was asked here
}

// probed is what is known of a server.
type probed struct {
	due    time.Time // when it is to be probed
	onWay  bool
	isLoop bool
}

func newLoops(log *slog.Logger) *loops {
	return &loops{log: log, probes: map[string]*probe{}, known: map[asked]*probed{}}
}

// without leaves out the servers of a domain that lead back here, and says which are to be probed now.
func (l *loops) without(domain string, servers []netip.AddrPort) (good []netip.AddrPort, probe []asked) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		a := asked{domain, s}
		p := l.ofLocked(a)
		if !p.onWay && !now.Before(p.due) {
			p.onWay = true
			probe = append(probe, a)
		}
		if !p.isLoop {
			good = append(good, s)
		}
	}
	return good, probe
}

func (l *loops) ofLocked(a asked) *probed {
	p := l.known[a]
	if p == nil {
		if len(l.known) > 1000 {
			clear(l.known)
		}
		p = new(probed)
		l.known[a] = p
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

// probe asks a server for a name that is asked for once.
func (l *loops) probe(ctx context.Context, a asked) {
	var nonce [16]byte
	rand.Read(nonce[:])
	name := hex.EncodeToString(nonce[:8]) + "." + hex.EncodeToString(nonce[8:]) + "." + strings.TrimPrefix(a.domain, ".")
	p := &probe{asked: a}
	l.mu.Lock()
	l.probes[name] = p
	l.mu.Unlock()
	told := true
	if nearby(a.server.Addr()) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		q := new(miekg.Msg).SetQuestion(name, miekg.TypeHINFO)
		packed, err := q.Pack()
		if err == nil {
			_, err = exchangeUDP(ctx, a.server, q, packed) // what it says is no matter
		}
		told = err == nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.probes, name)
	is := l.ofLocked(a)
	is.onWay, is.isLoop = false, p.back || is.isLoop && !told // silence proves nothing
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

// isLocal says whether an address is one of this host's.
func isLocal(a netip.Addr) bool {
	ifs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(ifs, func(i net.Addr) bool {
		p, err := netip.ParsePrefix(i.String())
		return err == nil && p.Addr().Unmap() == a.WithZone("")
	})
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
	if s := l.ofLocked(p.asked); !s.isLoop {
		s.isLoop = true
		l.log.Error("an upstream dns server asks this one: it is not asked for as long as it does; name others with --dns-upstream or --dns-forward",
			"server", p.server, "domain", p.domain)
	}
	return true
}
