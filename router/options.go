package router

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"weft/dns"
)

// Defaults of the launch flags.
const (
	DefaultPort            = 6783
	DefaultGossipPort      = 7946
	DefaultDomain          = "weft.local"
	DefaultTTL             = 1
	DefaultFallbackTimeout = 5 * time.Second
	DefaultStateDir        = "/var/lib/weft"
	DefaultRunDir          = "/run/weft"
)

// Orders of the addresses in an answer.
const (
	OrderNearest = "nearest" // this host's own first, then by round trip, shuffled within a class
	OrderShuffle = "shuffle"
)

// DefaultRange is the address space handed out to containers unless the
// founder of the mesh said otherwise.
var DefaultRange = netip.MustParsePrefix("10.32.0.0/12")

// bridgeAddr is on every host's bridge: the next hop and the name server of
// every container.
var bridgeAddr = netip.MustParseAddr("169.254.53.1")

// Options is what `weft launch` was told. The zero value of a field means the
// default of its flag, but for DNSTTL.
type Options struct {
	Version  string
	StateDir string
	RunDir   string

	PeerName  string   // --name: shown instead of the nickname
	Nickname  string   // empty: the hostname
	Host      string   // underlay address to bind the join port to; empty: all
	Port      int      // 0: 6783
	Advertise []string // underlay addresses or address:port; empty: found out

	Password     string // at most one of Password and Token
	Token        string
	WeakPassword bool // take a password that is easy to guess

	Targets     []string // host[:port]
	Resume      bool     // use the targets of the last run instead
	NoDiscovery bool

	Range         netip.Prefix // invalid: the mesh's, or 10.32.0.0/12 when founding
	RangeSet      bool         // the operator named Range
	NoIPAM        bool
	DefaultSubnet netip.Prefix // invalid: the range
	Init          string       // how the ring begins: consensus, consensus=N, seed=HOST,… or observer; empty: consensus

	NoDNS     bool
	Domain    string
	DNSListen []netip.AddrPort // empty: port 53 on the bridge and on Docker's bridge
	DNSTTL    uint32           // seconds; 0: nobody is to keep an answer
	DNSOrder  string           // OrderNearest or OrderShuffle; empty: the former
	Upstream  []netip.AddrPort // empty: resolv.conf
	// DNSForward has servers of their own for single domains; DNSRebindProtect refuses private
	// addresses from all other upstream servers.
	DNSForward       map[string][]netip.AddrPort
	DNSRebindProtect bool
	FallbackTimeout  time.Duration

	MTU       int    // of the tunnel device in bytes; 0: from the underlay
	Datapath  string // auto, kernel or userspace
	DockerAPI string // empty: the engine's default
	ConnLimit int    // peers; 0: 200

	NoMulticastRoute bool
	NoRewriteHosts   bool

	HTTPAddr      string
	MetricsAddr   string
	DeviceCommand []string // argv of `weft device`
	Log           *slog.Logger
}

// Error is a failure with the way out of it.
type Error struct {
	Msg  string // what went wrong, a sentence without capital or full stop
	Tip  string // what to do; may be empty
	Err  error  // the cause, may be nil
	Code int    // HTTP status; 0: 500
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	if e.Msg == "" {
		return e.Err.Error()
	}
	return e.Msg + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is the way out, for `weft: hint:`.
func (e *Error) Hint() string { return e.Tip }

// Status is the HTTP status of the error.
func (e *Error) Status() int {
	if e.Code == 0 {
		return 500
	}
	return e.Code
}

func badRequest(tip, format string, args ...any) *Error {
	return &Error{Msg: fmt.Sprintf(format, args...), Tip: tip, Code: 400}
}

// Check reports everything that is wrong with the options at once.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults fills in the defaults and reports everything that is wrong with
// the options at once.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.StateDir == "" {
		o.StateDir = DefaultStateDir
	}
	if o.RunDir == "" {
		o.RunDir = DefaultRunDir
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Port < 1 || o.Port > 65535 {
		bad("--port %d is not between 1 and 65535", o.Port)
	}
	if o.Nickname == "" {
		h, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("read hostname: %w", err)
		}
		o.Nickname = h
	}
	if o.PeerName != "" {
		o.Nickname = o.PeerName
	}
	if o.Host != "" {
		if _, err := netip.ParseAddr(o.Host); err != nil {
			bad("--host %q is not an IP address", o.Host)
		}
	}
	if o.Password != "" && o.Token != "" {
		bad("a password and a token were both given, and a mesh has only one secret")
	}
	if o.NoIPAM && o.RangeSet && o.Range.IsValid() {
		bad("--ipalloc-range is both empty and %v", o.Range)
	}
	if o.Range.IsValid() && o.Range != o.Range.Masked() {
		bad("--ipalloc-range %v has host bits set: did you mean %v?", o.Range, o.Range.Masked())
	}
	if o.Range.IsValid() && (o.Range.Bits() > o.Range.Addr().BitLen()-2 || !o.Range.Addr().Is4()) {
		bad("--ipalloc-range %v: an IPv4 range of at least 4 addresses is needed", o.Range)
	}
	if o.DefaultSubnet.IsValid() {
		if o.DefaultSubnet != o.DefaultSubnet.Masked() {
			bad("--ipalloc-default-subnet %v has host bits set: did you mean %v?", o.DefaultSubnet, o.DefaultSubnet.Masked())
		}
		if o.Range.IsValid() && !o.DefaultSubnet.Overlaps(o.Range) {
			bad("--ipalloc-default-subnet %v is outside the range %v", o.DefaultSubnet, o.Range)
		}
	}
	if _, err := parseBeginning(o.Init); err != nil {
		bad("--ipalloc-init %w", err)
	}
	if o.Domain == "" {
		o.Domain = DefaultDomain
	}
	if d, err := dns.ValidDomain(o.Domain); err != nil {
		bad("--dns-domain: %w", err)
	} else {
		o.Domain = strings.TrimSuffix(d, ".")
	}
	if o.DNSOrder == "" {
		o.DNSOrder = OrderNearest
	}
	if o.DNSOrder != OrderNearest && o.DNSOrder != OrderShuffle {
		bad("--dns-order %q is neither %s nor %s", o.DNSOrder, OrderNearest, OrderShuffle)
	}
	for _, d := range slices.Sorted(maps.Keys(o.DNSForward)) {
		full, err := dns.ValidDomain(d)
		switch {
		case err != nil:
			bad("--dns-forward: %w", err)
		case full == o.Domain+"." || strings.HasSuffix(full, "."+o.Domain+"."):
			bad("--dns-forward: %q is in %s, whose names are the mesh's", d, o.Domain)
		case len(o.DNSForward[d]) == 0:
			bad("--dns-forward: no server is named for %q", d)
		}
	}
	if o.Range.IsValid() {
		if err := checkForwards(o, o.Range); err != nil {
			errs = append(errs, err)
		}
	}
	if o.FallbackTimeout == 0 {
		o.FallbackTimeout = DefaultFallbackTimeout
	}
	if o.MTU != 0 && (o.MTU < 1280 || o.MTU > 65455) {
		bad("--mtu %d is not between 1280 and 65455: Linux drops IPv6, which gossip needs, below 1280", o.MTU)
	}
	for _, a := range o.DNSListen {
		if a.Addr().IsUnspecified() {
			bad("--dns-listen-address %v: name an address; containers are told to ask it, and the firewall opens it", a)
		}
	}
	if o.ConnLimit == 0 {
		o.ConnLimit = 200
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(errs) > 0 {
		return o, &Error{Err: errors.Join(errs...), Tip: "weft help launch", Code: 400}
	}
	return o, nil
}

// checkForwards refuses servers for reverse zones of a range, which are the mesh's: nobody would ask them.
func checkForwards(o Options, p netip.Prefix) error {
	for _, d := range slices.Sorted(maps.Keys(o.DNSForward)) {
		if dns.Reverses(d, p) {
			return fmt.Errorf("--dns-forward: %q has the names of addresses in %v, which are the mesh's", d, p)
		}
	}
	return nil
}
