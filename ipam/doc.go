// Package ipam shares out weft's address space: who owns which part of the range, and which container has which address.
//
// It owns three things. Grants, the entries that move address space from one host to another, and their wire form. The [Ring], an
// immutable picture of who owns what, folded from any set of grants in any order. The [Allocator], which hands out addresses of the
// space that this host owns and remembers what it gave to whom. [ParseAddrArg] reads the address forms of the command line.
//
// It does not talk to anybody and does not remember anything on disk: it is a pure state machine without I/O, clock or goroutine. The
// caller signs and spreads grants, persists allocations before they are used, and passes the time in. It does not check who wrote a
// grant beyond [SignedGrant.Check], and it does not know which hosts are alive.
//
// Why no address is given twice: a host allocates only from space that the ring says is its own. Space leaves a host only by that
// host's own grant, which the host knows because it wrote it. So whatever grants the others have or have not received yet, at most one
// host finds itself at the end of an address's chain. Two things are needed from the caller: a grant is durable in the giver's log, and
// the giver's allocator has the ring that contains it, before anything else is allocated on that host; and the answers of [Donate] and
// of the allocator are used one after the other, by one owner of the state.
//
// # The ring
//
// Each address has a chain of grants: the seed, version 1, names its first owner; version n+1 is from the owner of version n to
// somebody else. A grant that does not continue the chain of an address says nothing about that address, yet (its predecessor is still
// on the way) or for ever (it was a lie). Prefixes are aligned CIDRs, so that what a host owns is a few allowed IPs, and grants may be
// larger or smaller than those before them. If two grants continue the same chain at the same version, which needs a host that forgot
// what it had given away, then all hosts agree on the taker with the lowest ID and a [Conflict] says what happened.
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
