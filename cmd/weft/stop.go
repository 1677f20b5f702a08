package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"weft/api"
	"weft/router"
)

// endTimeout is how long a router may take to end after it has answered that it will.
const endTimeout = 30 * time.Second

func newStopCmd(a *app) *cobra.Command {
	var stateDir string
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop the router and its tunnels",
		Long: `Stops this host's router and takes its tunnels down. Containers keep their
interfaces and addresses, and reach each other on this host; a plain weft launch
brings the rest back. Without a router that runs, what one has left is taken
down.`,
		Example: "  weft stop",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.end(cmd.Context(), "stop", nil, stateDir, a.stopOffline)
		},
	}
	cmd.Flags().StringVar(&stateDir, "state-dir", router.DefaultStateDir, "directory of the router's state")
	return a.socketFlags(cmd)
}

func newResetCmd(a *app) *cobra.Command {
	var stateDir string
	var in struct {
		Force bool `json:"force"`
	}
	cmd := &cobra.Command{
		Use:   "reset [--force]",
		Short: "Leave the mesh and remove everything weft made on this host",
		Long: `Hands this host's address space to another host of the mesh, then removes
everything that weft made here: links, rules, routes and files, the host's
identity among them. Nothing is asked before it. With --force it goes on when
nobody can take the address space, or this host can not prove that its state is
the latest: the space is then lost to the mesh until weft rmpeer takes it.`,
		Example: "  weft reset",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.end(cmd.Context(), "reset", in, stateDir, func(o router.Options) error {
				return a.resetOffline(o, in.Force)
			})
			if err == nil {
				fmt.Fprintln(a.stderr, "weft: nothing of weft is left on this host")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&in.Force, "force", false, "reset even if nobody takes over the address space")
	cmd.Flags().StringVar(&stateDir, "state-dir", router.DefaultStateDir, "directory of the router's state")
	return a.socketFlags(cmd)
}

// end has the router carry out an operation that ends it and waits until its
// process has gone, so that a launch right after finds the place free. When no
// router runs, offline does what can be done without one.
func (a *app) end(ctx context.Context, verb string, in any, stateDir string, offline func(router.Options) error) error {
	c := a.client()
	p, err := c.Process(ctx)
	withoutRouter := func() error {
		if err := a.needRoot(verb); err != nil {
			return err
		}
		o := router.Options{Version: version, RunDir: a.runDir, StateDir: stateDir}
		if err := offline(o); err != nil {
			return err
		}
		fmt.Fprintln(a.stderr, "weft: no router was running")
		return nil
	}
	if errors.Is(err, api.ErrNotRunning) {
		return withoutRouter()
	}
	if err != nil {
		return err
	}
	defer p.Close()
	var raw json.RawMessage
	err = c.Do(ctx, "POST", "/"+verb, in, &raw)
	wait, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if errors.Is(err, api.ErrHungUp) && p.Wait(wait) == nil {
		return withoutRouter() // it was killed; what it had begun is finished
	}
	if err != nil {
		return err
	}
	a.warn(raw)
	if err := p.Wait(wait); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fail("its log says why: "+filepath.Join(a.runDir, "router.log"),
			"the router has carried out %s, but its process has not ended in %v", verb, endTimeout)
	}
	return nil
}
