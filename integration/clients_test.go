package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/netlab"
)

// resolveC asks the C library that it is linked to for all addresses of its argument.
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
	int err = getaddrinfo(argv[1], 0, &hints, &all);
	if (err) { fprintf(stderr, "%s\n", gai_strerror(err)); return 1; }
	for (a = all; a; a = a->ai_next)
		if (a->ai_family == AF_INET)
			puts(inet_ntop(AF_INET, &((struct sockaddr_in *)a->ai_addr)->sin_addr, text, sizeof text));
	return 0;
}`

// TestRealClients has the resolvers that programs use ask for names: of one label with a search domain,
// in full, with AAAA first, with an answer that only TCP can carry, by an alias, and for what does not exist.
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

	const viaPython = `import socket,sys
for a in sorted({x[4][0] for x in socket.getaddrinfo(sys.argv[1], None, proto=socket.IPPROTO_TCP)}): print(a)`
	at := "@169.254.53.1"
	clients := []struct {
		name     string
		cmd      []string // and the name
		searches bool
		some     bool // takes what fits into a packet
	}{
		{"glibc", []string{filepath.Join(dir, "gcc")}, true, false},
		{"musl", []string{filepath.Join(dir, "musl-gcc")}, true, true},
		{"python", []string{"python3", "-c", viaPython}, true, false},
		{"go", []string{"env", probeVar + "=lookup", os.Args[0]}, true, false},
		{"dig", []string{"dig", "+short", "+search", at}, true, false},
		{"dig over tcp", []string{"dig", "+short", "+tcp", at}, false, false},
		{"kdig", []string{"kdig", "+short", at}, false, false},
		{"drill", []string{"drill", "-Q", at}, false, true},
		{"drill over tcp", []string{"drill", "-t", "-Q", at}, false, false},
	}
	slices.Sort(many)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			ask := func(name string) ([]string, error) {
				out, stderr, err := w.Run(append(slices.Clone(c.cmd), name)...)
				if err != nil {
					return nil, fmt.Errorf("%w: %s%s", err, out, stderr)
				}
				var got []string
				for _, f := range strings.Fields(out) {
					if strings.HasPrefix(f, "10.") {
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
			if got, _ := ask("nosuch.weft.local"); len(got) > 0 {
				t.Errorf("a name that does not exist: %v", got)
			}
		})
	}
}
