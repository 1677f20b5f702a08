package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// openNft opens a connection in the calling thread's network namespace.
func openNft() (*nftables.Conn, error) {
	// A transaction goes out as one message, which must fit the send buffer;
	// its answers must fit the other one.
	var opt nftables.SockOption = growBuffers
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(opt))
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	return c, nil
}

// growBuffers is generic only to leave the library's netlink package unnamed.
func growBuffers[C interface {
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}](c C) error {
	return errors.Join(c.SetReadBuffer(8<<20), c.SetWriteBuffer(8<<20))
}

// elementsPerMessage keeps a message's list of elements below the 64 KiB that a
// netlink attribute can hold.
const elementsPerMessage = 200

// setTables makes our two tables match; free are the doors that conntrack is to know nothing of.
func (h *Host) setTables(c Config, free []door) error {
	conn, err := openNft()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	var errs []error
	for _, t := range []table{c.inetTable(h.bridge, h.tunnel, free), c.bridgeTable()} {
		have, err := readTable(conn, t.family)
		if err != nil {
			errs = append(errs, fmt.Errorf("read table %s: %w", t.name(), err))
			continue
		}
		plan := planTable(t, have)
		if plan.empty() {
			continue
		}
		h.log.Debug("firewall changes", "plan", plan.String())
		if err := plan.apply(conn); err != nil {
			errs = append(errs, fmt.Errorf("write table %s: %w", t.name(), err))
		}
	}
	return errors.Join(errs...)
}

func readTable(conn *nftables.Conn, family nftables.TableFamily) (kernelTable, error) {
	k := kernelTable{chains: map[string]kernelChain{}, sets: map[string]kernelSet{}}
	t, err := findTable(conn, family, tableName)
	if t == nil || err != nil {
		return k, err
	}
	k.exists = true
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return k, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return k, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		kc := kernelChain{base: baseOf(c.Hooknum, c.Priority)}
		if c.Policy != nil && *c.Policy != nftables.ChainPolicyAccept {
			kc.base += " policy drop"
		}
		for _, r := range rules {
			kc.rules = append(kc.rules, ruleKey(family, r.Exprs))
		}
		k.chains[c.Name] = kc
	}
	sets, err := conn.GetSets(t)
	if err != nil {
		return k, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if s.Anonymous {
			continue // part of a rule that is not ours
		}
		es, err := conn.GetSetElements(s)
		if err != nil {
			return k, fmt.Errorf("list elements of set %s: %w", s.Name, err)
		}
		ks := kernelSet{def: defOf(s.KeyType, s.Interval), elements: map[string]nftables.SetElement{}}
		for _, e := range es {
			ks.elements[elementKey(e)] = e
		}
		k.sets[s.Name] = ks
	}
	return k, nil
}

// apply does the plan as one transaction: packets meet the old rules or the new.
func (p *tablePlan) apply(conn *nftables.Conn) error {
	t := &nftables.Table{Family: p.table.family, Name: tableName}
	if p.remake {
		conn.DelTable(t)
	}
	if p.create {
		conn.AddTable(t)
	}
	for _, s := range p.newSets {
		if err := conn.AddSet(s.kernel(t), nil); err != nil {
			return fmt.Errorf("add set %s: %w", s.name, err)
		}
	}
	for _, s := range p.table.sets {
		for gone := range slices.Chunk(p.del[s.name], elementsPerMessage) {
			if err := conn.SetDeleteElements(s.kernel(t), gone); err != nil {
				return fmt.Errorf("delete elements of set %s: %w", s.name, err)
			}
		}
		var raw []nftables.SetElement
		for _, e := range p.add[s.name] {
			raw = append(raw, s.raw(e)...)
		}
		for more := range slices.Chunk(raw, elementsPerMessage) {
			if err := conn.SetAddElements(s.kernel(t), more); err != nil {
				return fmt.Errorf("add elements to set %s: %w", s.name, err)
			}
		}
	}
	// All chains before any rule: rules name chains.
	for _, c := range p.newBase {
		conn.AddChain(c.kernel(t))
	}
	for _, c := range p.chains {
		conn.FlushChain(c.kernel(t))
		for _, r := range c.rules {
			k := &nftables.Rule{Table: t, Chain: c.kernel(t), Exprs: r.exprs}
			if r.comment != "" {
				k.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
			}
			conn.AddRule(k)
		}
	}
	return conn.Flush()
}

func (s set) kernel(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: s.name, KeyType: s.keyType(), Interval: s.interval, Concatenation: len(s.types) > 1}
}

func (c chain) kernel(t *nftables.Table) *nftables.Chain {
	k := &nftables.Chain{Table: t, Name: c.name}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		k.Type, k.Hooknum, k.Priority, k.Policy = nftables.ChainTypeFilter, c.hook, &c.priority, &policy
	}
	return k
}

// findTable returns nil without an error when there is none.
func findTable(conn *nftables.Conn, family nftables.TableFamily, name string) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name && t.Family == family {
			return t, nil
		}
	}
	return nil, nil
}

// removeTables deletes our tables.
func removeTables() error {
	conn, err := openNft()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	var errs []error
	for family, name := range familyNames {
		t, err := findTable(conn, family, tableName)
		if err == nil && t != nil {
			conn.DelTable(t)
			err = conn.Flush()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete table %s %s: %w", name, tableName, err))
		}
	}
	return errors.Join(errs...)
}
