// Package simnet is a network in memory: hosts with addresses, streams and
// datagrams between them, and links that lose, repeat, delay, reorder and are cut,
// one way or both, all from one seed; and hosts that stand still for a while. It
// counts what each host sends. It speaks net.Listener, net.Conn and net.PacketConn and knows nothing
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
//   - A stream loses nothing, and loss hurts it as it hurts TCP: each lost packet,
//     and each lost SYN of a dial, waits for a timeout that doubles with every
//     further loss, and all behind it waits too. What is written while the link is
//     cut arrives some time after it has healed, at the next such timeout.
//     Acknowledgements travel the other way, and may be lost there: over a link that
//     is cut on the way back a stream stalls when its window is full, and its sender
//     hears nothing.
//   - A host may have an uplink of so many bytes a second (SetUplink). Its streams take
//     turns there, packet by packet; its datagrams do not wait.
//
// Else it is not a model of bandwidth, of congestion or of routing. Two runs with one seed
// draw the same for the n-th packet of each direction; which packet is the n-th, and
// the order of what arrives at the same instant, is up to the users and to Go's scheduler. A host's crash is
// silent (Crash) or noticed by its peers (Kill, as when a process ends and its
// kernel lives on).
//
// Goroutines: none of its own. Deliveries are timers (time.AfterFunc), so that
// inside a testing/synctest bubble all of it runs in fake time. One mutex per
// Net guards topology and the random source, one per stream direction its
// bytes; the Net's is never taken under a stream's.
package simnet
