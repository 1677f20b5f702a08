// Command coredns is CoreDNS with its hosts plugin alone, for `make bench-dns`. It is a
// module of its own, so that weft's does not depend on it.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/hosts"
)

func main() {
	dnsserver.Directives = []string{"hosts"}
	coremain.Run()
}
