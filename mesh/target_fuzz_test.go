package mesh

import (
	"net"
	"testing"
)

// A target that is taken can be dialled, and reads as itself again.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"host1", "host1:7000", "192.0.2.1", "[2001:db8::1]:6783", "2001:db8::1", "[::1", "h:0", "a b:1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s, DefaultPort)
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(got); err != nil {
			t.Errorf("%q became %q: %v", s, got, err)
		}
		if again, err := parseTarget(got, DefaultPort); err != nil || again != got {
			t.Errorf("%q became %q, and that %q (%v)", s, got, again, err)
		}
	})
}
