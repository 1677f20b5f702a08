package peer

import "net/netip"

// ControlAddr is a host's own address inside the mesh: fd, 40 bits of the mesh
// ID, 80 bits of peer ID. That is a ULA (RFC 4193) whose global ID is the mesh's
// and whose subnet and interface ID are the peer's.
func ControlAddr(mesh [5]byte, id ID) netip.Addr {
	a := [16]byte{0: 0xfd}
	copy(a[1:6], mesh[:])
	copy(a[6:], id[:])
	return netip.AddrFrom16(a)
}

// ControlPrefix is the /48 of all control addresses of a mesh.
func ControlPrefix(mesh [5]byte) netip.Prefix {
	return netip.PrefixFrom(ControlAddr(mesh, ID{}), 48)
}
