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
	// looping is how long a server that leads back here is not asked; then it is probed anew.
	looping = time.Minute
)

// loops finds out which upstream servers lead back to this one: a resolver of the host that
// forwards to us, as Docker's or dnsmasq may. Each server is asked once for a name that nobody else
// can know. If that name is asked for here, the server is a loop. Public servers are not
// probed: none of them can reach us.
type loops struct {
	log *slog.Logger

	mu     sync.Mutex // guards the fields below
	probes map[string]netip.AddrPort
	probed map[netip.AddrPort]time.Time // when it was, or when it was found to be a loop
	found  map[netip.AddrPort]bool
}

func newLoops(log *slog.Logger) *loops {
	return &loops{log: log, probes: map[string]netip.AddrPort{}, probed: map[netip.AddrPort]time.Time{}, found: map[netip.AddrPort]bool{}}
}

// without leaves out the servers that lead back here, and says which are to be probed.
func (l *loops) without(servers []netip.AddrPort) (good, probe []netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		at, known := l.probed[s]
		if l.found[s] {
			if time.Since(at) < looping {
				continue
			}
			delete(l.found, s)
			known = false
		}
		if a := s.Addr(); !known && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()) {
			if len(l.probed) > 1000 {
				clear(l.probed)
			}
			l.probed[s] = time.Now()
			probe = append(probe, s)
		}
		good = append(good, s)
	}
	return good, probe
}

// probe asks a server for a name of its own.
func (l *loops) probe(ctx context.Context, server netip.AddrPort) {
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return
	}
	name := hex.EncodeToString(nonce[:8]) + "." + hex.EncodeToString(nonce[8:]) + "."
	l.mu.Lock()
	l.probes[name] = server
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	q := new(miekg.Msg).SetQuestion(name, miekg.TypeHINFO)
	if packed, err := q.Pack(); err == nil {
		_, _ = exchangeUDP(ctx, server, q, packed) // what it says is no matter
	}
	l.mu.Lock()
	delete(l.probes, name)
	l.mu.Unlock()
}

// is says whether a question is one of our probes, come back.
func (l *loops) is(q miekg.Question) bool {
	if q.Qtype != miekg.TypeHINFO {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	server, ok := l.probes[strings.ToLower(q.Name)]
	if ok && !l.found[server] {
		l.found[server], l.probed[server] = true, time.Now()
		l.log.Error("an upstream dns server asks this one: it is not asked for a minute; name others with --dns-upstream", "server", server)
	}
	return ok
}
