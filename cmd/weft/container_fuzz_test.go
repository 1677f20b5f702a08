package main

import (
	"strings"
	"testing"
)

// A container that is taken is a namespace by an absolute path, a process, or
// a name that fits into a path of the API.
func FuzzParseContainer(f *testing.F) {
	for _, s := range []string{"web", "netns:/run/netns/blue", "netns:blue", "netns:", "pid:4711", "pid:-1", "", "a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseContainer(s)
		if err != nil {
			return
		}
		path, netns := strings.CutPrefix(got, "netns:")
		if netns && !strings.HasPrefix(path, "/") || !netns && strings.Contains(got, "/") || got == "" {
			t.Errorf("%q became %q", s, got)
		}
	})
}
