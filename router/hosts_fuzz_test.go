package router

import (
	"net/netip"
	"strings"
	"testing"
)

// Rewriting a hosts file twice is rewriting it once, and no foreign line is lost.
func FuzzHostsFile(f *testing.F) {
	f.Add("127.0.0.1\tlocalhost\n172.17.0.2\tweb\n# a comment\n", "web")
	f.Add("10.32.0.1\tweb # weft", "web")
	f.Fuzz(func(t *testing.T, old, hostname string) {
		if hostname == "" || strings.ContainsAny(hostname, " \t\r\n\v\f\u0085\u00a0#") || len(strings.Fields(hostname)) != 1 {
			return // no engine has such a host name
		}
		addrs := []netip.Addr{netip.MustParseAddr("10.32.0.1")}
		once := hostsWith(old, hostname, "", addrs)
		if twice := hostsWith(once, hostname, "", addrs); twice != once {
			t.Errorf("%q became %q, and that %q", old, once, twice)
		}
		for line := range strings.Lines(old) {
			if !strings.Contains(line, hostname) && !strings.Contains(line, hostsMark) && !strings.Contains(once, line) {
				t.Errorf("the line %q was lost", line)
			}
		}
	})
}
