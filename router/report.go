package router

import (
	"net/netip"
	"time"
)

// Report is the whole state of a router as `weft report` prints it. Every slice
// is sorted, so that two reports of the same state are equal byte for byte.
type Report struct {
	Version string
	Router  RouterReport
	IPAM    *IPAMReport `json:",omitempty"` // nil before the first pass
	DNS     *DNSReport  `json:",omitempty"` // nil when started with --no-dns
	// Attachments are the containers that have, or are to get back, an
	// interface on the mesh.
	Attachments []AttachmentReport
}

// RouterReport tells who this host is and whom it knows.
type RouterReport struct {
	ID       string // peer ID, 16 characters
	Nickname string
	Mesh     string // mesh ID; not secret
	Founded  string // "ID(nickname)" of the founder; empty while unknown
	Control  netip.Addr
	Port     int
	Datapath string // "kernel" or "userspace"
	MTU      int    // of the tunnel device, bytes

	Discovery   bool
	Targets     []TargetReport
	Connections []ConnectionReport
	Peers       []PeerReport
	Waiting     []string // what the router waits for, in sentences
	Notices     []string // what an operator should know, in sentences

	Counters []CounterReport // what happened since the start: joins, refusals, repairs
	Rejected []RejectReport  // what members sent that was not taken
	Log      LogReport
}

// RejectReport is how often something of a member was not taken.
type RejectReport struct {
	Peer   string // who sent or wrote it; empty: several, or not known
	Reason string
	Count  uint64
}

// LogReport is how much of the mesh's state this host holds and has under way.
type LogReport struct {
	Hosts, Strangers, Entries, Bytes                int // logs held; bytes as on the wire
	PastBytes                                       int // see mesh.Stats
	DiskQueue, Inbox, Outbox, Relay, Guests, Locals int // see mesh.Stats
	Exchanges, Turns                                int // likewise
}

// CounterReport is how often something happened.
type CounterReport struct {
	Event string
	Count uint64
}

// TargetReport is an address that the operator told this host to keep
// contact with.
type TargetReport struct {
	Address string // as given
	State   string // "connecting", "established", "retrying", "failed"
	Peer    string // peer ID, once known
	Error   string
	Retry   time.Time // zero: no retry is scheduled
}

// ConnectionReport is one tunnel, or one target without a tunnel yet.
type ConnectionReport struct {
	Outbound bool // this host has the peer as a target
	Endpoint string
	State    string // "established", "connecting", "failed", "retrying"
	Peer     string // peer ID, empty while unknown
	Nickname string
	Path     string        // "direct"
	MTU      int           // bytes
	RTT      time.Duration // 0: not measured yet
	Error    string
	Retry    time.Time
	RxBytes  int64
	TxBytes  int64
}

// PeerReport is a member of the mesh, this host included.
type PeerReport struct {
	ID          string
	Nickname    string
	Self        bool
	State       string // "alive", "failed", "left", "unseen"
	Endpoints   []string
	AllowedIPs  []string
	Established bool // the tunnel from here has a live session
}

// IPAMReport is the ring as this host sees it.
type IPAMReport struct {
	Status        string // as in the first table of `weft status`
	Range         string
	DefaultSubnet string
	Owners        []OwnerReport
	Electors      []string // "ID(nickname)" of the hosts that decide about dead ones
	Conflicts     []string
}

// OwnerReport is one host's part of the ring.
type OwnerReport struct {
	ID        string
	Nickname  string
	IPs       uint64
	Percent   float64
	Active    int // addresses in use; known for this host only, else -1
	Reachable bool
}

// DNSReport is the name table and its server.
type DNSReport struct {
	Domain    string
	Addresses []string // where it listens
	Upstream  []string
	TTL       uint32
	Entries   []DNSEntry
}

// DNSEntry is one thing that one name says.
type DNSEntry struct {
	Name      string     // within the domain, or fully qualified outside it
	Type      string     // "A", "AAAA", "SRV", "TXT" or "CNAME"
	Address   netip.Addr // of A and AAAA
	Data      string     `json:",omitempty"` // of the others: "PORT TARGET", the text, the target
	Container string     // container ID; empty for a name without a container
	Peer      string     // peer ID of the host that registered it
	Hidden    bool       // the peer is failed or has stopped: not answered now
	Unhealthy bool       // the container's health check fails: answered only if all of the name are so
}

// AttachmentReport is one container's place on the mesh.
type AttachmentReport struct {
	Container string // full ID, or netns:/path, or pid:N
	Name      string // Docker's name; empty for a bare namespace
	MAC       string
	Addresses []netip.Prefix // address with its subnet's length
	Names     []string
	Running   bool
}
