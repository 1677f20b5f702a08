// Package fdkeep holds duplicates of another process's sockets, so that what
// comes to them waits, instead of being refused, while that process is restarted.
//
// [Serve] is the holder: the tunnel device's process, which outlives the router. [Client] is the
// router's side. Each operation is a connection of its own to a UNIX socket (0600) of type
// SOCK_SEQPACKET, with one packet as question and one or several as answer:
//
//	"T"               an answer "F" NAME for each that is held, its descriptor with it (SCM_RIGHTS), and then "."
//	"L"               "." NAME\n NAME\n …
//	"K" NAME          with a descriptor, which is held from now on in place of one of that name; "."
//	"D" NAME          it is closed; "."
//
// A packet that is none of these is answered by "?". The protocol is between one version of weft and the next: operations may be
// added, and a holder that does not know one says so.
//
// It knows nothing of what the sockets are for. Serve ends its goroutines, and closes all
// that it holds, before it returns.
package fdkeep
