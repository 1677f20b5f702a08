package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// door is where containers ask the name server: an IPv4 address and port, by one interface.
type door struct {
	link string
	addr netip.AddrPort
}

// reserved: no program but root's can answer there (ip(7), ip_unprivileged_port_start), so that what comes from
// there needs no record of a question.
func (d door) reserved() bool { return d.addr.Port() < 1024 }

// doors are those of the DNS addresses that the host has. Every one is asked over the bridge, by containers that have no other
// way to it; others than the bridge's also by the interface that has them.
func (h *Host) doors(nl *netlink.Handle, c Config) ([]door, error) {
	links, err := linksOf(nl, c.DNS)
	if err != nil {
		return nil, err
	}
	return c.doors(h.bridge, links), nil
}

func (c *Config) doors(bridge string, links map[netip.Addr]string) []door {
	var out []door
	for _, d := range sortedDNS(c.DNS) {
		if d.Addr() == Gateway {
			out = append(out, door{bridge, d})
			continue
		}
		link := links[d.Addr()]
		if link == "" || !d.Addr().Is4() {
			continue
		}
		out = append(out, door{link, d})
		if link != bridge {
			out = append(out, door{bridge, d})
		}
	}
	return out
}

// untracked are the doors whose questions and answers conntrack need not know. Its table is all of the host's, a question from
// a fresh port takes a place for 30 s, and resolvers use a fresh port for each. But many a firewall
// lets answers out, or questions in, by what conntrack says of them, and a drop in any table is final. So only
// where nobody else judges, before or without our accepts, is anything taken from it.
// Else judge names the chain.
func (h *Host) untracked(nl *netlink.Handle, c Config) (free []door, judge string, err error) {
	if judge, err = findJudge(); err != nil || judge != "" {
		return nil, judge, err
	}
	all, err := h.doors(nl, c)
	for _, d := range all {
		if d.reserved() {
			free = append(free, d)
		}
	}
	return free, "", err
}

// setJudge tells when it has become another's matter, or nobody's.
func (h *Host) setJudge(judge string) {
	switch {
	case judge == h.judge:
		return
	case judge != "":
		h.log.Info("conntrack keeps questions to the name server: another firewall may judge them by it", "chain", judge)
	default:
		h.log.Info("conntrack does not keep questions to the name server any more")
	}
	h.judge = judge
}

// judging are the hooks that a question to this host passes, and its answer.
var judging = []nftables.ChainHook{*nftables.ChainHookPrerouting, *nftables.ChainHookInput, *nftables.ChainHookOutput, *nftables.ChainHookPostrouting}

// findJudge names a chain at one of these hooks that may refuse what conntrack does not know; "" if there is none.
func findJudge() (string, error) {
	conn, err := openNft()
	if err != nil {
		return "", err
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return "", fmt.Errorf("look for other firewalls: list chains: %w", err)
	}
	for _, c := range chains {
		f := c.Table.Family
		if f != nftables.TableFamilyIPv4 && f != nftables.TableFamilyINet || c.Table.Name == tableName || c.Hooknum == nil || c.Type == nftables.ChainTypeNAT ||
			!slices.Contains(judging, *c.Hooknum) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if errors.Is(err, unix.ENOENT) {
			continue // gone meanwhile
		}
		if err != nil {
			return "", fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		if mayRefuse(c, rules) {
			return fmt.Sprintf("%s of table %s", c.Name, c.Table.Name), nil
		}
	}
	legacy, err := legacyFilter()
	if legacy != nil && !(legacy.accepts(hookInput) && legacy.accepts(hookOutput)) {
		return "of iptables-legacy", err
	}
	return "", err
}

// mayRefuse says whether a chain may refuse what conntrack does not know. It errs on the side of yes: what another chain than this one
// says is not looked at.
func mayRefuse(c *nftables.Chain, rules []*nftables.Rule) bool {
	if beforeConntrack(c) && !slices.ContainsFunc(rules, mayTell) {
		return false
	}
	for _, r := range rules {
		if isOurs(r) {
			return false // accepted, whatever comes behind
		}
		for _, e := range r.Exprs {
			switch x := e.(type) {
			case *expr.Verdict:
				if x.Kind != expr.VerdictAccept && x.Kind != expr.VerdictReturn && x.Kind != expr.VerdictContinue {
					return true
				}
			case *expr.Lookup:
				if decides(x) {
					return true
				}
			case *expr.Reject, *expr.Queue, *expr.Target:
				return true
			}
		}
	}
	return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

// decides says that a lookup is in a map of verdicts.
func decides(l *expr.Lookup) bool { return l.IsDestRegSet && l.DestRegister == unix.NFT_REG_VERDICT }

// beforeConntrack says that a chain sees packets before conntrack does (NF_IP_PRI_CONNTRACK of linux/netfilter_ipv4.h, at two hooks).
// Docker's drops from release 28 on are in such chains.
func beforeConntrack(c *nftables.Chain) bool {
	first := *c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookOutput
	return first && c.Priority != nil && *c.Priority < -200
}

// stateless are matches of iptables that know nothing of conntrack.
var stateless = []string{"addrtype", "comment", "iprange", "limit", "mac", "multiport", "physdev", "pkttype", "rpfilter", "set", "tcp", "udp"}

// mayTell says whether a rule before conntrack may tell what is exempt from it, which it is from where our own chains stand on: by
// conntrack's state, by a packet's mark, in another chain, or in some way that is not known to be none.
func mayTell(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		switch x := e.(type) {
		case *expr.Payload, *expr.Exthdr, *expr.Cmp, *expr.Range, *expr.Bitwise, *expr.Byteorder, *expr.Immediate, *expr.Fib,
			*expr.Counter, *expr.Limit, *expr.Quota, *expr.Log, *expr.Notrack, *expr.Reject:
			return false
		case *expr.Meta:
			return x.Key == expr.MetaKeyMARK && !x.SourceRegister
		case *expr.Lookup:
			return decides(x)
		case *expr.Verdict:
			return x.Kind == expr.VerdictJump || x.Kind == expr.VerdictGoto || x.Kind == expr.VerdictQueue
		case *expr.Match:
			return !slices.Contains(stateless, x.Name)
		}
		return true
	})
}

// linksOf names the interface that has each address.
func linksOf(nl *netlink.Handle, dns []netip.AddrPort) (map[netip.Addr]string, error) {
	out := map[netip.Addr]string{}
	if !slices.ContainsFunc(dns, func(d netip.AddrPort) bool { return d.Addr().Unmap() != Gateway }) {
		return out, nil
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		l, err := nl.LinkByIndex(a.LinkIndex)
		if err != nil {
			continue // gone meanwhile
		}
		out[prefixOf(a.IPNet).Addr()] = l.Attrs().Name
	}
	return out, nil
}
