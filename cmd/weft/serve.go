package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sync/errgroup"

	"weft/api"
	"weft/router"
)

// tunnelLink is the router's WireGuard device.
const tunnelLink = "weftwg"

// foreground is the router in this process, for systemd and containers.
func (a *app) foreground(ctx context.Context, c launchConfig, asJSON bool) error {
	log := newLogger(a.stderr, c)
	err := a.serve(ctx, c, log, func(greeting []string) error {
		_ = a.greet(greeting, asJSON) // a closed stdout is no reason to end
		return nil
	})
	if err == nil && ctx.Err() != nil { // by a signal; weft stop ends it without one
		log.Info("the router ended and its tunnel stays up: `weft stop` takes it down")
	}
	return err
}

func newLogger(w io.Writer, c launchConfig) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// serve runs a router and its API until ctx ends or an operation has ended the
// router. started is called once both serve and the router has found its place
// in the mesh, or knows that it must wait; its error ends them. When they end
// before it has returned well, a tunnel device that this launch made is taken
// down again.
func (a *app) serve(ctx context.Context, c launchConfig, log *slog.Logger, started func(greeting []string) error) error {
	o := c.Options
	o.Log = log
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o.DeviceCommand = []string{exe, "device"}
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	_, err = net.InterfaceByName(tunnelLink)
	adopting := err == nil // from a router that crashed: not this launch's to remove

	d, err := a.newDaemon(o)
	if err != nil {
		return err
	}
	srv, err := api.New(api.Options{
		Socket: socketPath(o.RunDir), HTTPAddr: o.HTTPAddr, MetricsAddr: o.MetricsAddr,
		Routes: whenReady(d.Routes(), d.Ready()), Metrics: samples(d), Log: log,
	})
	if err != nil {
		return errors.Join(err, d.Close())
	}
	ready := false
	err = runBoth(ctx, d, srv, func() error {
		err := started(d.Greeting())
		ready = err == nil
		return err
	})
	if !ready && !adopting {
		err = errors.Join(err, a.stopOffline(o))
	}
	if !ready && err == nil { // ended by a signal
		err = context.Cause(ctx)
	}
	return err
}

// runBoth runs the API, then the router. The API comes first so that an address
// that is taken shows before anything is made on the host.
func runBoth(ctx context.Context, d daemon, srv *api.Server, started func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Run(ctx) })
	g.Go(func() error {
		var err error
		select {
		case <-srv.Ready():
			err = d.Run(ctx)
		case <-ctx.Done():
			err = d.Close()
		}
		cancel() // a router that ends takes its API with it; one that panics does not, or the process could end well before it has
		return err
	})
	g.Go(func() error {
		select {
		case <-d.Ready():
			if err := d.Settle(ctx); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
			return started()
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-d.Done():
			cancel()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// whenReady has requests that come early wait until the router serves.
func whenReady(routes []api.Route, ready <-chan struct{}) []api.Route {
	out := make([]api.Route, len(routes))
	for i, r := range routes {
		handle := r.Handle
		r.Handle = func(ctx context.Context, q *api.Request) (any, error) {
			select {
			case <-ready:
				return handle(ctx, q)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		out[i] = r
	}
	return out
}

// samples are the router's figures, none before it serves.
func samples(d daemon) func() []api.Sample {
	return func() []api.Sample {
		select {
		case <-d.Ready():
			return router.Metrics(d.Report())
		default:
			return nil
		}
	}
}
