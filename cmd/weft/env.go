package main

import (
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envName is the environment variable that is the default of a flag.
func envName(flag string) string {
	return "WEFT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnv gives the flags that were not typed the values of their environment
// variables. An empty variable is a value for a flag that takes text, since
// there it means "none"; elsewhere it counts as unset.
func (a *app) applyEnv(cmd *cobra.Command) error {
	a.fromEnv = map[string]bool{}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, set := os.LookupEnv(envName(f.Name))
		if !set || f.Changed || f.Name == "help" || value == "" && f.Value.Type() != "string" {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
				err = badValue(bad)
			}
			errs = append(errs, usage(cmd, "environment variable %s: %w", envName(f.Name), err))
			return
		}
		a.fromEnv[f.Name] = true
	})
	return errors.Join(errs...)
}
