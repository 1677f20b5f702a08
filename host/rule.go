package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is one nftables rule: the text that nft(8) lists for it, and what the
// kernel runs. A test compares the one with the other.
type rule struct {
	text    string
	comment string
	exprs   []expr.Any
}

func (r rule) String() string {
	if r.comment == "" {
		return r.text
	}
	return fmt.Sprintf("%s comment %q", r.text, r.comment)
}

// match is a part of a rule. needs are protocol checks that must come first for
// the offsets to mean what they should; a rule holds each only once.
type match struct {
	text  string
	needs []string
	exprs []expr.Any
}

// newRule joins matches; the last one is a verdict.
func newRule(comment string, parts ...match) rule {
	r := rule{comment: comment}
	var texts, done []string
	for _, p := range parts {
		for _, n := range p.needs {
			if !slices.Contains(done, n) {
				done = append(done, n)
				r.exprs = append(r.exprs, protocols[n]...)
			}
		}
		texts = append(texts, p.text)
		r.exprs = append(r.exprs, p.exprs...)
	}
	r.text = strings.Join(texts, " ")
	return r
}

// Registers as nft(8) numbers them: 1 to 4 are 16 bytes each; 9 and 14 are the
// second word of the first and the third of the second, where the next part of a
// concatenation goes (each part is padded to words of 4 bytes).
const (
	reg1      = unix.NFT_REG_1
	reg2      = unix.NFT_REG_2
	afterWord = unix.NFT_REG32_01
	afterMAC  = unix.NFT_REG32_06
)

var protocols = map[string][]expr.Any{
	"ip":     {meta(expr.MetaKeyNFPROTO, reg1), equal(unix.NFPROTO_IPV4)},
	"ip6":    {meta(expr.MetaKeyNFPROTO, reg1), equal(unix.NFPROTO_IPV6)},
	"tcp":    {meta(expr.MetaKeyL4PROTO, reg1), equal(unix.IPPROTO_TCP)},
	"udp":    {meta(expr.MetaKeyL4PROTO, reg1), equal(unix.IPPROTO_UDP)},
	"icmp":   {meta(expr.MetaKeyL4PROTO, reg1), equal(unix.IPPROTO_ICMP)},
	"icmpv6": {meta(expr.MetaKeyL4PROTO, reg1), equal(unix.IPPROTO_ICMPV6)},
	// In the bridge family a frame says by itself what it carries.
	"frame arp": {payload(expr.PayloadBaseLLHeader, 12, 2, reg1), equal(0x08, 0x06)},
	"frame ip":  {meta(expr.MetaKeyPROTOCOL, reg1), equal(0x08, 0x00)},
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func payload(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: base, Offset: offset, Len: length}
}

func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func lookup(set string) expr.Any { return &expr.Lookup{SourceRegister: reg1, SetName: set} }

// ifname is an interface's name as the kernel compares it.
func ifname(name string) []byte { return append([]byte(name), make([]byte, 16-len(name))...) }

func iif(name string) match {
	return match{`iifname "` + name + `"`, nil, []expr.Any{meta(expr.MetaKeyIIFNAME, reg1), equal(ifname(name)...)}}
}

func oif(name string) match {
	return match{`oifname "` + name + `"`, nil, []expr.Any{meta(expr.MetaKeyOIFNAME, reg1), equal(ifname(name)...)}}
}

func iifPrefix(p string) match {
	return match{`iifname "` + p + `*"`, nil, []expr.Any{meta(expr.MetaKeyIIFNAME, reg1), equal([]byte(p)...)}}
}

func oifPrefix(p string) match {
	return match{`oifname "` + p + `*"`, nil, []expr.Any{meta(expr.MetaKeyOIFNAME, reg1), equal([]byte(p)...)}}
}

// Offsets of the addresses in the IPv4 and IPv6 headers.
const (
	saddr, daddr   = 12, 16
	saddr6, daddr6 = 8, 24
)

var addrNames = map[uint32]string{saddr: "ip saddr", daddr: "ip daddr", saddr6: "ip6 saddr", daddr6: "ip6 daddr"}

func network(offset, length, reg uint32) expr.Any {
	return payload(expr.PayloadBaseNetworkHeader, offset, length, reg)
}

func addrIs(offset uint32, a netip.Addr) match {
	proto := "ip"
	if a.Is6() {
		proto = "ip6"
	}
	b := a.AsSlice()
	return match{fmt.Sprintf("%s %v", addrNames[offset], a), []string{proto},
		[]expr.Any{network(offset, uint32(len(b)), reg1), equal(b...)}}
}

// addr6In matches an IPv6 prefix of whole bytes, as nft does it: by a shorter load.
func addr6In(offset uint32, p netip.Prefix) match {
	b := p.Addr().AsSlice()[:p.Bits()/8]
	return match{fmt.Sprintf("%s %v", addrNames[offset], p), []string{"ip6"},
		[]expr.Any{network(offset, uint32(len(b)), reg1), equal(b...)}}
}

func addrIn(offset uint32, set string) match {
	return match{addrNames[offset] + " @" + set, []string{"ip"}, []expr.Any{network(offset, 4, reg1), lookup(set)}}
}

// pairIn looks a concatenation of two addresses up.
func pairIn(first, second uint32, set string) match {
	return match{fmt.Sprintf("%s . %s @%s", addrNames[first], addrNames[second], set), []string{"ip"},
		[]expr.Any{network(first, 4, reg1), network(second, 4, afterWord), lookup(set)}}
}

func dport(proto string, port int) match {
	return match{fmt.Sprintf("%s dport %d", proto, port), []string{proto},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 2, 2, reg1), equal(byte(port>>8), byte(port))}}
}

func sport(proto string, port int) match {
	return match{fmt.Sprintf("%s sport %d", proto, port), []string{proto},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 2, reg1), equal(byte(port>>8), byte(port))}}
}

func icmpEcho() match {
	return match{"icmp type echo-request", []string{"ip", "icmp"},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1, reg1), equal(8)}}
}

// icmpError is a destination unreachable (3), which path MTU discovery needs, or
// a time exceeded (11).
func icmpError(typ byte) match {
	name := map[byte]string{3: "destination-unreachable", 11: "time-exceeded"}[typ]
	return match{"icmp type " + name, []string{"ip", "icmp"},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1, reg1), equal(typ)}}
}

func icmp6Echo() match {
	return match{"icmpv6 type echo-request", []string{"ip6", "icmpv6"},
		[]expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1, reg1), equal(128)}}
}

func established() match {
	mask := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	zero := make([]byte, 4)
	return match{"ct state established,related", nil, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: zero}}}
}

// notForUs is a frame that is broadcast or multicast, so bridged and not routed.
func notForUs() match {
	return match{"meta pkttype != host", nil, []expr.Any{meta(expr.MetaKeyPKTTYPE, reg1),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: []byte{unix.PACKET_HOST}}}}
}

// unicastFrame has the group bit of the destination MAC clear.
func unicastFrame() match {
	group, zero := net.HardwareAddr{1, 0, 0, 0, 0, 0}, make([]byte, 6)
	return match{fmt.Sprintf("ether daddr & %v == %v", group, net.HardwareAddr(zero)), nil, []expr.Any{
		payload(expr.PayloadBaseLLHeader, 0, 6, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 6, Mask: group, Xor: zero},
		equal(zero...)}}
}

// senderIn looks up the port, the MAC and the IPv4 address that a frame (ARP or
// IPv4, by proto) claims to come from.
func senderIn(proto, set string) match {
	text, offset := "ip saddr", uint32(saddr)
	if proto == "arp" {
		text, offset = "arp saddr ip", 14
	}
	return match{fmt.Sprintf("iifname . ether saddr . %s @%s", text, set), []string{"frame " + proto}, []expr.Any{
		meta(expr.MetaKeyIIFNAME, reg1), payload(expr.PayloadBaseLLHeader, 6, 6, reg2), network(offset, 4, afterMAC), lookup(set)}}
}

// receiverIn looks up the port that a frame leaves by, with its source.
func receiverIn(set string) match {
	return match{fmt.Sprintf("oifname . ip saddr @%s", set), []string{"frame ip"},
		[]expr.Any{meta(expr.MetaKeyOIFNAME, reg1), network(saddr, 4, reg2), lookup(set)}}
}

var (
	accept  = match{"accept", nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	drop    = match{"drop", nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
	notrack = match{"notrack", nil, []expr.Any{&expr.Notrack{}}}
)

func goTo(chain string) match {
	return match{"goto " + chain, nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// chain is a chain with its rules; hook nil: only reached by goto.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	text     string // "hook … priority …", as listed
	rules    []rule
}
