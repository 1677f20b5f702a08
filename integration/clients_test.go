package integration

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/netlab"
)

// resolveC asks the C library that it is linked to for all addresses of its argument; of IPv6 if there is another.
const resolveC = `
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
	struct addrinfo hints, *all, *a;
	char text[64];
	memset(&hints, 0, sizeof hints);
	hints.ai_socktype = SOCK_STREAM;
	if (argc > 2) hints.ai_family = AF_INET6;
	int err = getaddrinfo(argv[1], 0, &hints, &all);
	if (err) { fprintf(stderr, "%s\n", gai_strerror(err)); return 1; }
	for (a = all; a; a = a->ai_next)
		if (a->ai_family == AF_INET)
			puts(inet_ntop(AF_INET, &((struct sockaddr_in *)a->ai_addr)->sin_addr, text, sizeof text));
		else
			puts(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)a->ai_addr)->sin6_addr, text, sizeof text));
	return 0;
}`

// TestRealClients has the resolvers that programs use ask for names: of one label with a search domain,
// in full, with AAAA first, with an answer that only TCP can carry, by an alias, for a name of IPv6 only, for a family that
// a name does not have, and for what does not exist: both of these they are to be told, and not to guess from silence.
func TestRealClients(t *testing.T) {
	netlab.Require(t, "root", "busybox", "dig", "kdig", "drill", "python3", "gcc", "musl-gcc")
	dir := t.TempDir()
	source := filepath.Join(dir, "resolve.c")
	if err := os.WriteFile(source, []byte(resolveC), 0o644); err != nil {
		t.Fatal(err)
	}
	lab := newLab(t)
	hs := newHosts(t, lab, netlab.HostOptions{}, "host1")
	for _, cc := range []string{"gcc", "musl-gcc"} {
		if out, stderr, err := hs[0].Run(cc, "-o", filepath.Join(dir, cc), source); err != nil {
			t.Fatalf("%s: %v\n%s%s", cc, err, out, stderr)
		}
	}
	do(t, hs[0], "launch")
	do(t, hs[0], "prime")
	w := attachWorkload(t, hs[0], "web")
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.33.0.%d", i+1))
	}
	do(t, hs[0], append(append([]string{"dns-add"}, many...), "-h", "many.weft.local")...)
	do(t, hs[0], "dns-add", "--cname", "web", "-h", "www.weft.local")

	do(t, hs[0], "dns-add", "fd00::6", "-h", "six.weft.local")

	const viaPython = `import socket,sys
family = socket.AF_INET6 if len(sys.argv) > 2 else 0
for a in sorted({x[4][0] for x in socket.getaddrinfo(sys.argv[1], None, family, proto=socket.IPPROTO_TCP)}): print(a)`
	at := "@169.254.53.1"
	clients := []struct {
		name     string
		cmd      []string // and the name, and AAAA
		searches bool
		some     bool // takes what fits into a packet
		// What it says of a name that does not exist, and of one that has nothing of the family; empty: it tells no difference.
		unknown, nothing string
	}{
		{"glibc", []string{filepath.Join(dir, "gcc")}, true, false, "Name or service not known", "No address associated with hostname"},
		{"musl", []string{filepath.Join(dir, "musl-gcc")}, true, true, "Name does not resolve", ""},
		{"python", []string{"python3", "-c", viaPython}, true, false, "Name or service not known", "No address associated with hostname"},
		{"go", []string{"env", probeVar + "=lookup", os.Args[0]}, true, false, "no such host", ""},
		{"dig", []string{"dig", "+short", "+search", at}, true, false, "status: NXDOMAIN", "status: NOERROR"},
		{"dig over tcp", []string{"dig", "+short", "+tcp", at}, false, false, "status: NXDOMAIN", "status: NOERROR"},
		{"kdig", []string{"kdig", "+short", at}, false, false, "status: NXDOMAIN", "status: NOERROR"},
		{"drill", []string{"drill", "-Q", at}, false, true, "rcode: NXDOMAIN", "rcode: NOERROR"},
		{"drill over tcp", []string{"drill", "-t", "-Q", at}, false, false, "rcode: NXDOMAIN", "rcode: NOERROR"},
	}
	slices.Sort(many)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			ask := func(question ...string) ([]string, error) {
				out, stderr, err := w.Run(append(slices.Clone(c.cmd), question...)...)
				if err != nil {
					return nil, fmt.Errorf("%w: %s%s", err, out, stderr)
				}
				var got []string
				for _, f := range strings.Fields(out) {
					if _, err := netip.ParseAddr(f); err == nil {
						got = append(got, f)
					}
				}
				slices.Sort(got)
				return slices.Compact(got), nil
			}
			names := []string{"web.weft.local", "WEB.weft.LOCAL", "www.weft.local"}
			if c.searches {
				names = append(names, "web", "www")
			}
			for _, name := range names {
				if got, err := ask(name); err != nil || !slices.Equal(got, []string{w.addr}) {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			}
			got, err := ask("many.weft.local")
			if err != nil || !c.some && !slices.Equal(got, many) || len(got) < 20 {
				t.Errorf("200 addresses: %d, %v", len(got), err)
			}
			if got, err := ask("six.weft.local", "AAAA"); err != nil || !slices.Equal(got, []string{"fd00::6"}) {
				t.Errorf("an IPv6 address: %v, %v", got, err)
			}
			// All that it prints: what says why is not among what it prints when told to be short.
			long := slices.DeleteFunc(slices.Clone(c.cmd), func(arg string) bool { return arg == "+short" || arg == "-Q" })
			for _, none := range []struct{ name, family, want string }{
				{"nosuch.weft.local", "", c.unknown}, {"web.weft.local", "AAAA", c.nothing},
			} {
				out, stderr, _ := w.Run(append(slices.Clone(long), strings.Fields(none.name+" "+none.family)...)...)
				if !strings.Contains(out+stderr, none.want) {
					t.Errorf("%s %s: no %q:\n%s%s", none.name, none.family, none.want, out, stderr)
				}
				if got, _ := ask(strings.Fields(none.name + " " + none.family)...); none.want != "" && len(got) > 0 {
					t.Errorf("%s %s: %v", none.name, none.family, got)
				}
			}
		})
	}
}
