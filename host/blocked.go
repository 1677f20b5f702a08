package host

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// BlockedError says that a firewall which weft can't open drops its packets.
type BlockedError struct{ Obstacles []Obstacle }

// Obstacle is one chain in the way.
type Obstacle struct {
	What    string // "chain forward of table inet filter (nftables)"
	Command string // to type as root
}

func (e *BlockedError) Error() string {
	var what []string
	for _, o := range e.Obstacles {
		what = append(what, o.What)
	}
	return "containers' packets are dropped by " + strings.Join(what, ", ")
}

// Hint is the commands that open the way.
func (e *BlockedError) Hint() string {
	var cmds []string
	for _, o := range e.Obstacles {
		if !slices.Contains(cmds, o.Command) {
			cmds = append(cmds, o.Command)
		}
	}
	return strings.Join(cmds, " && ")
}

// blocked looks for what drops our packets and can't be opened from here.
func (h *Host) blocked() error {
	conn, err := openNft()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	var found []Obstacle
	var errs []error
	chains, err := readBase(conn)
	errs = append(errs, err)
	found = append(found, planObstacles(chains, h.bridge, h.tunnel)...)
	legacy, err := h.legacyObstacles()
	errs = append(errs, err)
	found = append(found, legacy...)
	if len(found) > 0 {
		errs = append(errs, &BlockedError{found})
	}
	return errors.Join(errs...)
}

// baseChain is somebody else's chain at the forward or input hook.
type baseChain struct {
	family nftables.TableFamily
	table  string
	chain  string
	hook   nftables.ChainHook
	closed bool // drops what no rule accepts
	opened bool // a rule of its table names our interfaces
}

// planObstacles says what to open, and how.
func planObstacles(chains []baseChain, bridge, tunnel string) []Obstacle {
	var out []Obstacle
	for _, c := range chains {
		if !c.closed || c.opened {
			continue
		}
		family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}[c.family]
		if c.table == "firewalld" {
			out = append(out, Obstacle{What: "firewalld", Command: fmt.Sprintf(
				"firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload",
				bridge, tunnel)})
			continue
		}
		// Our own table judges what this lets pass.
		match := fmt.Sprintf(`iifname "%s*"`, namePrefix)
		if c.hook == *nftables.ChainHookForward {
			match += fmt.Sprintf(` oifname "%s*"`, namePrefix)
		}
		out = append(out, Obstacle{
			What:    fmt.Sprintf("chain %s of table %s %s (nftables)", c.chain, family, c.table),
			Command: fmt.Sprintf(`nft 'insert rule %s %s %s %s accept'`, family, c.table, c.chain, match)})
	}
	return slices.CompactFunc(out, func(a, b Obstacle) bool { return a == b })
}

// readBase reads the base chains of others. iptables-nft's own are left out where
// setAccepts has opened them.
func readBase(conn *nftables.Conn) ([]baseChain, error) {
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []baseChain
	for _, c := range chains {
		f := c.Table.Family
		ip := f == nftables.TableFamilyIPv4 || f == nftables.TableFamilyINet || f == nftables.TableFamilyIPv6
		if !ip || c.Table.Name == tableName || isIptables(c) || c.Hooknum == nil || c.Type != nftables.ChainTypeFilter {
			continue
		}
		forward, input := *c.Hooknum == *nftables.ChainHookForward, *c.Hooknum == *nftables.ChainHookInput
		if !input && (!forward || f == nftables.TableFamilyIPv6) { // we forward no IPv6
			continue
		}
		b := baseChain{family: f, table: c.Table.Name, chain: c.Name, hook: *c.Hooknum}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		last := len(rules) > 0 && isRefusal(rules[len(rules)-1])
		b.closed = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop || last
		if b.closed {
			if b.opened, err = namesUs(conn, chains, c); err != nil {
				return nil, err
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// isRefusal: drop or reject without a condition.
func isRefusal(r *nftables.Rule) bool {
	refuses := false
	for _, e := range r.Exprs {
		switch x := e.(type) {
		case *expr.Counter, *expr.Log, *expr.Limit:
		case *expr.Reject:
			refuses = true
		case *expr.Verdict:
			refuses = x.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return refuses
}

// namesUs: some rule compares the incoming interface with a name that starts as
// ours do. It is in c itself, or in another chain of a table like firewalld's.
func namesUs(conn *nftables.Conn, all []*nftables.Chain, c *nftables.Chain) (bool, error) {
	for _, o := range all {
		if o.Table.Family != c.Table.Family || o.Table.Name != c.Table.Name || o.Name != c.Name && o.Table.Name != "firewalld" {
			continue
		}
		rules, err := conn.GetRules(o.Table, o)
		if err != nil {
			return false, fmt.Errorf("list rules of chain %s: %w", o.Name, err)
		}
		for _, r := range rules {
			for i, e := range r.Exprs {
				m, ok := e.(*expr.Meta)
				if !ok || m.Key != expr.MetaKeyIIFNAME || i+1 == len(r.Exprs) {
					continue
				}
				switch x := r.Exprs[i+1].(type) {
				case *expr.Cmp:
					if x.Op == expr.CmpOpEq && bytes.HasPrefix(x.Data, []byte(namePrefix)) {
						return true, nil
					}
				case *expr.Lookup:
					es, err := conn.GetSetElements(&nftables.Set{Table: o.Table, Name: x.SetName})
					if err != nil {
						return false, fmt.Errorf("list elements of set %s: %w", x.SetName, err)
					}
					for _, e := range es {
						if !x.Invert && bytes.HasPrefix(e.Key, []byte(namePrefix)) {
							return true, nil
						}
					}
				}
			}
		}
	}
	return false, nil
}
