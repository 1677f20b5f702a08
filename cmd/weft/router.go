package main

import (
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// newRouterCmd is the hidden verb that `weft launch` runs in the background.
func newRouterCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "router",
		Short:  "Run a router in the background (started by weft launch)",
		Hidden: true,
		Args:   args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGHUP)
			return a.child(cmd.Context())
		},
	}
}
