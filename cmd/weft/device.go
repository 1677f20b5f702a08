package main

import (
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

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
			return peer.Serve(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Interface, "interface", "", "name of the link")
	cmd.Flags().IntVar(&o.MTU, "mtu", 0, "MTU in bytes at the start")
	cmd.Flags().StringVar(&o.RunDir, "run-dir", router.DefaultRunDir, "directory for device.pid")
	return cmd
}
