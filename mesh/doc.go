// Package mesh is membership and replicated state: who is in the mesh, how a
// host gets in, and a signed log per host of which every host holds all.
//
// It owns the secret and what is derived from it, the join port, gossip
// (memberlist, on the control address, inside the tunnels) and the logs. It does
// not make tunnels, interpret payloads beyond host records, or decide whose
// address or name is whose: the router does, from State.
//
// It refuses: a wrong secret, a host record or entry that is not signed by its
// host or not admitted by the secret, an identity that runs on two hosts, a host
// of a mesh founded apart, entries over an author's quota, and connections over
// their rate or number. Each refusal is an error on both sides (State.Notices,
// Target.Err, the log) and a counter; what a member sends that is not taken is
// counted by member and reason (Rejections).
//
// # How a host joins
//
// A dialled connection to the join port becomes a Session (session_handshake.go),
// which proves the secret both ways. Then, each a message:
//
//	server: hello     who I am, which mesh I know, where I see you
//	client: hello     the same, and what for: join, sync, call or probe
//	server: verdict   go on, or why not
//	client: verdict   likewise
//
// Both judge. A boot nonce that is new for a known identity is a restart, unless
// the former start, challenged at its last endpoints (purpose probe), still
// answers. For a join or a sync the logs are exchanged next; for a join both
// then make the tunnel, and the client meets the server's gossip through it.
//
// # Wire formats
//
// All are versioned by their first byte, big endian, and described where they
// are encoded: Token, Record, Entry, Begin, Founding, hello, Refusal. After the
// verdicts a message is a type and a body:
//
//	1 root     32      SHA-256 over author 10 | epoch 8 | seq 8 | sum 8 of each effective log that counts, by
//	                   author; behind each, epoch 8 | sum 8 of those that lack its grants
//	2 digest   marks   author 10 | epoch 8 | seq 8 | sum 8 | next epoch 8 | its entries 8, by author
//	3 entries          length u16, entry … at most 256 KiB and one entry; this release sends 16 KiB
//	4 done             no more entries
//	5 ready            a verdict: the server has taken it all, and has made the tunnel if it was a join
//	6 call             length u8, method | body
//	7 reply            u8 0, body | u8 1, error text
//
// The mark of a forked log has the sum ff…, that of one that was removed 0 and the
// place of its departure. Neither log counts in a root, nor that of a departed host.
// An exchange is root from client and server; if they differ, digest from client
// and server, entries… done from the server, entries… done from the client.
// Datagrams of ours go between the control addresses, on memberlist's port: 0x77,
// then 1 (direct) or 2 (to be handed on) and entries as in 3, or 3 and a root;
// at most 1,100 bytes. memberlist's node name is the ID's 16
// characters, a slash and 16 hex digits of the boot nonce; its meta is the Record.
// Extensions of a Record: 1 the host stops (empty), 2 its join port (u16), 3 its tunnel
// device (u64, see Options.Device), 4 the proof that it has its WireGuard key (64 bytes,
// see peer.VerifyKeyProof). Of a hello: 1 the founder's nickname.
//
// Unknown entry kinds and extensions are kept and forwarded; unknown message
// types and purposes end a session; a newer first byte is refused by number.
//
// # Logs
//
// A host writes its own log only. Each start opens an epoch with a snapshot,
// whose size its Begin tells. Per host the highest epoch with a whole snapshot
// counts, and of it the entries without a gap; older epochs are dropped. An epoch
// that lacks a grant which an older one has does not take effect: its author is
// told what it has forgotten (its disk was put back; see past.go) and opens another
// one. Until then the grants of both count. Grants
// on which nothing rests any more can be left out: the epoch names those that it
// takes, see withdrawal.go.
// This host's own entries are on disk before they are sent. They go straight to
// up to 64 live hosts, three times within 200 ms; in a larger mesh those hand them
// on. Whatever is lost is found by roots: every second a host tells a random live
// one its own, and who sees another one than it has exchanges logs with the sender.
// Two hosts have one exchange at a time; a host serves 8 through the tunnel and 8 on
// the underlay, and the others wait for their turn: talk.go. What has come is kept,
// however an exchange ends.
// The log of a host that has signed its departure is removed after a day. Hosts that
// this one has never met share a part of the places and of the bytes: stranger.go.
//
// # Goroutines and locks
//
// New starts nothing. Run starts the listeners with a goroutine per session, the
// dialler with at most 320 dials of hosts and some more of targets, of which 32 at a
// time exchange logs or make a tunnel, at most 2 exchanges of logs that differ and some
// more when the host stops or learns which mesh it is in, and one goroutine each for
// liveness, gossip's inbox and outbox, roots, the disk and the own record; all have
// ended when Run returns,
// but for memberlist's own, which end with their timers within seconds.
//
// Mesh.mu guards all state and is never held while calling out: not into
// memberlist (which calls the delegate with its node lock held: the delegate
// merges under mu and pokes), not into Store, Tunnel, Handler, OnChange or the
// base. Mesh.writing serializes writers of the own log across the disk, and is
// taken before mu. State is an immutable snapshot behind an atomic pointer.
//
// Time is used for retries, limits and liveness only; no decision about content
// depends on a clock.
package mesh
