// Package integration tests weft from outside: the built binary on several
// hosts, each a set of namespaces with, where a story needs it, a real Docker
// engine of its own. It knows the command line and the wire, and nothing of the
// code. Its tests need root; they are skipped for a developer without it and
// fail when CI=true.
//
// Labs run beside each other. The longest stories are in the first files by name,
// since the order in which Go begins parallel tests follows that by and large,
// and what is begun last is waited for alone.
package integration
