package main

import (
	"context"
	"log/slog"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/fdkeep"
	"weft/peer"
	"weft/router"
)

// newDeviceCmd is the hidden verb that runs a userspace tunnel device in a
// process of its own, so that it outlives the router.
func newDeviceCmd(a *app) *cobra.Command {
	var o peer.ServeOptions
	cmd := &cobra.Command{
		Use:    "device --interface name",
		Short:  "Run a userspace tunnel device (started by the router)",
		Hidden: true,
		Args:   args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Interface == "" {
				return usageHint(cmd, "the router starts it when the kernel has no WireGuard", "--interface is needed")
			}
			o.Log = slog.New(slog.NewTextHandler(a.stderr, nil)) // device.log
			signal.Ignore(syscall.SIGHUP)                        // it outlives whatever terminal its starter had
			return serveDevice(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Interface, "interface", "", "name of the link")
	cmd.Flags().IntVar(&o.MTU, "mtu", 0, "MTU in bytes at the start")
	cmd.Flags().StringVar(&o.RunDir, "run-dir", router.DefaultRunDir, "directory for device.pid")
	return cmd
}

// serveDevice runs the device, and holds the router's DNS sockets for as long as it does. That it
// can't hold them is no reason to have no tunnels.
func serveDevice(ctx context.Context, o peer.ServeOptions) error {
	var holding sync.WaitGroup
	defer holding.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	holding.Go(func() {
		if err := fdkeep.Serve(ctx, router.SocketHolder(o.RunDir)); err != nil {
			o.Log.Warn("hold the name server's sockets", "err", err)
		}
	})
	return peer.Serve(ctx, o)
}
