package host

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// kernelTable is a table as the kernel has it, in a form to compare.
type kernelTable struct {
	exists bool
	chains map[string]kernelChain
	sets   map[string]kernelSet
}

type kernelChain struct {
	base  string   // baseOf
	rules []string // ruleKey of each
}

type kernelSet struct {
	def      string // defOf
	elements map[string]nftables.SetElement
}

// tablePlan turns a kernelTable into a wanted table, in one transaction.
type tablePlan struct {
	table   table
	remake  bool // delete the table first: its shape is not ours
	create  bool
	newSets []set
	chains  []chain // flush and fill
	newBase []chain // chains to add before that
	add     map[string][]element
	del     map[string][]nftables.SetElement
}

func (p *tablePlan) empty() bool {
	return !p.remake && !p.create && len(p.newSets)+len(p.chains)+len(p.newBase)+len(p.add)+len(p.del) == 0
}

// String lists the plan for an operator, one change a line.
func (p *tablePlan) String() string {
	var b strings.Builder
	name := p.table.name()
	if p.remake {
		fmt.Fprintf(&b, "delete table %s\n", name)
	}
	if p.create {
		fmt.Fprintf(&b, "add table %s\n", name)
	}
	for _, s := range p.newSets {
		fmt.Fprintf(&b, "add set %s %s\n", name, s.name)
	}
	for _, s := range p.table.sets {
		for _, e := range p.add[s.name] {
			fmt.Fprintf(&b, "add element %s %s { %s }\n", name, s.name, e.text)
		}
		if n := len(p.del[s.name]); n > 0 {
			fmt.Fprintf(&b, "delete element %s %s (%d values)\n", name, s.name, n)
		}
	}
	for _, c := range p.chains {
		fmt.Fprintf(&b, "write chain %s %s (%d rules)\n", name, c.name, len(c.rules))
	}
	return b.String()
}

// planTable compares. Elements of a set change one by one: a set made anew is
// empty for packets until its elements are committed, which comes after the
// rules' switch (the kernel's pipapo sets), and would lose packets.
func planTable(want table, have kernelTable) *tablePlan {
	p := &tablePlan{table: want, add: map[string][]element{}, del: map[string][]nftables.SetElement{}}
	p.create = !have.exists
	chains, sets := maps.Clone(have.chains), maps.Clone(have.sets)
	for _, c := range want.chains {
		if k, ok := chains[c.name]; ok && k.base != baseOf(c.hook, &c.priority) {
			p.remake = true
		}
		delete(chains, c.name)
	}
	for _, s := range want.sets {
		if k, ok := sets[s.name]; ok && k.def != defOf(s.keyType(), s.interval) {
			p.remake = true
		}
		delete(sets, s.name)
	}
	if p.remake = p.remake || len(chains)+len(sets) > 0; p.remake {
		p.create, have = true, kernelTable{}
	}
	for _, c := range want.chains {
		k, ok := have.chains[c.name]
		if !ok {
			p.newBase = append(p.newBase, c)
		}
		if !slices.Equal(k.rules, ruleKeys(want.family, c.rules)) {
			p.chains = append(p.chains, c)
		}
	}
	for _, s := range want.sets {
		k, ok := have.sets[s.name]
		if !ok {
			p.newSets = append(p.newSets, s)
		}
		extra := maps.Clone(k.elements)
		for _, e := range s.elements {
			missing := false
			for _, raw := range s.raw(e) {
				if _, ok := k.elements[elementKey(raw)]; !ok {
					missing = true
				}
				delete(extra, elementKey(raw))
			}
			if missing {
				p.add[s.name] = append(p.add[s.name], e)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(extra)) {
			p.del[s.name] = append(p.del[s.name], extra[key])
		}
	}
	return p
}

// raw is how the kernel holds an element: an interval of one field is two.
func (s set) raw(e element) []nftables.SetElement {
	switch {
	case e.end == nil:
		return []nftables.SetElement{{Key: e.key}}
	case len(s.types) > 1:
		return []nftables.SetElement{{Key: e.key, KeyEnd: e.end}}
	}
	return []nftables.SetElement{{Key: e.key}, {Key: e.end, IntervalEnd: true}}
}

func elementKey(e nftables.SetElement) string {
	return fmt.Sprintf("%x-%x-%t", e.Key, e.KeyEnd, e.IntervalEnd)
}

func baseOf(hook *nftables.ChainHook, priority *nftables.ChainPriority) string {
	if hook == nil {
		return ""
	}
	return fmt.Sprintf("hook %d priority %d", *hook, *priority)
}

func defOf(t nftables.SetDatatype, interval bool) string {
	return fmt.Sprintf("type %x length %d interval %t", t.GetNFTMagic(), t.Bytes, interval)
}

func ruleKeys(family nftables.TableFamily, rs []rule) []string {
	var keys []string
	for _, r := range rs {
		keys = append(keys, ruleKey(family, r.exprs))
	}
	return keys
}

// ruleKey is equal for rules that do the same: the expressions as they go over
// netlink, without counters and the numbers that sets have inside a transaction.
func ruleKey(family nftables.TableFamily, exprs []expr.Any) string {
	var b bytes.Buffer
	for _, e := range exprs {
		switch x := e.(type) {
		case *expr.Counter:
			continue
		case *expr.Lookup:
			y := *x
			y.SetID = 0
			e = &y
		}
		raw, err := expr.Marshal(byte(family), e)
		if err != nil {
			raw = fmt.Appendf(nil, "?%v", err)
		}
		b.Write(raw)
	}
	return hex.EncodeToString(b.Bytes())
}
