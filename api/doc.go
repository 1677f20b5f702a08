// Package api serves a router's operations over HTTP and calls them.
//
// It owns the sockets: a UNIX socket (mode 0660) with every operation, a
// loopback TCP address with those that only read, and an address for Prometheus.
// It knows nothing of what the operations do: a router hands it [Route] values,
// a command line calls them through [Client].
//
// What crosses the socket is plain HTTP/1.1 with JSON bodies of at most 1 MiB.
// A request asks for JSON with Accept: application/json; without it an operation
// may answer text. An error is {"error": "…", "hint": "…"} with a 4xx or 5xx
// status. Fields and operations are added, never renamed; a body with a field
// that this version does not know is refused.
//
// Who may connect to the UNIX socket may do everything: there is no further
// authentication. Whoever can reach the loopback address may read, so that it
// serves no secret and checks the Host header, which keeps web pages in a
// browser on this machine from reading it by DNS rebinding.
//
// [Server.Run] owns all goroutines and has ended them when it returns. Handlers
// run on the goroutine of their request, several at a time; their context ends
// when the caller hangs up, which is how a blocked operation is cancelled.
package api
