package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"
)

// Record is one name with one address.
type Record struct {
	Name  string     // in full, in any case
	Addr  netip.Addr // IPv4 or IPv6
	Owner string     // the container's ID; empty if the name belongs to no container
	Host  string     // peer ID of the host that registered it
	Rank  int        // how far away: 0 on this host, then growing
}

// Table is the whole of what is answered here: names of one domain and the
// reverse zones of some ranges. It is immutable; any number of goroutines may
// read it.
type Table struct {
	domain  string
	records []Record            // what was taken, sorted
	zones   map[string]struct{} // apexes, lower case
	nodes   map[string]*node    // every name that exists, lower case
}

// node is one name of the tree. A node without data is an apex or a name that only has
// names below it; it exists all the same (RFC 8020).
type node struct {
	v4, v6 []ranked // nearest first
	names  []string // targets of PTR
}

type ranked struct {
	addr netip.Addr
	rank int
}

// NewTable makes a table of a domain. Ranges are the prefixes whose addresses
// are looked up here by PTR; PTR of all others goes upstream. Records with
// an invalid address, or a name that [ValidName] refuses, are left out. The
// arguments stay the caller's.
func NewTable(domain string, ranges []netip.Prefix, rs []Record) *Table {
	t := &Table{
		domain: canonical(domain),
		zones:  make(map[string]struct{}),
		nodes:  make(map[string]*node, len(rs)),
	}
	t.zones[t.domain] = struct{}{}
	for _, p := range ranges {
		if p.IsValid() {
			for _, z := range reverseZones(p) {
				t.zones[z] = struct{}{}
			}
		}
	}
	for z := range t.zones {
		t.node(z)
	}

	t.records = make([]Record, 0, len(rs))
	for _, r := range rs {
		name, err := ValidName(r.Name, t.domain)
		if err != nil || !r.Addr.IsValid() {
			continue
		}
		r.Name, r.Addr = name, r.Addr.Unmap().WithZone("")
		t.records = append(t.records, r)
	}
	slices.SortFunc(t.records, func(a, b Record) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Rank, b.Rank), a.Addr.Compare(b.Addr),
			strings.Compare(a.Owner, b.Owner), strings.Compare(a.Host, b.Host))
	})

	seen := make(map[netip.Addr]struct{}) // addresses that the current name has
	for i, r := range t.records {
		if i > 0 && t.records[i-1].Name != r.Name {
			clear(seen)
		}
		if _, ok := seen[r.Addr]; ok {
			continue
		}
		seen[r.Addr] = struct{}{}
		n := t.node(r.Name)
		if r.Addr.Is4() {
			n.v4 = append(n.v4, ranked{r.Addr, r.Rank})
		} else {
			n.v6 = append(n.v6, ranked{r.Addr, r.Rank})
		}
		if rev := reverseOf(r.Addr); t.zone(rev) != "" {
			n := t.node(rev)
			n.names = append(n.names, r.Name)
		}
	}
	return t
}

// node gives the node of a name, made with all that lie between it and its apex
// if need be.
func (t *Table) node(name string) *node {
	if n, ok := t.nodes[name]; ok {
		return n
	}
	n := new(node)
	t.nodes[name] = n
	for {
		next, end := miekg.NextLabel(name, 0)
		if end {
			return n
		}
		name = name[next:]
		if _, ok := t.nodes[name]; ok || t.zone(name) == "" {
			return n
		}
		t.nodes[name] = new(node)
	}
}

// zone gives the apex of the smallest zone of ours that a name (lower case, in
// full) is in, or "".
func (t *Table) zone(name string) string {
	for off, end := 0, false; !end; off, end = miekg.NextLabel(name, off) {
		if _, ok := t.zones[name[off:]]; ok {
			return name[off:]
		}
	}
	return ""
}

// find gives the node of a name as a question has it: in full, or with one label
// and without the domain. The apex is that of the name's zone; for a name without
// the domain, the name itself.
func (t *Table) find(name string) (n *node, apex string) {
	name = strings.ToLower(name)
	if apex = t.zone(name); apex != "" {
		return t.nodes[name], apex
	}
	if _, end := miekg.NextLabel(name, 0); end && name != "." {
		if n = t.nodes[name+t.domain]; n != nil && len(n.v4)+len(n.v6) > 0 {
			return n, name
		}
	}
	return nil, ""
}

// Lookup gives the addresses of a name, nearest first: in full or with one
// label only, in any case, with or without the last dot. Nil: unknown here.
func (t *Table) Lookup(name string) []netip.Addr {
	if name == "" {
		return nil
	}
	n, _ := t.find(canonical(name))
	if n == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, r := range slices.Concat(n.v4, n.v6) {
		addrs = append(addrs, r.addr)
	}
	return addrs
}

// Records gives what the table holds, sorted by name, rank and address, names in
// lower case.
func (t *Table) Records() []Record { return slices.Clone(t.records) }

// Domain gives the zone of the names, with the last dot.
func (t *Table) Domain() string { return t.domain }
