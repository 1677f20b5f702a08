package peer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Config is what one peer of the device should be.
type Config struct {
	PublicKey    Key
	PresharedKey Key            // zero: none
	Endpoint     netip.AddrPort // zero: leave what the device has, which may have been learnt from packets
	AllowedIPs   []netip.Prefix // sources taken from the peer and destinations sent to it; each belongs to one peer
	Keepalive    time.Duration  // whole seconds up to 65535 s; zero: off
}

// Format prints the configuration without its preshared key, for every verb.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{%s endpoint %s allowed %v keepalive %s}", c.PublicKey, c.Endpoint, c.AllowedIPs, c.Keepalive)
}

// LogValue hides the preshared key as Format does.
func (c Config) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Status is what the device knows about one of its peers.
type Status struct {
	PublicKey        Key
	Endpoint         netip.AddrPort // where the last authenticated packet came from, or as set; zero: none
	LastHandshake    time.Time      // zero: never
	RxBytes, TxBytes int64          // WireGuard messages, handshakes included, without UDP headers
	AllowedIPs       []netip.Prefix // sorted
}

// peerState is a peer as plan compares it: as the device has it, or as wanted.
type peerState struct {
	Config
	allowed map[netip.Prefix]bool // AllowedIPs, masked
}

// normalise checks what Set was given and puts it in canonical order: sorted by
// key, prefixes masked, each prefix with one peer. What is wrong is left out and
// reported; the rest stays usable.
func normalise(want []Config, self Key) ([]peerState, error) {
	want = slices.Clone(want)
	slices.SortStableFunc(want, func(a, b Config) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
	var (
		out   []peerState
		errs  []error
		owner = make(map[netip.Prefix]Key)
	)
	for i, c := range want {
		switch {
		case c.PublicKey.IsZero():
			errs = append(errs, peerErrorf(c.PublicKey, "set peer: it has no public key"))
			continue
		case c.PublicKey == self:
			// Both WireGuards skip it silently.
			errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: that is this host's own key", c.PublicKey))
			continue
		case i > 0 && c.PublicKey == want[i-1].PublicKey:
			errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: it is in the list twice", c.PublicKey))
			continue
		}
		if max := math.MaxUint16 * time.Second; c.Keepalive < 0 || c.Keepalive > max || c.Keepalive%time.Second != 0 {
			errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: keepalive %s is not a number of seconds up to %s", c.PublicKey, c.Keepalive, max))
			c.Keepalive = 0
		}
		c.Endpoint = unmapped(c.Endpoint)
		if c.Endpoint.IsValid() && (c.Endpoint.Port() == 0 || c.Endpoint.Addr().IsUnspecified() || c.Endpoint.Addr().IsMulticast()) {
			errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: no packet can be sent to endpoint %s", c.PublicKey, c.Endpoint))
			c.Endpoint = netip.AddrPort{}
		}
		p := peerState{Config: c, allowed: make(map[netip.Prefix]bool)}
		p.AllowedIPs = nil
		for _, prefix := range c.AllowedIPs {
			if !prefix.IsValid() || prefix.Addr().Is4In6() {
				errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: allowed IP %s is not a prefix", c.PublicKey, prefix))
				continue
			}
			prefix = prefix.Masked()
			if other, taken := owner[prefix]; taken {
				if other != c.PublicKey {
					errs = append(errs, peerErrorf(c.PublicKey, "set peer %s: allowed IP %s is peer %s's", c.PublicKey, prefix, other))
				}
				continue
			}
			owner[prefix] = c.PublicKey
			p.allowed[prefix] = true
			p.AllowedIPs = append(p.AllowedIPs, prefix)
		}
		slices.SortFunc(p.AllowedIPs, comparePrefix)
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

var _ interface {
	fmt.Formatter
	slog.LogValuer
} = Options{}

// Format prints the options without the private key, for every verb.
func (o Options) Format(f fmt.State, _ rune) {
	io.WriteString(f, "{"+o.Interface+" "+string(o.Datapath)+"}")
}

// LogValue hides the private key as Format does.
func (o Options) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(o)) }
