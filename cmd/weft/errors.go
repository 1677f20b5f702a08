package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/api"
)

// failure is an error with the way out of it. Other packages have types of their
// own for that: what counts is the method Hint.
type failure struct {
	err   error
	hints []string
}

func fail(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hints: []string{hint}}
}

func (e *failure) Error() string { return e.err.Error() }
func (e *failure) Unwrap() error { return e.err }
func (e *failure) Hint() string  { return strings.Join(e.hints, "\n") }

// usageError is a command line that cannot be carried out as it is typed.
type usageError struct{ failure }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return usageHint(cmd, "", format, args...)
}

// usageHint is usage with a hint of its own before the one at the verb's help.
func usageHint(cmd *cobra.Command, hint, format string, args ...any) error {
	e := &usageError{failure{err: fmt.Errorf(format, args...)}}
	if hint != "" {
		e.hints = append(e.hints, hint)
	}
	e.hints = append(e.hints, seeHelp(cmd))
	return e
}

func seeHelp(cmd *cobra.Command) string {
	return strings.TrimSpace("see: weft help " + strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "weft"), " "))
}

// asUsage gives cobra's complaints about a command line their hint.
func asUsage(cmd *cobra.Command, err error) error {
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	if rest, ok := strings.CutPrefix(err.Error(), "unknown command "); ok {
		if q, qerr := strconv.QuotedPrefix(rest); qerr == nil {
			name, _ := strconv.Unquote(q)
			return unknownVerb(cmd, name)
		}
	}
	return usage(cmd, "%w", err)
}

// unknownVerb says which verb may have been meant.
func unknownVerb(cmd *cobra.Command, name string) error {
	if err := missingVerb(cmd, name); err != nil {
		return err
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			names = append(names, c.Name())
		}
	}
	return usageHint(cmd, didYouMean(name, names), "unknown verb %q", name)
}

// flagError explains what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usage(cmd, "--%s: %w", bad.GetFlag().Name, badValue(bad))
	}
	if empty, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usage(cmd, "%s needs a value", dashed(empty.GetSpecifiedName()))
	}
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return usage(cmd, "%w", err)
	}
	name := unknown.GetSpecifiedName()
	if err := missingFlag(cmd, name); err != nil {
		return err
	}
	if len(name) < 2 {
		return usage(cmd, "unknown flag: %s", dashed(name))
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	return usageHint(cmd, didYouMean("--"+name, names), "%w", err)
}

// badValue says what kind of value a flag wants: strconv's words are for programmers.
func badValue(bad *pflag.InvalidValueError) error {
	value := bad.GetValue()
	switch kind := bad.GetFlag().Value.Type(); {
	case errors.Is(bad, strconv.ErrRange):
		return fmt.Errorf("%s is too large", value)
	case kind == "int":
		return fmt.Errorf("%q is not a whole number", value)
	case kind == "uint32":
		return fmt.Errorf("%q is not a whole number from 0 up", value)
	case kind == "bool":
		return fmt.Errorf("%q is neither true nor false", value)
	case kind == "duration":
		return fmt.Errorf("%q is not a time such as 5s or 1m30s", value)
	case kind == "stringSlice":
		return fmt.Errorf("%q is not a list with commas between its items", value)
	}
	return errors.Unwrap(bad)
}

// didYouMean returns "did you mean x?" for the nearest of the names, or "".
func didYouMean(typed string, names []string) string {
	best, least := "", 3
	for _, n := range slices.Sorted(slices.Values(names)) {
		d := distance(typed, n)
		if strings.HasPrefix(n, typed) && len(typed) > 2 {
			d = min(d, 2)
		}
		if d < least {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// distance is how many insertions, deletions, replacements and swaps of
// neighbours turn a into b (optimal string alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
		for j := range d[i] {
			switch {
			case i == 0:
				d[i][j] = j
			case j > 0:
				differ := 1
				if a[i-1] == b[j-1] {
					differ = 0
				}
				d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+differ)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
	}
	return d[len(a)][len(b)]
}

// exitCode is 2 for a command line that was wrong, 1 for one that failed.
func exitCode(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	return 1
}

// printError writes an error and its hints for an operator, a line each.
func printError(w io.Writer, err error) {
	text := err.Error()
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	for _, line := range lines(text) {
		fmt.Fprintf(w, "weft: error: %s\n", line)
	}
	for _, h := range api.Hints(err) {
		fmt.Fprintf(w, "weft: hint: %s\n", h)
	}
}

// lines splits a text, leaving out the empty ones.
func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}
