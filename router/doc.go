// Package router composes weft: it owns the state of one host and makes the
// host, its tunnels and its names match it.
//
// # Flow
//
// Inputs only change state: gossip (package mesh) replaces its snapshot, the
// container engine (package docker) and the operator change attachments, the
// kernel (package host) reports drift. Every input ends with a poke. One loop,
// reconcile, then reads all of the state, turns it into a Plan with a pure
// function (plan.go) and hands the plan to the appliers: peer.Device,
// host.Host, dns.Server and, for this host's own names, mesh.Append. Appliers
// take the whole wanted state and work by diff, so that the loop may run at any
// time and any number of times. It also runs every 30 s.
//
// # Order at start
//
// A router that starts beside a living tunnel device (after a crash or an
// upgrade) changes nothing before it has loaded what it knew: the logs of all
// hosts, its attachments, and which of their containers still live. Its first
// plan is therefore the one that its predecessor had applied.
//
// # Durability
//
// What other hosts or containers rely on is on disk before it is used: grants
// and names in this host's log (package mesh), attachments with their addresses
// in the bucket "attach", names without a container in "static", who founded
// the mesh in "router". The secret is in the file STATE-DIR/token.
//
// # Goroutines and locks
//
// Run starts everything and returns when all of it has ended. mu guards the
// attachments, the static names and the allocator. applyMu lets one pass apply
// at a time; a pass never holds mu while it acts on the host. Package mesh calls
// into tunnel.go from its own goroutines; these paths take applyMu only and
// never call mesh.Append.
//
// The router does not speak to the kernel, to Docker or to WireGuard itself.
package router
