package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"weft/api"
	"weft/router"
)

// config parses what the flags hold as text, has the router look at the outcome,
// and reports all that is wrong at once. given are the flags, for those of which
// a zero that is typed differs from none.
func (f *launchFlags) config(given *pflag.FlagSet) (launchConfig, error) {
	o := f.o
	o.Version = version
	var wrong problems
	var err error
	o.StateDir, err = filepath.Abs(o.StateDir) // the router works in /
	wrong.note("state-dir", err)
	o.RunDir, err = filepath.Abs(o.RunDir)
	wrong.note("run-dir", err)
	// Unless somebody named it, the mesh's range counts, whatever it is.
	if o.NoIPAM = f.ipallocRange == ""; given.Changed("ipalloc-range") && !o.NoIPAM {
		o.RangeSet = true
		o.Range, err = parseRange(f.ipallocRange)
		wrong.note("ipalloc-range", err)
	}
	if f.subnet != "" {
		o.DefaultSubnet, err = parseRange(f.subnet)
		wrong.note("ipalloc-default-subnet", err)
	}
	o.DNSListen, err = addrPorts(f.dnsListen, 53)
	wrong.note("dns-listen-address", err)
	o.Upstream, err = addrPorts(f.dnsUpstream, 53)
	wrong.note("dns-upstream", err)
	o.DNSForward, err = parseForwards(f.dnsForward)
	wrong.note("dns-forward", err)
	_, err = addrPorts(o.Advertise, router.DefaultPort)
	wrong.note("advertise-address", err)
	wrong.note("docker-api", checkEngine(o.DockerAPI))
	wrong.note("http-addr", api.CheckLoopback(o.HTTPAddr))
	wrong.note("metrics-addr", checkListen(o.MetricsAddr))
	c := launchConfig{Options: o, LogFormat: f.logFormat}
	if err := c.LogLevel.UnmarshalText([]byte(f.logLevel)); err != nil {
		wrong.note("log-level", fmt.Errorf("%q is not debug, info, warn or error", f.logLevel))
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		wrong.note("log-format", fmt.Errorf("%q is neither text nor json", f.logFormat))
	}
	switch o.Datapath {
	case "auto", "kernel", "userspace":
	default:
		wrong.note("datapath", fmt.Errorf("%q is not auto, kernel or userspace", o.Datapath))
	}
	// To the router, zero is the default: it was not meant by who typed it.
	if o.Port < 1 || o.Port > 65535 {
		wrong.note("port", fmt.Errorf("%d is not between 1 and 65535", o.Port))
	}
	if o.ConnLimit < 1 {
		wrong.note("conn-limit", fmt.Errorf("%d is below 1", o.ConnLimit))
	}
	wrong.add(o.Check())
	return c, errors.Join(wrong.errs...)
}

// problems are what is wrong with flags, each flag's told once: by the command
// line, which has the text that was typed, rather than by the router.
type problems struct {
	errs  []error
	flags []string
}

func (p *problems) note(flag string, err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			p.note(flag, e)
		}
	} else if err != nil {
		p.errs = append(p.errs, fmt.Errorf("--%s: %w", flag, err))
		p.flags = append(p.flags, flag)
	}
}

// add takes in what the router says, a line for each flag.
func (p *problems) add(err error) {
	if err == nil {
		return
	}
next:
	for _, line := range lines(err.Error()) {
		for _, f := range p.flags {
			if rest, ok := strings.CutPrefix(line, "--"+f); ok && strings.IndexAny(rest, ": ") == 0 {
				continue next
			}
		}
		p.errs = append(p.errs, errors.New(line))
	}
}

// parseRange parses addresses written as in 10.32.0.0/12.
func parseRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return p, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.Prefix{}, fmt.Errorf("%q lacks its prefix length, as in %v/%d", s, a, usualBits(a))
	}
	return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses, as in %v", s, router.DefaultRange)
}

// addrPorts parses address[:port]; IPv6 with a port is in brackets.
func addrPorts(ss []string, port uint16) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var errs []error
	for _, s := range ss {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(a, port))
			continue
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil || ap.Port() == 0 {
			errs = append(errs, fmt.Errorf("%q is not an IP address, nor one with a port", s))
			continue
		}
		out = append(out, ap)
	}
	return out, errors.Join(errs...)
}

// parseForwards reads domain=address[:port]; what has no domain is another server of the one before.
func parseForwards(ss []string) (map[string][]netip.AddrPort, error) {
	var out map[string][]netip.AddrPort
	var errs []error
	domain := ""
	for _, s := range ss {
		server := s
		if d, rest, ok := strings.Cut(s, "="); ok {
			domain, server = d, rest
		}
		if domain == "" || server == "" {
			errs = append(errs, fmt.Errorf("%q is not a domain and its server, as in corp.example=10.1.1.1", s))
			continue
		}
		as, err := addrPorts([]string{server}, 53)
		errs = append(errs, err)
		if out == nil {
			out = map[string][]netip.AddrPort{}
		}
		out[domain] = append(out[domain], as...)
	}
	return out, errors.Join(errs...)
}

// checkEngine checks the address of a Docker engine.
func checkEngine(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err == nil && (u.Scheme == "unix" && u.Path != "" && u.Host == "" || u.Scheme == "tcp" && u.Host != "") {
		return nil
	}
	return fail("--docker-api unix:///var/run/docker.sock, or tcp://HOST:PORT; without it DOCKER_HOST counts",
		"%q is not the address of a Docker engine", s)
}

// checkListen checks [host]:port; empty is none.
func checkListen(s string) error {
	if s == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	return nil
}
