package router

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Rewriting a hosts file twice is rewriting it once, no foreign line is lost, and all are back in the end.
func FuzzHostsFile(f *testing.F) {
	f.Add("127.0.0.1\tlocalhost\n172.17.0.2\tweb\n# a comment\n", "web")
	f.Add("10.32.0.1\tweb # weft", "web")
	f.Add(hostsWas+hostsWas+"10.32.0.1\tweb", "web")
	f.Add("10.1.1.1\tdb # backend of web\n# the web server\n10.1.1.2\twebmail#\n", "web")
	f.Fuzz(func(t *testing.T, old, hostname string) {
		if hostname == "" || strings.ContainsAny(hostname, " \t\r\n\v\f\u0085\u00a0#") || len(strings.Fields(hostname)) != 1 {
			return // no engine has such a host name
		}
		addrs := []netip.Addr{netip.MustParseAddr("10.32.0.1")}
		once := hostsWith(old, hostname, "", addrs)
		if twice := hostsWith(once, hostname, "", addrs); twice != once {
			t.Errorf("%q became %q, and that %q", old, once, twice)
		}
		if back := hostsWith(once, hostname, "", nil); !strings.Contains(old, hostsMark) && back != old {
			t.Errorf("%q came back as %q", old, back)
		}
		for line := range strings.Lines(old) {
			entry, _, _ := strings.Cut(line, "#")
			names := append(strings.Fields(entry), "")[1:]
			if !slices.Contains(names, hostname) && !strings.HasSuffix(strings.TrimSpace(line), hostsMark) && !strings.HasPrefix(line, hostsWas) && !strings.Contains(once, line) {
				t.Errorf("the line %q was lost", line)
			}
		}
	})
}
