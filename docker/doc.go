// Package docker is the engine's side of weft: what containers a Docker engine has, and what happens to them.
//
// A [Client] owns the connection to one engine on this host. It answers what a router asks about a container (its process, its name,
// its host name, whose network it has), lists the running ones, and with Watch tells when they start, die, are renamed or removed. It
// changes nothing in the engine, keeps no list of containers, and knows nothing of addresses and names on the mesh. The proxy of the
// engine's API and the network plugin will live here too.
//
// # Nothing is missed
//
// Watch subscribes to the engine's events first and says [Connected] then; a List made after that, and the events, together miss
// nothing. The engine answers a subscription a moment before it takes effect (moby, getEvents), so Watch asks for the events since
// before its own request, out of the engine's memory of the last 256. Hence events may come twice or be older than a List: an event
// says "look at this container again", not what the container is like now.
//
// # Engines
//
// API versions 1.40 (engine 19.03) and later, by negotiation. An engine that comes back may be another version than the one that went
// away, and the client library negotiates only downwards and only once: so every lost connection is followed by a new client. An
// engine that cannot be reached is ErrUnavailable, and Watch keeps trying.
//
// # Goroutines and locks
//
// A Client may be used by any number of goroutines; its one lock guards the pointer to the library's client and is never held during
// a call. Watch blocks, calls back from its caller's goroutine, and has ended the library's goroutine when it returns.
package docker
