package dns

import (
	"hash/maphash"
	"math/bits"
)

// search is one of several that are made of a trie together.
type search struct {
	name []byte // wire form, lower case
	node *node  // what was found; nil: no such name

	hash uint64
	at   slot // how far it has come
	// Of the branch at that slot.
	used  uint32
	slots []slot
	// touched is something of a node, and says nothing.
	touched uint64
}

// getAll is get for many names at once. In a large table each step of a search leads to memory that no cache of the processor has, and
// the search waits there for as long as an answer takes in a small table. So all searches take each step together, in loops that
// do nothing but load what the next one looks at: a loop that decides nothing by what it loads does not wait
// for it, and the processor has the loads of many searches under way at the same time.
func (t *trie) getAll(ss []search) {
	root := t.root
	if root == nil {
		for i := range ss {
			ss[i].node = nil
		}
		return
	}
	for i := range ss {
		s := &ss[i]
		s.hash = maphash.Bytes(hashSeed, s.name)
		s.at = root.slots[s.hash%rootSize]
	}
	for shift := rootBits; loadBranches(ss); shift += 5 {
		loadSlots(ss, shift)
	}
	touchNodes(ss)
	for i := range ss {
		s := &ss[i]
		s.node = s.at.l.named(s.hash, s.name)
	}
}

// loadBranches loads the branches that searches have come to. False: none has come to one.
func loadBranches(ss []search) (some bool) {
	for i := range ss {
		if s := &ss[i]; s.at.b != nil {
			// Copied, since loadSlots would make BenchmarkScattered/warm/100000 half as fast by reading the branch once more.
			s.used, s.slots = s.at.b.used, s.at.b.slots
			some = true
		}
	}
	return some
}

// loadSlots goes from branches, which have the hash's bits from shift on, to their slots.
func loadSlots(ss []search, shift int) {
	for i := range ss {
		s := &ss[i]
		if s.at.b == nil {
			continue
		}
		bit := uint32(1) << (s.hash >> shift & 31)
		if s.used&bit == 0 {
			s.at = slot{}
			continue
		}
		s.at = s.slots[bits.OnesCount32(s.used&(bit-1))]
	}
}

// touchNodes brings to the cache what is compared with the names, and then what most answers are made of.
func touchNodes(ss []search) {
	for i := range ss {
		if s := &ss[i]; s.at.l != nil {
			s.touched = s.at.l.hash + uint64(s.at.l.one[0].host) // the first and the last line of a node
		}
	}
	for i := range ss {
		if s := &ss[i]; s.at.l != nil {
			s.touched = uint64(s.at.l.name[0])
			if es := s.at.l.entries; len(es) > 0 {
				s.touched += uint64(es[0].data[0])
			}
		}
	}
}
