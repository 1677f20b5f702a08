package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// acceptComment marks our rules in the tables of others.
const acceptComment = "weft"

// acceptRule goes to the head of a chain that iptables-nft owns. text is the line
// of `iptables -S`. The expressions are those that every version of iptables-nft
// can read back: a single one that it cannot makes it refuse the whole table,
// and Docker with it.
type acceptRule struct {
	family nftables.TableFamily
	chain  string
	text   string
	exprs  []expr.Any
}

func (r acceptRule) String() string { return r.text }

// accepts are the wanted rules.
func (c *Config) accepts(bridge, tunnel string, doors []door) []acceptRule {
	v4, v6 := nftables.TableFamilyIPv4, nftables.TableFamilyIPv6
	rs := []acceptRule{
		newAccept(v4, "FORWARD", xtIn(bridge), xtOut(bridge)),
		newAccept(v4, "FORWARD", xtIn(bridge), xtOut(tunnel)),
		newAccept(v4, "FORWARD", xtIn(tunnel), xtOut(bridge)),
		newAccept(v4, "INPUT", xtDst(Gateway), xtIn(bridge), xtProto(unix.IPPROTO_ICMP, "icmp")),
	}
	for _, d := range doors {
		udp, tcp := xtProto(unix.IPPROTO_UDP, "udp"), xtProto(unix.IPPROTO_TCP, "tcp")
		rs = append(rs,
			newAccept(v4, "INPUT", xtDst(d.addr.Addr()), xtIn(d.link), udp, xtTo("udp", d.addr.Port())),
			newAccept(v4, "INPUT", xtDst(d.addr.Addr()), xtIn(d.link), tcp, xtTo("tcp", d.addr.Port())))
		if d.reserved() { // conntrack may not know what is answered there
			rs = append(rs,
				newAccept(v4, "OUTPUT", xtSrc(d.addr.Addr()), xtOut(d.link), udp, xtFrom("udp", d.addr.Port())),
				newAccept(v4, "OUTPUT", xtSrc(d.addr.Addr()), xtOut(d.link), tcp, xtFrom("tcp", d.addr.Port())))
		}
	}
	return append(rs, newAccept(v6, "INPUT", xtDst(c.Control), xtIn(tunnel)))
}

func newAccept(family nftables.TableFamily, chain string, parts ...match) acceptRule {
	r := acceptRule{family: family, chain: chain}
	texts := []string{"-A", chain}
	for _, p := range parts {
		texts = append(texts, p.text)
		r.exprs = append(r.exprs, p.exprs...)
	}
	comment := xt.Comment(acceptComment)
	r.exprs = append(r.exprs, &expr.Match{Name: "comment", Info: &comment}, &expr.Counter{}, accept.exprs[0])
	r.text = strings.Join(append(texts, "-m comment --comment", acceptComment, "-j ACCEPT"), " ")
	return r
}

// iptables-nft compares names with their NUL and no further.
func xtIn(name string) match {
	return match{"-i " + name, nil, []expr.Any{meta(expr.MetaKeyIIFNAME, reg1), equal(append([]byte(name), 0)...)}}
}

func xtOut(name string) match {
	return match{"-o " + name, nil, []expr.Any{meta(expr.MetaKeyOIFNAME, reg1), equal(append([]byte(name), 0)...)}}
}

func xtDst(a netip.Addr) match {
	b := a.AsSlice()
	return match{fmt.Sprintf("-d %v/%d", a, a.BitLen()), nil, []expr.Any{network(addrOffset(a), uint32(len(b)), reg1), equal(b...)}}
}

func xtProto(number byte, name string) match {
	const protocolOffset = 9 // in the IPv4 header
	return match{"-p " + name, nil, []expr.Any{network(protocolOffset, 1, reg1), equal(number)}}
}

func xtSrc(a netip.Addr) match {
	b := a.AsSlice()
	return match{fmt.Sprintf("-s %v/%d", a, a.BitLen()), nil, []expr.Any{network(saddr, uint32(len(b)), reg1), equal(b...)}}
}

var anyPort = [2]uint16{0, 65535}

func xtTo(proto string, port uint16) match {
	return match{fmt.Sprintf("-m %s --dport %d", proto, port), nil, []expr.Any{xtPorts(proto, anyPort, [2]uint16{port, port})}}
}

func xtFrom(proto string, port uint16) match {
	return match{fmt.Sprintf("-m %s --sport %d", proto, port), nil, []expr.Any{xtPorts(proto, [2]uint16{port, port}, anyPort)}}
}

func xtPorts(proto string, from, to [2]uint16) expr.Any {
	if proto == "udp" {
		return &expr.Match{Name: proto, Info: &xt.Udp{SrcPorts: from, DstPorts: to}}
	}
	return &expr.Match{Name: proto, Info: &xt.Tcp{SrcPorts: from, DstPorts: to}}
}

// foreignChain is a chain of somebody else with what it holds of ours.
type foreignChain struct {
	chain *nftables.Chain
	ours  []*nftables.Rule
}

// setAccepts puts our rules in front of each chain that lacks one of them or has
// others of ours. Where all are present they stay where they are, even if
// somebody (Docker at its start) has put rules of his own before them.
func (h *Host) setAccepts(nl *netlink.Handle, c Config) error {
	conn, err := openNft()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	chains, err := foreignChains(conn)
	if err != nil {
		return err
	}
	doors, err := h.doors(nl, c)
	if err != nil {
		return err
	}
	want := c.accepts(h.bridge, h.tunnel, doors)
	var errs []error
	for _, f := range chains {
		var mine []acceptRule
		for _, r := range want {
			if r.family == f.chain.Table.Family && r.chain == f.chain.Name {
				mine = append(mine, r)
			}
		}
		if !planAccepts(f.keys(), mine) {
			continue
		}
		h.log.Info("accepts go to the head of a chain", "table", f.chain.Table.Name, "chain", f.chain.Name, "rules", len(mine))
		errs = append(errs, f.write(conn, mine))
	}
	return errors.Join(errs...)
}

// planAccepts says whether the chain must be written: it does not hold each of
// want once, and nothing else of ours.
func planAccepts(have []string, want []acceptRule) bool {
	var keys []string
	for _, r := range want {
		keys = append(keys, ruleKey(r.family, r.exprs))
	}
	slices.Sort(keys)
	return !slices.Equal(slices.Sorted(slices.Values(have)), keys)
}

func (f foreignChain) keys() []string {
	var keys []string
	for _, r := range f.ours {
		keys = append(keys, ruleKey(f.chain.Table.Family, r.Exprs))
	}
	return keys
}

// write replaces all of ours in one transaction.
func (f foreignChain) write(conn *nftables.Conn, want []acceptRule) error {
	for _, r := range f.ours {
		if err := conn.DelRule(&nftables.Rule{Table: f.chain.Table, Chain: f.chain, Handle: r.Handle}); err != nil {
			return err
		}
	}
	for _, r := range slices.Backward(want) {
		conn.InsertRule(&nftables.Rule{Table: f.chain.Table, Chain: f.chain, Exprs: r.exprs})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write accepts of chain %s of table %s: %w", f.chain.Name, f.chain.Table.Name, err)
	}
	return nil
}

// foreignChains finds FORWARD, INPUT and OUTPUT of the tables named filter.
func foreignChains(conn *nftables.Conn) ([]foreignChain, error) {
	var out []foreignChain
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		for _, c := range chains {
			if c.Table.Family != family || !isIptables(c) {
				continue
			}
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return nil, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
			}
			f := foreignChain{chain: c}
			for _, r := range rules {
				if isOurs(r) {
					f.ours = append(f.ours, r)
				}
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// isIptables: a base chain into which setAccepts writes.
func isIptables(c *nftables.Chain) bool {
	return c.Table.Name == "filter" && c.Hooknum != nil && (c.Name == "FORWARD" || c.Name == "INPUT" || c.Name == "OUTPUT") &&
		(c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyIPv6)
}

func isOurs(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		m, ok := e.(*expr.Match)
		if !ok || m.Name != "comment" {
			return false
		}
		c, ok := m.Info.(*xt.Comment)
		return ok && *c == acceptComment
	})
}

// removeAccepts takes our rules out of the tables of others.
func removeAccepts() error {
	conn, err := openNft()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	chains, err := foreignChains(conn)
	errs := []error{err}
	for _, f := range chains {
		if len(f.ours) > 0 {
			errs = append(errs, f.write(conn, nil))
		}
	}
	return errors.Join(errs...)
}
