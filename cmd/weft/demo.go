package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/netlab"
)

// demoHosts is the mesh of the demonstration: hosts, and the workloads on each.
var demoHosts = []struct {
	name      string
	workloads []string
}{
	{"host1", []string{"web", "cache"}},
	{"host2", []string{"api", "db"}},
	{"host3", []string{"shop", "mail"}},
}

const (
	demoDomain = "weft.local"
	demoPort   = "80"
	// demoMarker is in every page that a workload serves: found on the wire, it
	// would prove that something travelled in clear.
	demoMarker = "weft-demo-page-that-must-not-be-seen-on-the-wire"
)

func newDemoCmd(a *app) *cobra.Command {
	var keep bool
	var end string
	cmd := &cobra.Command{
		Use:   "demo [--keep | --end ID]",
		Short: "Show a mesh of three hosts on this machine",
		Long: `Makes three hosts in network namespaces of this machine, launches weft on each,
starts two named workloads on each, fetches a page from every workload by name
on every other, watches the wire meanwhile, and takes everything down again.
It needs root and no Docker, and touches nothing of this machine's own network.`,
		Example: `  sudo weft demo
  sudo weft demo --keep     leave it up, and print how to enter it`,
		GroupID: groupRouter,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageHint(cmd, "a mesh that was kept is taken down by: weft demo --end ID", "weft demo takes no arguments")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep && cmd.Flags().Changed("end") {
				return usage(cmd, "--keep makes a mesh and --end takes one down: give one of them")
			}
			if a.euid() != 0 {
				return fail("sudo weft demo", "the demonstration needs root to make network namespaces")
			}
			if end != "" {
				if err := netlab.End(end); err != nil {
					return fail("weft demo clears what a crash left; "+keptMeshes(), "%w", err)
				}
				_, err := fmt.Fprintln(a.stdout, "taken down")
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			// A reader that goes away, as in weft demo | head, must not kill what
			// is to take everything down: it counts as an interrupt.
			broken := make(chan os.Signal, 1)
			signal.Notify(broken, syscall.SIGPIPE)
			defer signal.Stop(broken)
			d := &demo{out: &watchedWriter{a.stdout, cancel}, self: self, keep: keep, began: time.Now()}
			return d.run(ctx)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the mesh up and print how to enter it")
	cmd.Flags().StringVar(&end, "end", "", "take down the mesh that --keep left up, by the ID that it printed")
	return cmd
}

// demo is one run of the demonstration. The hosts run this very binary.
type demo struct {
	out   io.Writer
	self  string
	keep  bool
	began time.Time

	lab       *netlab.Lab
	hosts     []*netlab.Host
	workloads []*demoWorkload
	captures  []*netlab.Capture
}

type demoWorkload struct {
	*netlab.Workload
	host *netlab.Host
	name string
	addr string
}

func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.out, "[%4.1fs] %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := netlab.Sweep(); err != nil {
		return err
	}
	if d.lab, err = netlab.New(netlab.Options{Name: "weft demo"}); err != nil {
		return err
	}
	kept := false
	defer func() {
		if kept {
			return
		}
		if err != nil && ctx.Err() == nil {
			d.printLogs()
		}
		err = errors.Join(err, d.lab.Close())
		d.step("taken down: no namespace, link or process is left")
	}()
	for _, f := range []func(context.Context) error{d.makeHosts, d.launch, d.startWorkloads, d.awaitNames, d.fetchAll, d.awaitTunnels, d.picture, d.showWire} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(ctx); err != nil {
			return err
		}
	}
	if !d.keep || ctx.Err() != nil {
		return ctx.Err()
	}
	id, err := d.lab.Keep()
	if err != nil {
		return err
	}
	kept = true
	d.step("left up. Enter %s with:\n    %s\n  there, try `%s status` or `%s status dns`. Take it down with:\n    %s demo --end %s",
		d.hosts[0].Name(), d.hosts[0].Enter(), d.self, d.self, d.self, id)
	if ctx.Err() != nil { // nobody has read how to take it down
		return errors.Join(ctx.Err(), netlab.End(id))
	}
	return nil
}

func (d *demo) makeHosts(context.Context) error {
	for _, h := range demoHosts {
		host, err := d.lab.Host(h.name, netlab.HostOptions{})
		if err != nil {
			return err
		}
		d.hosts = append(d.hosts, host)
		c, err := host.Capture(netlab.CaptureOptions{Markers: [][]byte{[]byte(demoMarker)}})
		if err != nil {
			return err
		}
		d.captures = append(d.captures, c)
	}
	d.step("three hosts on one network: %s", strings.Join(mapped(d.hosts, func(h *netlab.Host) string { return h.Name() + " " + h.Addr().String() }), ", "))
	return nil
}

// launch founds the mesh on the first host and joins the others by token.
func (d *demo) launch(ctx context.Context) error {
	var token string
	for i, h := range d.hosts {
		args := []string{d.self, "launch"}
		if i > 0 {
			// By file: a token in an argument list is seen by every user.
			if err := h.WriteFile("/run/token", []byte(token), 0o600); err != nil {
				return err
			}
			args = append(args, "--token-file", "/run/token", d.hosts[0].Addr().String())
		}
		if _, _, err := h.RunContext(ctx, args...); err != nil {
			return fmt.Errorf("launch on %s: %w", h.Name(), err)
		}
		if i == 0 {
			out, _, err := h.RunContext(ctx, d.self, "token")
			if err != nil {
				return fmt.Errorf("read the token on %s: %w", h.Name(), err)
			}
			token = out
			d.step("%s: `weft launch` founded the mesh, `weft token` printed how to join it", h.Name())
			continue
		}
		d.step("%s: `weft launch --token-file … %s` joined", h.Name(), d.hosts[0].Addr())
	}
	return nil
}

func (d *demo) startWorkloads(ctx context.Context) error {
	for i, spec := range demoHosts {
		h := d.hosts[i]
		for _, name := range spec.workloads {
			w, err := h.Workload(name)
			if err != nil {
				return err
			}
			if err := w.SetResolvConf("nameserver 169.254.53.1\nsearch " + demoDomain + "\noptions timeout:2\n"); err != nil {
				return err
			}
			if _, err := w.Start("respond-"+name, d.self, "demo-respond", h.Name(), name); err != nil {
				return err
			}
			container := "netns:" + w.NetNSPath()
			out, _, err := h.RunContext(ctx, d.self, "attach", container)
			if err != nil {
				return fmt.Errorf("attach %s: %w", name, err)
			}
			addr := strings.TrimSpace(out)
			if _, _, err := h.RunContext(ctx, d.self, "dns-add", addr, container, "-h", name+"."+demoDomain); err != nil {
				return fmt.Errorf("name %s: %w", name, err)
			}
			d.workloads = append(d.workloads, &demoWorkload{Workload: w, host: h, name: name, addr: addr})
			d.step("%s: %-5s is a web server in a namespace of its own, attached as %s, named %s.%s", h.Name(), name, addr, name, demoDomain)
		}
	}
	return nil
}

// fetchAll lets every workload fetch a page from every workload on the other
// hosts, by name.
func (d *demo) fetchAll(ctx context.Context) error {
	pages := 0
	var slowest time.Duration
	for _, w := range d.workloads {
		args := []string{d.self, "demo-fetch"}
		var urls []string
		for _, other := range d.workloads {
			if other.host != w.host {
				urls = append(urls, "http://"+net.JoinHostPort(other.name+"."+demoDomain, demoPort)+"/")
			}
		}
		begin := time.Now()
		out, _, err := w.RunContext(ctx, append(args, urls...)...)
		if err != nil {
			return fmt.Errorf("%s on %s: %w", w.name, w.host.Name(), err)
		}
		slowest = max(slowest, time.Since(begin))
		pages += len(lines(out))
		if w == d.workloads[0] {
			for _, l := range lines(out) {
				d.step("%s on %s asked for %s", w.name, w.host.Name(), l)
			}
		}
	}
	if want := len(d.workloads) * (len(d.workloads) - 2); pages != want {
		return fmt.Errorf("%d pages were fetched, and %d were expected", pages, want)
	}
	d.step("… and so did the other five: %d pages across hosts, each by name, none failed", pages)
	return nil
}

// picture draws the mesh.
func (d *demo) picture(ctx context.Context) error {
	out, _, err := d.hosts[0].RunContext(ctx, d.self, "status", "ipam")
	if err != nil {
		return err
	}
	const width = 26
	row := func(cell func(i int) string) string {
		var b strings.Builder
		for i := range d.hosts {
			fmt.Fprintf(&b, "  | %-*s |", width-6, cell(i))
		}
		return b.String()
	}
	edge := strings.Repeat("  +"+strings.Repeat("-", width-4)+"+", len(d.hosts))
	var b strings.Builder
	fmt.Fprintln(&b, edge)
	fmt.Fprintln(&b, row(func(i int) string { return d.hosts[i].Name() }))
	fmt.Fprintln(&b, row(func(i int) string { return d.hosts[i].Addr().String() }))
	for k := range 2 {
		fmt.Fprintln(&b, row(func(i int) string {
			w := d.workloads[2*i+k]
			return fmt.Sprintf("  %-6s%s", w.name, w.addr)
		}))
	}
	fmt.Fprintln(&b, edge)
	const middle = width / 2
	fmt.Fprintln(&b, strings.Repeat(" ", middle)+strings.Repeat("|"+strings.Repeat(" ", width-1), len(d.hosts)-1)+"|")
	fmt.Fprintln(&b, strings.Repeat(" ", middle)+strings.Repeat("+"+strings.Repeat("=", width-1), len(d.hosts)-1)+"+")
	fmt.Fprintln(&b, strings.Repeat(" ", middle+width-12)+"WireGuard, each with each")
	d.step("the mesh:\n\n%s\n  who owns which part of the addresses (`weft status ipam` on %s):\n%s", b.String(), d.hosts[0].Name(), indent(out))
	return nil
}

func (d *demo) printLogs() {
	logs := d.lab.Logs()
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		fmt.Fprintf(d.out, "---- %s\n%s\n", name, logs[name])
	}
	for _, h := range d.hosts {
		b, err := h.ReadFile(filepath.Join("/run/weft", "router.log"))
		if err == nil {
			fmt.Fprintf(d.out, "---- %s router.log\n%s\n", h.Name(), b)
		}
	}
}

func indent(s string) string {
	var b strings.Builder
	for _, l := range lines(s) {
		b.WriteString("    " + l + "\n")
	}
	return b.String()
}
