package api

import (
	"slices"
	"strings"
)

// Hints collects the hints, line by line and each once, of every error in the
// tree that has a method Hint() string.
func Hints(err error) []string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		if h, ok := err.(interface{ Hint() string }); ok {
			for l := range strings.Lines(h.Hint()) {
				if l = strings.TrimSpace(l); l != "" && !slices.Contains(out, l) {
					out = append(out, l)
				}
			}
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			if inner := u.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range u.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	return out
}
