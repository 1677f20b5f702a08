// Package host is the door to the kernel's network of the machine that weft
// runs on, the WireGuard peers excepted: the bridge, the containers'
// interfaces, routes, sysctls and the firewall.
//
// It owns the bridge `weft` with 169.254.53.1, the addresses, routes and MTU of
// `weftwg`, one veth pair per attached container (`vwe…` here, `ethwe` there),
// every route of protocol 87, the tables `inet weft` and `bridge weft` of
// nftables, and the rules with the comment `weft` in the tables `ip filter` and
// `ip6 filter`, which belong to others. It does not know who else is in the
// mesh, gives out no addresses, and starts no child process.
//
// # How a packet goes
//
// A container has its address with the length of its subnet but without the
// subnet's route; the subnet is reached by the next hop 169.254.53.1, which
// every host's bridge has. So every unicast packet is routed by the host, and
// passes these checks:
//
//   - table bridge, prerouting: a frame from a container's port must carry that
//     container's MAC and one of its addresses (ARP too).
//   - table bridge, forward: between ports nothing passes but IPv4 multicast and
//     broadcast from a source in the receiver's subnet.
//   - table inet, forward: from `weft` to `weft` or `weftwg`, and from `weftwg` to
//     `weft`, if the other end is in the local container's subnet. Whatever
//     else would enter or leave the mesh is dropped. These packets bypass
//     connection tracking.
//   - table inet, input: containers reach DNS and can ping 169.254.53.1; members
//     of the mesh reach the gossip and join ports of the control address.
//   - table inet, output: the host answers containers as 169.254.53.1, and talks into
//     the tunnel as its control address.
//
// Drops live in tables of our own, since a drop in any table is final. An accept
// there saves nothing from a drop in another table, so accepts also go to the
// head of `ip filter` FORWARD, INPUT and OUTPUT (`ip6 filter` INPUT) when these chains
// exist, in the form that iptables-nft writes and prints. What cannot be opened
// that way (iptables-legacy, firewalld, other nftables chains that drop) is
// reported as a BlockedError, which names the command to type. Questions to the
// name server and its answers are kept out of conntrack where none of those may
// judge by it (untracked.go).
//
// Each covered prefix has a route to `weftwg` and behind it an `unreachable` one
// of worse metric: without the tunnel nothing leaves by the default route.
//
// # Use
//
// Set is given the whole wanted state again and again, and makes the kernel
// match by diff: what is right already is not touched, elements of sets are
// added and removed one by one, and rules change in one transaction, so that no
// packet meets half a firewall. Plans are pure functions (planRoutes, planTable,
// planAccepts); the rest applies them, goes on after an error and joins the
// errors.
//
// Methods work in the network namespace of the calling thread, which is the
// process's. They may be called from any goroutine; a mutex makes Set, Attach,
// Detach and Remove take turns. Only Watch uses goroutines, which end when it
// returns.
package host
