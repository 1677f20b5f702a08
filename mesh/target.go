package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/peer"
)

// The states of a target.
const (
	stateConnecting  = "connecting"
	stateEstablished = "established"
	stateRetrying    = "retrying" // nobody has been met there yet
	stateFailed      = "failed"   // it was established
	stateSelf        = "self"     // it is this host, and nobody else
)

const (
	maxTargets  = 256
	backoffMin  = time.Second
	backoffMax  = 60 * time.Second
	maxAddrText = 256
)

// target is somebody to dial. It is guarded by Mesh.mu.
type target struct {
	addr    string // host:port
	state   string
	peer    peer.ID
	err     error
	next    time.Time
	backoff time.Duration
	busy    bool
	gone    bool // forgotten while it was being dialled
}

// parseTarget reads host[:port]; an IPv6 address with a port stands in brackets.
func parseTarget(s string, port int) (string, error) {
	host, p := strings.TrimSpace(s), strconv.Itoa(port)
	bare := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		bare = host[1 : len(host)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		return net.JoinHostPort(a.String(), p), nil
	}
	if strings.Contains(host, ":") {
		var err error
		if host, p, err = net.SplitHostPort(host); err != nil {
			return "", fmt.Errorf("parse target %q: want host[:port], with an IPv6 address in brackets", s)
		}
	}
	n, err := strconv.ParseUint(p, 10, 16)
	switch {
	case host == "" || len(host) > maxAddrText || strings.ContainsFunc(host, notInHost):
		return "", fmt.Errorf("parse target %q: no host in it", s)
	case err != nil || n == 0:
		return "", fmt.Errorf("parse target %q: port %q is not one", s, p)
	}
	return net.JoinHostPort(host, p), nil
}

// notInHost tells what no host name or address has. Names from /etc/hosts may
// have more than DNS's grammar allows, an underscore for one.
func notInHost(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("-._:%", r) // : and % of IPv6 in brackets
}

// Connect adds targets, host[:port] each, and dials them at once; with replace
// they become the only ones. Established connections stay.
func (m *Mesh) Connect(targets []string, replace bool) error {
	if err := m.setTargets(targets, replace); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	m.changed()
	poke(m.redial)
	return nil
}

func (m *Mesh) setTargets(list []string, replace bool) error {
	want, err := m.parseTargets(list)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if replace {
		for a, t := range m.targets {
			if !slices.Contains(want, a) {
				t.gone = true
				delete(m.targets, a)
				m.notices.clear("out " + a)
			}
		}
	}
	for _, a := range want {
		t := m.targets[a]
		if t == nil {
			if len(m.targets) >= maxTargets {
				return fmt.Errorf("more than %d targets", maxTargets)
			}
			t = &target{addr: a, state: stateConnecting}
			m.targets[a] = t
		}
		t.next, t.backoff = time.Time{}, 0
	}
	return nil
}

func (m *Mesh) parseTargets(list []string) (out []string, err error) {
	for _, s := range list {
		a, e := parseTarget(s, m.o.Port)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		out = append(out, a)
	}
	return out, err
}

// Forget stops dialling targets. Established connections stay. A target that is
// not there is an error, after the others are forgotten.
func (m *Mesh) Forget(targets []string) error {
	list, err := m.parseTargets(targets)
	m.mu.Lock()
	for _, a := range list {
		t := m.targets[a]
		if t == nil {
			err = errors.Join(err, fmt.Errorf("forget %s: it is not a target", a))
			continue
		}
		t.gone = true
		delete(m.targets, a)
		m.notices.clear("out " + a)
	}
	m.mu.Unlock()
	m.changed()
	return err
}

// Targets are sorted by address.
func (m *Mesh) Targets() []Target {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Target, 0, len(m.targets))
	for _, t := range m.targets {
		x := Target{Addr: t.addr, State: t.state, Peer: t.peer, NextTry: t.next, Reason: reasonOf(t.err), Direction: "out"}
		if t.err != nil {
			x.Err = line(t.err.Error())
		}
		if t.busy && t.state != stateEstablished {
			x.State = stateConnecting
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Target) int { return cmp.Compare(a.Addr, b.Addr) })
	return out
}

// ended notes how a try went and when the next one is due.
func (t *target) ended(id peer.ID, err error, now time.Time) {
	t.busy = false
	if !id.IsZero() {
		t.peer = id
	}
	r := (*Refusal)(nil)
	switch {
	case err == nil:
		t.state, t.err, t.backoff, t.next = stateEstablished, nil, 0, time.Time{}
		return
	case errors.As(err, &r) && r.Code == RefusedSelf:
		t.state, t.err, t.next = stateSelf, nil, now.Add(backoffMax)
		return
	}
	limit := redialEvery // as for every host that is known
	if t.state != stateFailed {
		t.state = stateRetrying
		if r == nil || r.Code != RefusedBusy { // else it is there, and this host's turn will come
			limit = backoffMax
		}
	}
	t.err = err
	t.backoff = min(max(2*t.backoff, backoffMin), limit)
	t.next = now.Add(min(limit, t.backoff*3/4+rand.N(t.backoff/2)))
}

// lost notes that the host behind an established target is not alive any more.
func (t *target) lost(now time.Time) {
	t.state, t.backoff, t.next = stateFailed, 0, now
}

// changed publishes and tells.
func (m *Mesh) changed() {
	m.mu.Lock()
	m.publishLocked()
	m.mu.Unlock()
	m.o.OnChange()
}
