package dns

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"
)

// Table is the whole of what is answered here: names of one domain and the
// reverse zones of some ranges. It is immutable; any number of goroutines may
// read it. [Table.Edit] makes a changed one, at a cost that does not depend on
// how much the table holds.
type Table struct {
	domain string              // in text
	apex   string              // in wire form
	zones  map[string]struct{} // apexes
	ranges []netip.Prefix
	names  trie // every name that exists
	stars  int  // how many of them begin with "*"
	hosts  *hosts
	soa    string // RDATA
	ns     string // RDATA
}

// node is one name. It exists if it or a name below it (RFC 8020) has entries of hosts that are not hidden, or if it
// is an apex.
type node struct {
	hash    uint64  // of name
	name    string  // wire form, lower case
	next    *node   // in the chain of a slot of the trie
	entries []entry // sorted
	below   *below  // nil: nothing
	apex    bool
	by      *edit    // may change the node in place
	one     [1]entry // where entries are as long as there is only one: near the rest
}

// below is what there is further down than a name.
type below struct {
	hosts []belowHost
	by    *edit // may change it in place
}

// belowHost is how many names a host has entries at.
type belowHost struct {
	host  uint16
	names int
}

// NewTable makes a table of a domain. Ranges are the prefixes whose addresses
// are looked up here by PTR; PTR of all others goes upstream. Records that can't be
// in the table are left out, see [Edit.Add]. The arguments stay the caller's.
func NewTable(domain string, ranges []netip.Prefix, rs []Record) *Table {
	t := &Table{domain: canonical(domain), zones: make(map[string]struct{}), hosts: &hosts{index: map[string]uint16{}}}
	t.apex = toWire(t.domain)
	t.ns = toWire("ns.dns." + t.domain)
	t.soa = string(soaData(t.ns, t.apex))
	t.zones[t.apex] = struct{}{}
	for _, p := range ranges {
		if p.IsValid() {
			t.ranges = append(t.ranges, p)
			for _, z := range reverseZones(p) {
				t.zones[toWire(z)] = struct{}{}
			}
		}
	}
	e := t.Edit()
	for z := range t.zones {
		e.change(z, func(n *node) { n.apex = true })
		for up := z; ; { // a zone within a zone
			up = up[1+up[0]:]
			if len(up) < 2 || t.zoneOf([]byte(up)) < 0 {
				break
			}
			always, _ := e.host("") // as for what no host registers: it can't be hidden
			e.change(up, func(n *node) { n.below = n.below.add(always, 1, e.by) })
		}
	}
	for _, r := range rs {
		e.Add(r)
	}
	return e.Done()
}

// soaData is the record that makes a negative answer cacheable, but for its
// minimum, which is the TTL of the answer (RFC 2308, 3). Nobody transfers the zone, so its serial
// says nothing.
func soaData(ns, apex string) []byte {
	b := append([]byte(ns), "\x0ahostmaster"+apex...)
	for _, v := range []uint32{1, 3600, 600, 86400} { // serial, refresh, retry, expire
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// Edit makes a changed table: what is called on it shows in the table that Done
// gives, and nowhere else. It is for one goroutine.
type Edit struct {
	t  Table
	by *edit
}

// Edit begins a change.
func (t *Table) Edit() *Edit { return &Edit{t: *t, by: new(edit)} }

// Done gives the changed table. The Edit is not to be used any more.
func (e *Edit) Done() *Table {
	t := e.t
	*e = Edit{}
	return &t
}

// Add adds a record, or sets Down of one that is there. The error says why it
// can't be in this table; then nothing is changed.
func (e *Edit) Add(r Record) error {
	r, err := r.checked(e.t.domain)
	if err != nil {
		return err
	}
	// Name and data lie side by side in memory: who reads one reads the other.
	both := string(append(appendWire(nil, r.Name), r.rdata()...))
	name := both[:len(r.Name)+1]
	host, ok := e.host(r.Host)
	if !ok {
		return fmt.Errorf("record %q: more than %d hosts", r.Name, maxHosts)
	}
	x := entry{data: both[len(name):], owner: r.Owner, rtype: r.rrtype(), host: host, down: r.Down}
	e.put(name, x)
	if rev, ok := e.reverse(r); ok {
		e.put(rev, entry{data: name, owner: r.Owner, rtype: miekg.TypePTR, host: x.host, down: r.Down})
	}
	return nil
}

// Remove takes a record out, whatever its Down. One that is not there is no
// matter.
func (e *Edit) Remove(r Record) {
	r, err := r.checked(e.t.domain)
	if err != nil {
		return
	}
	host, ok := e.t.hosts.index[r.Host]
	if !ok {
		return
	}
	name := toWire(r.Name)
	e.take(name, entry{data: r.rdata(), owner: r.Owner, rtype: r.rrtype(), host: host})
	if rev, ok := e.reverse(r); ok {
		e.take(rev, entry{data: name, owner: r.Owner, rtype: miekg.TypePTR, host: host})
	}
}

// reverse gives the name that leads back to a record, if it is of a zone of ours.
func (e *Edit) reverse(r Record) (string, bool) {
	if !r.Addr.IsValid() || r.Name[0] == '*' || e.t.byID(r) {
		return "", false
	}
	rev := toWire(reverseOf(r.Addr))
	return rev, e.t.zoneOf([]byte(rev)) >= 0
}

// byID says that a name is ID.NAME.DOMAIN, where services find the container with that ID: it is not what
// the container is called.
func (t *Table) byID(r Record) bool {
	name, ok := strings.CutPrefix(r.Name, r.Owner+".")
	return ok && r.Owner != "" && name != t.domain
}

// change changes the node of a name, made if need be and dropped if nothing is
// left of it.
func (e *Edit) change(name string, f func(*node)) {
	n := e.t.names.get([]byte(name))
	switch {
	case n == nil:
		n = &node{by: e.by}
		n.entries = n.one[:0]
	case n.by != e.by:
		old := n
		n = &node{below: old.below, apex: old.apex, by: e.by, next: old.next}
		if n.entries = n.one[:0]; len(old.entries) > 1 {
			n.entries = make([]entry, 0, len(old.entries)+1)
		}
		n.entries = append(n.entries, old.entries...)
	}
	f(n)
	if len(n.entries) == 0 && n.below == nil && !n.apex {
		n = nil
	}
	e.t.names = e.t.names.set(name, n, e.by)
}

func (e *Edit) put(name string, x entry) {
	first := false
	e.change(name, func(n *node) {
		first = !ofHost(n.entries, x.host)
		i, has := slices.BinarySearchFunc(n.entries, x, entry.compare)
		if has {
			n.entries[i].down = x.down
			return
		}
		n.entries = slices.Insert(n.entries, i, x)
	})
	if first {
		e.count(name, x.host, 1)
	}
}

func (e *Edit) take(name string, x entry) {
	if e.t.names.get([]byte(name)) == nil {
		return
	}
	last := false
	e.change(name, func(n *node) {
		i, has := slices.BinarySearchFunc(n.entries, x, entry.compare)
		if has {
			n.entries = slices.Delete(n.entries, i, i+1)
			last = !ofHost(n.entries, x.host)
		}
	})
	if last {
		e.count(name, x.host, -1)
	}
}

// count tells all names above one, up to its apex, that a host's came or went.
func (e *Edit) count(name string, host uint16, by int) {
	if strings.HasPrefix(name, "\x01*") {
		e.t.stars += by
	}
	for {
		if _, apex := e.t.zones[name]; apex {
			return
		}
		name = name[1+name[0]:]
		e.change(name, func(n *node) { n.below = n.below.add(host, by, e.by) })
	}
}

// add counts names of a host. Its cost goes by the number of hosts that have any here.
func (b *below) add(host uint16, names int, by *edit) *below {
	switch {
	case b == nil:
		b = &below{by: by}
	case b.by != by:
		b = &below{hosts: append(make([]belowHost, 0, len(b.hosts)+1), b.hosts...), by: by}
	}
	i := slices.IndexFunc(b.hosts, func(h belowHost) bool { return h.host == host })
	if i < 0 {
		i = len(b.hosts)
		b.hosts = append(b.hosts, belowHost{host: host})
	}
	if b.hosts[i].names += names; b.hosts[i].names == 0 {
		b.hosts = slices.Delete(b.hosts, i, i+1)
	}
	if len(b.hosts) == 0 {
		return nil
	}
	return b
}

func ofHost(es []entry, host uint16) bool {
	return slices.ContainsFunc(es, func(e entry) bool { return e.host == host })
}

// zoneOf gives where in a name, in wire form and lower case, the apex of the
// smallest zone of ours begins that has it, or -1.
func (t *Table) zoneOf(name []byte) int {
	reverse := len(t.zones) > 1 && len(name) > 6 && string(name[len(name)-6:]) == "\x04arpa\x00"
	for off := 0; off < len(name) && name[off] != 0; off += 1 + int(name[off]) {
		rest := name[off:]
		if len(rest) == len(t.apex) && string(rest) == t.apex {
			return off
		}
		if reverse {
			if _, ok := t.zones[string(rest)]; ok {
				return off
			}
		}
	}
	return -1
}

// exists says whether a name is there now.
func (t *Table) exists(n *node) bool {
	return n != nil && (t.anyShown(n.entries) || n.apex || t.shownBelow(n))
}

func (t *Table) shownBelow(n *node) bool {
	return n.below != nil && slices.ContainsFunc(n.below.hosts, func(h belowHost) bool { return !t.hosts.list[h.host].Hidden })
}

func (t *Table) anyShown(es []entry) bool {
	for i := range es {
		if !t.hosts.list[es[i].host].Hidden {
			return true
		}
	}
	return false
}

// of gives the entries of one type.
func (n *node) of(rtype uint16) []entry {
	es := n.entries
	from := 0
	if len(es) > 16 {
		from, _ = slices.BinarySearchFunc(es, rtype, func(e entry, t uint16) int { return cmp.Compare(e.rtype, t) })
	}
	for from < len(es) && es[from].rtype < rtype {
		from++
	}
	to := from
	for to < len(es) && es[to].rtype == rtype {
		to++
	}
	return es[from:to]
}

// Lookup gives the addresses of a name, in the order of an answer: in full or with one
// label only, in any case, with or without the last dot; names that stand for
// others are followed within the table. Nil: unknown here.
func (t *Table) Lookup(name string) []netip.Addr {
	wire := make([]byte, maxName+2)
	n, err := miekg.PackDomainName(canonical(name), wire, 0, nil, false)
	if name == "" || err != nil {
		return nil
	}
	at := wire[:n]
	for range maxAliases {
		found := t.find(at)
		if found.node == nil {
			return nil
		}
		if cname, ok := t.alias(found.node, miekg.TypeA); ok {
			at = []byte(cname)
			continue
		}
		var addrs []netip.Addr
		for _, rtype := range []uint16{miekg.TypeA, miekg.TypeAAAA} {
			es := found.node.of(rtype)
			for _, p := range t.pick(nil, es, len(es)) {
				a, _ := netip.AddrFromSlice([]byte(es[p.at].data))
				addrs = append(addrs, a)
			}
		}
		return addrs
	}
	return nil
}

// Records gives what the table holds and does not hide, sorted by name, type and data, names in
// lower case.
func (t *Table) Records() []Record {
	var rs []Record
	t.names.all(func(name string, n *node) { rs = t.appendShown(rs, name, n) })
	slices.SortFunc(rs, Record.compare)
	return rs
}

// At gives the records of one name in full, as Records does.
func (t *Table) At(name string) []Record {
	wire := toWire(canonical(name))
	return t.appendShown(nil, wire, t.names.get([]byte(wire)))
}

func (t *Table) appendShown(rs []Record, name string, n *node) []Record {
	if n == nil {
		return rs
	}
	for _, x := range n.entries {
		if h := t.hosts.list[x.host]; !h.Hidden {
			if r, ok := x.record(name, h.name); ok {
				rs = append(rs, r)
			}
		}
	}
	return rs
}

func (r Record) compare(o Record) int {
	return cmp.Or(strings.Compare(r.Name, o.Name), cmp.Compare(r.rrtype(), o.rrtype()), r.Addr.Compare(o.Addr), strings.Compare(r.Target, o.Target),
		cmp.Compare(r.Port, o.Port), strings.Compare(r.Text, o.Text), strings.Compare(r.Host, o.Host), strings.Compare(r.Owner, o.Owner))
}

// Since gives the records that came and those that went since an older table
// of the same edits, each sorted; a change of Down is both. Its cost is that of the changes, and that
// of the whole table only if a host was hidden or shown.
func (t *Table) Since(old *Table) (came, went []Record) {
	visit := func(name string, was, is *node) {
		before, now := old.appendShown(nil, name, was), t.appendShown(nil, name, is)
		came, went = appendOthers(came, now, before), appendOthers(went, before, now)
	}
	if old.sameHidden(t) {
		old.names.differ(&t.names, visit)
	} else {
		t.names.all(func(name string, is *node) { visit(name, old.names.get([]byte(name)), is) })
		old.names.all(func(name string, was *node) {
			if t.names.get([]byte(name)) == nil {
				visit(name, was, nil)
			}
		})
	}
	slices.SortFunc(came, Record.compare)
	slices.SortFunc(went, Record.compare)
	return came, went
}

// appendOthers appends what of some records is not among others. A name of a service may have thousands.
func appendOthers(rs, some, others []Record) []Record {
	set := make(map[Record]struct{}, len(others))
	for _, r := range others {
		set[r] = struct{}{}
	}
	for _, r := range some {
		if _, ok := set[r]; !ok {
			rs = append(rs, r)
		}
	}
	return rs
}

// Len is how many names exist.
func (t *Table) Len() int { return t.names.size }

// Domain gives the zone of the names, with the last dot.
func (t *Table) Domain() string { return t.domain }
