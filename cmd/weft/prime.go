package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/router"
)

const (
	noteAfter = 2 * time.Second // of waiting before the operator is told why
	noteEvery = 5 * time.Second // between looks whether the reason has changed
)

func newPrimeCmd(a *app) *cobra.Command {
	var alone bool
	cmd := &cobra.Command{
		Use:   "prime [--alone]",
		Short: "Wait until addresses can be allocated",
		Long: `Returns when this host can allocate addresses. It may have to wait for the other
hosts of the mesh; what it waits for is told after two seconds.

A host that was rebooted, or whose state file is an older copy, gives out nothing
new before another host has told it what it may have forgotten. If no other host
can be reached, and this one's state is certain to be the latest, --alone goes on
without. If it is not, addresses may be given twice.`,
		Example: "  weft launch host1 && weft prime && weft attach web",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.blocking(cmd.Context(), func(ctx context.Context) error {
				path := "/ring"
				if alone {
					path += "?alone=true"
				}
				return a.client().Do(ctx, "GET", path, nil, nil)
			})
		},
	}
	cmd.Flags().BoolVar(&alone, "alone", false, "take this host's state for the latest, without hearing from another host")
	return a.socketFlags(cmd)
}

// blocking runs an operation that may have to wait for address space, and tells
// on stderr what for. What the operation prints comes afterwards.
func (a *app) blocking(ctx context.Context, call func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- call(ctx) }() // ends with ctx, as all calls do
	look := time.NewTimer(noteAfter)
	defer look.Stop()
	told := ""
	for {
		select {
		case err := <-done:
			return err
		case <-look.C:
			why := a.reason(ctx)
			select {
			case err := <-done: // while the router was asked
				return err
			default:
			}
			if why != told {
				fmt.Fprint(a.stderr, why)
				told = why
			}
			look.Reset(noteEvery)
		}
	}
}

// reason says what the router waits for, a line each.
func (a *app) reason(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, noteAfter)
	defer cancel()
	var r router.Report
	if err := a.client().Do(ctx, "GET", "/report", nil, &r); err != nil {
		return "" // the operation itself will say
	}
	out := ""
	if r.IPAM != nil && r.IPAM.Status != "" {
		out += fmt.Sprintf("weft: waiting for address space: %s\n", r.IPAM.Status)
	}
	for _, w := range r.Router.Waiting {
		out += fmt.Sprintf("weft: waiting: %s\n", w)
	}
	if out == "" {
		out = "weft: waiting for the router\n"
	}
	return out
}
