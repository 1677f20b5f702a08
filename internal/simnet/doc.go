// Package simnet is a network in memory: hosts with addresses, streams and
// datagrams between them, and links that lose, delay and are cut, all from one
// seed. It speaks net.Listener, net.Conn and net.PacketConn and knows nothing
// of who uses it.
//
// What it promises to its users:
//
//   - No call blocks for ever on a dead host: a dial to one ends with its
//     context, a datagram to one is lost, as on a real network.
//   - Errors are *net.OpError, with syscall.ECONNREFUSED inside where a real
//     host would have refused, because callers look for them.
//   - Buffers are bounded: a stream's writer waits when 256 KiB are on the way, a
//     full datagram queue drops.
//   - A stream loses nothing: loss delays a segment by a retransmission time, and
//     what is written while the link is cut arrives after it has healed.
//
// It is not a model of bandwidth, of congestion or of routing. A host's crash is
// silent (Crash) or noticed by its peers (Kill, as when a process ends and its
// kernel lives on).
//
// Goroutines: none of its own. Deliveries are timers (time.AfterFunc), so that
// inside a testing/synctest bubble all of it runs in fake time. One mutex per
// Net guards topology and the random source, one per stream direction its
// bytes; the Net's is never taken under a stream's.
package simnet
