package dns

import (
	"cmp"
	"math/rand/v2"
	"slices"

	miekg "github.com/miekg/dns"
)

// maxAliases is about how many names that stand for others are followed for one answer.
const maxAliases = 8

// found is what the table has for a name.
type found struct {
	node *node // nil: there is no such name
	zone int   // where in the name its zone's apex begins; -1: the table does not answer for it
}

// unsaid is the zone of a name that exists: only negative answers need to know it.
const unsaid = 1 << 20

// find looks up a name in wire form and lower case: in full, or of one label
// and without the domain, for resolvers that do not search. Such a name is a zone of
// its own.
func (t *Table) find(name []byte) found { return t.findAt(name, t.names.get(name)) }

// findAt is find for who has looked up the name.
func (t *Table) findAt(name []byte, n *node) found {
	if n != nil && t.anyShown(n.entries) || t.exists(n) { // the first is inlined, and nearly always enough
		return found{node: n, zone: unsaid}
	}
	zone := t.zoneOf(name)
	switch {
	case zone >= 0 && t.stars > 0:
		return found{node: t.wildcard(name, zone), zone: zone}
	case zone >= 0:
		return found{zone: zone}
	case oneLabel(name):
		var buf [maxName + 2 + maxLabel]byte
		n := t.names.get(append(append(buf[:0], name[:len(name)-1]...), t.apex...))
		if n != nil && t.anyShown(n.entries) {
			return found{node: n, zone: 0}
		}
	}
	return found{zone: -1}
}

// wildcard gives what stands for a name that does not exist: "*" below the
// closest of the names above it that does (RFC 4592, 3.3.1), or nil.
func (t *Table) wildcard(name []byte, zone int) *node {
	for off := 0; off < zone; {
		off += 1 + int(name[off])
		if !t.exists(t.names.get(name[off:])) {
			continue
		}
		var buf [maxName + 2 + 2]byte
		n := t.names.get(append(append(buf[:0], "\x01*"...), name[off:]...))
		if n != nil && t.anyShown(n.entries) {
			return n
		}
		return nil
	}
	return nil
}

// alias gives the name that a node stands for, if a question of the type is to be
// answered so.
func (t *Table) alias(n *node, qtype uint16) (target string, ok bool) {
	if qtype == miekg.TypeCNAME || qtype == miekg.TypeANY {
		return "", false
	}
	return t.cname(n)
}

// cname gives the name that a node stands for, which is one (RFC 2181, 10.1): next to records of other kinds, the others
// count (RFC 1034, 3.6.2).
func (t *Table) cname(n *node) (target string, ok bool) {
	es := n.of(miekg.TypeCNAME)
	if len(es) == 0 {
		return "", false
	}
	for i := range n.entries {
		if n.entries[i].rtype != miekg.TypeCNAME && !t.hosts.list[n.entries[i].host].Hidden {
			return "", false
		}
	}
	ps := t.pick(nil, es, len(es))
	if len(ps) == 0 {
		return "", false
	}
	// Of several the first by name, so that all hosts say the same.
	best := ps[0].at
	for _, p := range ps {
		best = min(best, p.at)
	}
	return es[best].data, true
}

// ends says whether names that stand for others, from this one on, come to one that does not. It is asked for the
// second one only: nearly all chains are shorter.
func (t *Table) ends(name []byte, qtype uint16) bool {
	for range maxAliases {
		n := t.find(name).node
		if n == nil {
			return true
		}
		target, is := t.alias(n, qtype)
		if !is {
			return true
		}
		name = []byte(target)
	}
	return false
}

// picked is an entry that an answer has; key gives the order.
type picked struct {
	key uint64
	at  int
}

// pick gives the entries, all of one name and type, that are to be answered: of hosts
// that are not hidden, without those that are down unless all are, each
// data once, nearest first and shuffled within a rank, so that the containers
// of a name share the load. Of more than most it gives the first in that order, most of them: a name may have
// thousands, and who has no place in the answer is not worth a place in the order.
func (t *Table) pick(ps []picked, es []entry, most int) []picked {
	if len(es) == 1 {
		if t.hosts.list[es[0].host].Hidden {
			return ps
		}
		return append(ps, picked{})
	}
	up := false
	for i := range es {
		if !es[i].down && !t.hosts.list[es[i].host].Hidden {
			up = true
			break
		}
	}
	last := -1 // the entry that was taken last, which still is
	for i := range es {
		h := &t.hosts.list[es[i].host]
		if h.Hidden || up && es[i].down {
			continue
		}
		p := picked{uint64(h.Rank)<<32 | uint64(rand.Uint32()), i}
		full := len(ps) == most
		switch {
		case full && p.key >= ps[0].key:
			continue
		case last >= 0 && es[last].data == es[i].data: // what several say counts once, at the nearest
			at := len(ps) - 1
			for ps[at].at != last {
				at--
			}
			if p.key >= ps[at].key {
				continue
			}
			ps[at] = p
			if full {
				sink(ps, at)
			}
		case full:
			ps[0] = p
			sink(ps, 0)
		default:
			if ps = append(ps, p); len(ps) == most {
				for at := most/2 - 1; at >= 0; at-- {
					sink(ps, at)
				}
			}
		}
		last = i
	}
	if len(ps) > 24 {
		slices.SortFunc(ps, func(a, b picked) int { return cmp.Compare(a.key, b.key) })
		return ps
	}
	for i := 1; i < len(ps); i++ {
		for j := i; j > 0 && ps[j].key < ps[j-1].key; j-- {
			ps[j], ps[j-1] = ps[j-1], ps[j]
		}
	}
	return ps
}

// sink mends a heap, the first of which has the greatest key, from one place down.
func sink(ps []picked, at int) {
	for {
		to := 2*at + 1
		if to+1 < len(ps) && ps[to+1].key > ps[to].key {
			to++
		}
		if to >= len(ps) || ps[to].key <= ps[at].key {
			return
		}
		ps[at], ps[to] = ps[to], ps[at]
		at = to
	}
}
