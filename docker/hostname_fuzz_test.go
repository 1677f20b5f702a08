package docker

import (
	"strings"
	"testing"
)

// However an engine splits a name, the halves say the same name.
func FuzzSplitHostname(f *testing.F) {
	f.Add("a.weft.local", "")
	f.Add("a", "weft.local")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, hostname, domainname string) {
		host, domain := splitHostname(hostname, domainname)
		if strings.Contains(host, ".") {
			t.Errorf("%q, %q: host %q has a dot", hostname, domainname, host)
		}
		if h, d := splitHostname(host, domain); host != "" && h != host || domain != "" && !strings.HasPrefix(domain, ".") && d != strings.Trim(domain, ".") && host != "" {
			t.Errorf("%q, %q: %q and %q, again %q and %q", hostname, domainname, host, domain, h, d)
		}
	})
}
