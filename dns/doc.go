// Package dns answers names for containers: a table of the mesh's names held in
// memory, and a DNS server in front of it.
//
// It owns the sockets that it was told to listen on and nothing else. The table
// is made elsewhere: a [Table] is immutable, [Table.Edit] makes a changed one at a cost that
// does not depend on its size, [Server.SetTable] swaps a pointer, and a question reads that
// pointer once, so that lookups take no lock and an answer never mixes two states.
//
// What is answered here: A, AAAA, PTR, SRV, TXT, CNAME and wildcards, SOA and NS, for names of the
// domain and addresses of the table's ranges. A known name without the asked type
// gets NODATA, an unknown one NXDOMAIN, both with the SOA (RFC 2308). A name of
// one label that the table knows within the domain is answered as it was asked,
// for resolvers that do not search. Everything else goes to the upstream servers,
// over UDP and then TCP, with IDs and ports of our own, comes from a cache if it is there, and
// comes back as SERVFAIL in time when nobody answers. With other servers in resolv.conf the cache begins anew.
//
// What is refused: classes other than IN, zone transfers, strangers (see
// [Options].Allow), everything but queries. It does not validate
// DNSSEC, and is no resolver: without upstream servers it knows the mesh only.
//
// Plain queries are read and answered without the library ([query.parse], [Table.answer]), over UDP in batches
// and without allocation; all others go through it. Of the questions on one TCP connection, those for upstream servers
// are answered beside the others and in any order (RFC 7766), so many at a time of one client on all its connections; what takes a
// processor is done for one connection of a client at a time.
//
// Goroutines and locks: [New] starts nothing. [Server.Run] serves until its context
// ends and owns every goroutine; [Server.SetListen] binds at once, before or during Run,
// under a mutex that no question takes. A packet of any bytes gets one right
// answer or silence.
//
// The wire format is that of RFC 1035, with EDNS (RFC 6891) and answers of at
// most 1,232 bytes over UDP. The package is the only user of miekg/dns.
package dns
