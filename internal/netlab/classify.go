package netlab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Class is what a captured frame was taken for.
type Class int

// Classes of frames. Everything that may cross an underlay on purpose has one.
const (
	Other     Class = iota // anything else
	WireGuard              // UDP from or to port 6783 with a WireGuard message in it
	Join                   // TCP from or to port 6783
	ARP
	ICMP
	ICMPv6 // neighbour discovery among it
)

func (c Class) String() string {
	return [...]string{"other", "WireGuard", "join", "ARP", "ICMP", "ICMPv6"}[c]
}

// underlayPort is the only port that weft uses between hosts, UDP and TCP.
const underlayPort = 6783

const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoICMPv6   = 58
	protoOptions  = 60
)

// classify tells what an Ethernet frame is, and describes it in a line when it
// is Other. Frames may be larger than the link's MTU, as veth passes them.
func classify(frame []byte) (Class, string) {
	if len(frame) < 14 {
		return Other, fmt.Sprintf("frame of %d bytes", len(frame))
	}
	body := frame[14:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0806:
		return ARP, ""
	case kind == 0x0800:
		return classifyIPv4(body)
	case kind == 0x86dd:
		return classifyIPv6(body)
	case kind < 0x0600:
		return Other, fmt.Sprintf("802.3 frame to %x", frame[:6])
	default:
		return Other, fmt.Sprintf("frame of EtherType %#04x", kind)
	}
}

// classifyIPv4 reads RFC 791's header.
func classifyIPv4(b []byte) (Class, string) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Other, "broken IPv4 packet"
	}
	head, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	if head < 20 || total < head || len(b) < total {
		return Other, fmt.Sprintf("broken IPv4 packet %v > %v", src, dst)
	}
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return Other, fmt.Sprintf("IPv4 fragment %v > %v", src, dst)
	}
	return classifyTransport(b[9], b[head:total], src, dst)
}

// classifyIPv6 reads RFC 8200's header and skips extension headers.
func classifyIPv6(b []byte) (Class, string) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Other, "broken IPv6 packet"
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, rest := b[6], b[40:]
	if len(rest) < size {
		return Other, fmt.Sprintf("broken IPv6 packet %v > %v", src, dst)
	}
	rest = rest[:size]
	for next == protoHopByHop || next == protoRouting || next == protoOptions {
		if len(rest) < 8 || len(rest) < 8+8*int(rest[1]) {
			return Other, fmt.Sprintf("broken IPv6 packet %v > %v", src, dst)
		}
		next, rest = rest[0], rest[8+8*int(rest[1]):]
	}
	return classifyTransport(next, rest, src, dst)
}

func classifyTransport(proto byte, b []byte, src, dst netip.Addr) (Class, string) {
	switch proto {
	case protoICMP:
		return ICMP, ""
	case protoICMPv6:
		return ICMPv6, ""
	case protoTCP, protoUDP:
	default:
		return Other, fmt.Sprintf("IP protocol %d %v > %v", proto, src, dst)
	}
	name, head := "TCP", 20
	if proto == protoUDP {
		name, head = "UDP", 8
	}
	if len(b) < head {
		return Other, fmt.Sprintf("broken %s packet %v > %v", name, src, dst)
	}
	from, to := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	if from == underlayPort || to == underlayPort {
		if proto == protoTCP {
			return Join, ""
		}
		if isWireGuard(b[head:]) {
			return WireGuard, ""
		}
	}
	return Other, fmt.Sprintf("%s %v > %v", name, netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to))
}

// isWireGuard knows the messages of the WireGuard paper (section 5.4) by type
// and size. Several data messages may come as one packet not yet cut.
func isWireGuard(b []byte) bool {
	if len(b) < 4 || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return false
	}
	switch b[0] {
	case 1: // handshake initiation
		return len(b) == 148
	case 2: // handshake response
		return len(b) == 92
	case 3: // cookie reply
		return len(b) == 64
	case 4: // data: header of 16 bytes, tag of 16 bytes
		return len(b) >= 32
	}
	return false
}
