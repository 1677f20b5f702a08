// Package peer is who a host is, and its WireGuard device.
//
// It owns: the identity of a host (an Ed25519 key and two X25519 keys in one
// file), the peer ID and the control address that follow from it, the proof that
// a WireGuard key is an identity's (XEdDSA), the device "weftwg" with its peers
// and their allowed IPs, and the choice of the endpoint at which a peer is tried.
// It is the only door to wgctrl and wireguard-go.
//
// It refuses: links, addresses, routes and MTU changes (package host), what a
// peer should be allowed (package router), and every judgement about
// membership (package mesh).
//
// # The device
//
// A device is WireGuard of the kernel where the kernel has it, otherwise
// wireguard-go in a process of its own ([Serve], the hidden verb "weft device").
// Both are driven through wgctrl and differ only in how they are made and
// ended. Neither belongs to the router: [Open] adopts a device that lives, and
// [Device.Close] leaves it running, so that a crash or an upgrade of the router
// loses no packet. The private key reaches the device through the control
// socket only, never by argument, environment or log.
//
// [Device.Set] takes the whole wanted list of peers and makes the difference by
// small steps, one peer each. A peer that is as wanted is not touched, so its
// session lives on; an allowed IP that changes hands goes over in one step.
//
// # The identity file
//
// DIR/identity, mode 0600, text, one field a line:
//
//	weft-identity 1
//	ed25519 BASE64     the seed; the peer ID is base32 of 80 bits of SHA-256(public key)
//	wireguard BASE64   X25519 private key of the device
//	join BASE64        X25519 private key of the join handshake
//	check HEX          first 8 bytes of SHA-256 over the lines above
//
// A later format gets a higher number in its first line; this one stays readable.
//
// # Goroutines and locks
//
// Serve ends its goroutines before it returns (one that waits inside
// wireguard-go's socket listener ends with the process). Each call of wgctrl has
// a goroutine and a time limit, so that a device process that hangs gives an
// error; at most one such call is left behind per Device, until that process
// goes on or dies. Device and Paths have a mutex each and may be used by several
// goroutines.
package peer
