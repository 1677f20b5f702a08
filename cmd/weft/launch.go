package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"weft/router"
)

// launchFlags are the flags of launch as they are typed.
type launchFlags struct {
	secretFlags
	o                      router.Options // those that need no parsing
	ipallocRange, subnet   string
	dnsListen, dnsUpstream []string
	dnsForward             []string
	logLevel, logFormat    string
	foreground, asJSON     bool
}

// launchConfig is all that a router process needs to know. It goes to a
// background router as JSON through a pipe, since it holds the secret.
type launchConfig struct {
	Options   router.Options
	LogLevel  slog.Level
	LogFormat string // "text" or "json"
}

func newLaunchCmd(a *app) *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{
		Use:   "launch [flags] [peer…]",
		Short: "Start this host's router",
		Long: `Starts the router in the background and returns when it serves, or fails with
the reason. Without peers, on a host that is in no mesh, it founds one and
prints how to join it. With peers it joins theirs. A peer is host[:port] or a
join token; next to a host the mesh's secret is needed, as a token or password.

Secrets are best given by file, environment or prompt, since other users see the
command line: --token-file and --password-file take "-" for stdin, --password -
asks for the password, and WEFT_TOKEN and WEFT_PASSWORD are read.

A password that is easy to guess is refused, unless --weak-password forces it.

A mesh that is founded gives the whole range to its founder, which hands parts
of it to the others. With --ipalloc-init consensus=N the first N hosts share it;
a majority of them is enough once somebody waits for an address, and then those
that are there share it. With seed=HOST,… the hosts named do.
Both are for the launch that founds; those that join take the mesh's way. A host
launched as observer takes part in no decision and asks for addresses only when
a container needs one. What was given is kept for launches without the flag; an
observer becomes like the others with --ipalloc-init consensus.

With --foreground the router ends with a signal, and its tunnel stays up until
it is launched again, as after a crash: weft stop takes it down.

Every flag has an environment default: that of --ipalloc-range is
WEFT_IPALLOC_RANGE.`,
		Example: `  weft launch
  weft launch weft1-…
  weft launch --password-file /etc/weft.password host1 host2:6783
  weft launch --foreground --resume`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.launch(cmd, f, args) },
	}
	f.define(cmd)
	return a.socketFlags(cmd)
}

func (f *launchFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.password, "password", "", "password that the mesh's secret is made of; - asks for it")
	fs.StringVar(&f.passwordFile, "password-file", "", "file with the password; - is stdin")
	fs.StringVar(&f.token, "token", "", "join token of the mesh")
	fs.StringVar(&f.tokenFile, "token-file", "", "file with the join token; - is stdin")
	fs.BoolVar(&f.o.WeakPassword, "weak-password", false, "take a password that is easy to guess")
	fs.StringVar(&f.o.PeerName, "name", "", "show this host under this name instead of the nickname")
	fs.StringVar(&f.o.Nickname, "nickname", "", "nickname of this host (default the hostname)")
	fs.StringVar(&f.o.Host, "host", "", "address to listen on for joins (default all)")
	fs.IntVar(&f.o.Port, "port", router.DefaultPort, "port for joins (TCP) and tunnels (UDP)")
	fs.StringSliceVar(&f.o.Advertise, "advertise-address", nil, "address[:port] at which others reach this host (default found out)")
	fs.StringVar(&f.ipallocRange, "ipalloc-range", router.DefaultRange.String(), "addresses to give to containers; empty: none are given")
	fs.StringVar(&f.subnet, "ipalloc-default-subnet", "", "subnet for containers that name none (default the range)")
	fs.StringVar(&f.o.Init, "ipalloc-init", "", "how a mesh that is founded shares out the range: consensus[=N], seed=HOST,… or observer (default: as launched before, or it begins with the founder)")
	fs.BoolVar(&f.o.NoDiscovery, "no-discovery", false, "dial the peers given only, not every host that is remembered")
	fs.BoolVar(&f.o.Resume, "resume", false, "also use the peers of the last run")
	fs.BoolVar(&f.o.NoDNS, "no-dns", false, "serve no names")
	fs.StringVar(&f.o.Domain, "dns-domain", router.DefaultDomain, "domain of the containers' names")
	fs.StringSliceVar(&f.dnsListen, "dns-listen-address", nil, "address[:port] to serve names on (default 169.254.53.1 and Docker's bridge)")
	fs.Uint32Var(&f.o.DNSTTL, "dns-ttl", router.DefaultTTL, "seconds that a name may be remembered")
	fs.StringVar(&f.o.DNSOrder, "dns-order", router.OrderNearest, "addresses of a name: nearest first, or shuffle")
	fs.StringSliceVar(&f.dnsUpstream, "dns-upstream", nil, "address[:port] to ask for other names (default from resolv.conf)")
	fs.StringSliceVar(&f.dnsForward, "dns-forward", nil, "domain=address[:port][,address…]: servers to ask for that domain")
	fs.BoolVar(&f.o.DNSRebindProtect, "dns-rebind-protect", false, "refuse private addresses from upstream servers")
	fs.DurationVar(&f.o.FallbackTimeout, "dns-fallback-timeout", router.DefaultFallbackTimeout, "how long to wait for an upstream server")
	fs.BoolVar(&f.o.NoRewriteHosts, "no-rewrite-hosts", false, "leave containers' /etc/hosts alone")
	fs.BoolVar(&f.o.NoMulticastRoute, "no-multicast-route", false, "send no multicast over the mesh")
	fs.IntVar(&f.o.MTU, "mtu", 0, "MTU of the tunnels in bytes; 0: found out")
	fs.StringVar(&f.o.Datapath, "datapath", "auto", "auto, kernel or userspace WireGuard")
	fs.StringVar(&f.o.HTTPAddr, "http-addr", "127.0.0.1:6784", "loopback address to serve status on; empty: none")
	fs.StringVar(&f.o.MetricsAddr, "metrics-addr", "127.0.0.1:6782", "address to serve Prometheus metrics on; empty: none")
	fs.StringVar(&f.o.StateDir, "state-dir", router.DefaultStateDir, "directory of the router's state")
	fs.StringVar(&f.o.DockerAPI, "docker-api", "", "address of the Docker engine (default DOCKER_HOST or its socket)")
	fs.IntVar(&f.o.ConnLimit, "conn-limit", 200, "most joins and calls of other hosts served at a time")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fs.BoolVar(&f.foreground, "foreground", false, "stay in the foreground, for systemd and containers; a signal leaves the tunnel up")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// launch starts the router in the background, or is it.
func (a *app) launch(cmd *cobra.Command, f launchFlags, args []string) error {
	f.o.RunDir = a.runDir
	p, peersErr := parsePeers(args)
	c, configErr := f.config(cmd.Flags())
	source, secretErr := a.chooseSecret(f.secretFlags, len(p.Tokens) > 0)
	if err := errors.Join(peersErr, secretErr, configErr); err != nil {
		return usage(cmd, "%w", err)
	}
	if err := a.needRoot("launch"); err != nil {
		return err
	}
	ctx := cmd.Context()
	if err := a.readSecret(ctx, source, &p, &c.Options); err != nil {
		return err
	}
	c.Options.Targets = p.Targets
	forgetSecrets()
	if f.foreground {
		return a.foreground(ctx, c, f.asJSON)
	}
	greeting, err := a.background(ctx, c)
	if err != nil {
		return err
	}
	return a.greet(greeting, f.asJSON)
}

// greet prints what the router has to say once it serves.
func (a *app) greet(greeting []string, asJSON bool) error {
	if asJSON {
		return a.printJSON(map[string][]string{"greeting": append([]string{}, greeting...)})
	}
	if len(greeting) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(a.stderr, strings.Join(greeting, "\n")) // talk: stdout is for data
	return err
}

// Format keeps the secret out of logs, should somebody print a config.
func (launchConfig) Format(f fmt.State, _ rune) { fmt.Fprint(f, "(launch configuration)") }
