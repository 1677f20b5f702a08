// Package ipam shares out weft's address space: who owns which part of the range, and which container has which address.
//
// It owns these things. The [Fact], what a host states about the ring in its log, and its wire form; a grant, which moves address space
// from one host to another, is the most common. The [Ledger], an immutable picture of what all facts together say: the [Ring] of who owns
// what, the council that decides, and what this host has to say next. The [Allocator], which hands out addresses of the space that this
// host may use and remembers what it gave to whom. [ParseAddrArg] reads the address forms of the command line.
//
// It does not talk to anybody and does not remember anything on disk: it is a pure state machine without I/O, clock or goroutine. The
// caller signs and spreads facts, persists allocations before they are used, passes the time in, and says who is alive.
//
// Why no address is given twice: a host allocates only from space that the ring says is its own. Space leaves a host only by that
// host's own grant, which the host knows because it wrote it. So whatever grants the others have or have not received yet, at most one
// host finds itself at the end of an address's chain. Two things are needed from the caller: a grant is durable in the giver's log, and
// the giver's allocator has the ring that contains it, before anything else is allocated on that host; and the answers of [Donate] and
// of the allocator are used one after the other, by one owner of the state.
//
// # The ring
//
// Each address has a chain of grants: the seed, version 1, names its first owner; each later one is from the owner at that point to
// somebody else, of a higher version. A grant that does not continue the chain of an address says nothing about that address, yet (its
// predecessor is still on the way) or for ever (it was a lie). Prefixes are aligned CIDRs, so that what a host owns is a few allowed IPs,
// and grants may be larger or smaller than those before them: versions may have gaps, so that neighbours of different histories go by one
// grant, and are one part again. If two grants continue the same chain at the same version, which needs a host that forgot
// what it had given away, then all hosts agree on the taker with the lowest ID and a [Conflict] says what happened.
//
// The taker of a grant accepts it by a fact of its own, and uses the space from then on.
//
// # The council
//
// Two things need more than one host's word: how a ring begins that is not its founder's alone, and that a dead host's space is
// another's. They are decided by the electors, in numbered instances of single-decree Paxos, one after the other; each is decided by a
// majority of the electors that those before it have left. The founder of the mesh is the first elector; hosts that own space are added,
// by decisions, as they come, and departed or dead ones dropped. So electorates change one decision at a time, and two operators, on two
// sides of whatever, cannot both get a majority. Votes are facts: there are no other messages, and an elector's log is its disk. A host
// promises a ballot only if it agrees with what its proposer intends, for a takeover: if it has seen the host fail, too. The proposer, once
// it has its promises, proposes only what it still wants, and nobody accepts the takeover of a host that it does not see dead.
//
// A takeover that is decided is carried out when every other member has said that it knows of it, or is dead itself: what a member says
// comes after everything that the dead host may have given it, and after that it accepts nothing that the dead host gave. Then the taker
// accepts, by facts, exactly what the dead host still owned. Versions of takeovers outrank all that the dead host may have written.
// What two dead hosts gave each other can be left out by both takers, if they know of different parts of it. When all is carried out, and
// it has heard of the gift, the last taker takes that, too.
// The dead host, if it comes back, finds the decision and may use nothing of what it had; see [Ledger.Usable], [Allocator.Stray].
//
// A takeover by force is no decision, but stands beside them: see [Takeover]. It waits for nobody, so its taker may leave something that it
// has not heard of. That, too, is taken by the last taker, when everybody has said that it knows of all takeovers.
//
// # The base
//
// Facts are never withdrawn, so the council decides now and then a [Base]: what they come to. Facts that it covers can go, see
// [Ledger.Obsolete], and whoever drops them keeps what proves it, see [Ledger.Needs].
//
// What this cannot know: a host that is merely cut off, and taken over because its operator says that it is dead, goes on using its
// addresses on its side; so does one of which no member has ever heard and that the dead host has given space to.
//
// # Wire format of a grant
//
// Big endian: version of the form, 1 byte, here 1; address family, 1 byte, 4 or 6; prefix length, 1 byte; address, 4 or 16 bytes, with
// no bit set behind the prefix; from, 10 bytes, zero for a seed; to, 10 bytes; version of the grant, 4 bytes. Nothing follows. A reader
// refuses forms that it does not know: a later form is a new entry to older hosts, so it must come with a new entry kind or a raised
// protocol version.
//
// # Goroutines and locks
//
// None. A Ring is immutable and may be shared. An Allocator belongs to one goroutine, or to the caller's lock.
package ipam
