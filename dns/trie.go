package dns

import (
	"hash/maphash"
	"math/bits"
)

// trie is a persistent map from names in wire form to nodes: a hash array mapped
// trie (Bagwell, "Ideal Hash Trees", 2001). A change copies the branches on its
// way, at most 32 slots each and as many as the table's size has digits in base 32,
// and shares everything else with the trie before, which stays as it was. So a
// change costs the same in a table of ten names and of a hundred thousand, and
// readers need no lock.
type trie struct {
	root *root // nil: empty
	size int
}

// The first level is wider than the others, and a plain array: reading a name costs memory accesses above
// all, and this saves two of them. A change copies it, 16 KiB.
const (
	rootBits = 10
	rootSize = 1 << rootBits
)

// root is the first level.
type root struct {
	slots [rootSize]slot
	owner *edit
}

// branch has a slot for each 5 bits of hash that some name below it has.
type branch struct {
	used  uint32 // which of the 32 slots are there
	slots []slot
	owner *edit // may change the branch in place; nobody once its edit is done
}

// slot is a branch or a node. Nodes whose 64 bits of hash are all equal are chained.
type slot struct {
	b *branch
	l *node
}

// edit is the right to change, in place, branches that were made by it: a table
// that is made of many names copies no branch twice.
type edit struct{ _ byte }

var hashSeed = maphash.MakeSeed()

// get finds a name in wire form and lower case. It allocates nothing.
func (t *trie) get(name []byte) *node {
	if t.root == nil {
		return nil
	}
	h := maphash.Bytes(hashSeed, name)
	s := t.root.slots[h%rootSize]
	for shift := rootBits; s.b != nil; shift += 5 {
		s = s.b.slot(uint32(1) << (h >> shift & 31))
	}
	return s.l.named(h, name)
}

// named gives the node of a chain that has this name, or nil.
func (n *node) named(hash uint64, name []byte) *node {
	for ; n != nil; n = n.next {
		if n.hash == hash && n.name == string(name) {
			return n
		}
	}
	return nil
}

// set gives a trie in which the name has this node; nil takes the name out. A node belongs to
// one name.
func (t trie) set(name string, n *node, by *edit) trie {
	h := maphash.String(hashSeed, name)
	switch {
	case t.root == nil && n == nil:
		return t
	case t.root == nil:
		t.root = &root{owner: by}
	case t.root.owner != by:
		t.root = &root{slots: t.root.slots, owner: by}
	}
	s := &t.root.slots[h%rootSize]
	if n == nil {
		to, gone := s.remove(h, name, rootBits, by)
		if gone {
			*s = to
			t.size--
		}
		return t
	}
	n.hash, n.name = h, name
	to, added := s.put(n, rootBits, by)
	*s = to
	if added {
		t.size++
	}
	return t
}

// mine gives the branch if by may change it, else a copy that it may.
func (b *branch) mine(by *edit) *branch {
	if b.owner == by {
		return b
	}
	return &branch{used: b.used, slots: append(make([]slot, 0, len(b.slots)+1), b.slots...), owner: by}
}

// put gives the slot with a node, at a depth of so many bits of hash.
func (s slot) put(l *node, shift int, by *edit) (_ slot, added bool) {
	switch {
	case s.b == nil && s.l == nil:
		return slot{l: l}, true
	case s.b == nil && s.l.hash == l.hash:
		rest, had := s.l.without(l.name)
		l.next = rest
		return slot{l: l}, !had
	case s.b == nil:
		// Two names part here or further down.
		old := s.l
		s = slot{b: &branch{owner: by}}
		s, _ = s.put(old, shift, by)
	}
	bit := uint32(1) << (l.hash >> shift & 31)
	i := bits.OnesCount32(s.b.used & (bit - 1))
	b := s.b.mine(by)
	if b.used&bit == 0 {
		b.used |= bit
		b.slots = append(b.slots, slot{})
		copy(b.slots[i+1:], b.slots[i:])
		b.slots[i] = slot{}
	}
	b.slots[i], added = b.slots[i].put(l, shift+5, by)
	return slot{b: b}, added
}

// remove gives the slot without a name. A branch that is left with one node gives way to it.
func (s slot) remove(h uint64, name string, shift int, by *edit) (_ slot, gone bool) {
	if s.b == nil {
		s.l, gone = s.l.without(name)
		return s, gone
	}
	bit := uint32(1) << (h >> shift & 31)
	if s.b.used&bit == 0 {
		return s, false
	}
	i := bits.OnesCount32(s.b.used & (bit - 1))
	to, gone := s.b.slots[i].remove(h, name, shift+5, by)
	if !gone {
		return s, false
	}
	b := s.b.mine(by)
	b.slots[i] = to
	if to == (slot{}) {
		b.slots = append(b.slots[:i], b.slots[i+1:]...)
		b.used &^= bit
	}
	switch {
	case len(b.slots) == 0:
		return slot{}, true
	case len(b.slots) == 1 && b.slots[0].b == nil:
		return b.slots[0], true
	}
	return slot{b: b}, true
}

// without gives a chain without a name, copied as far as it changes.
func (n *node) without(name string) (_ *node, had bool) {
	switch {
	case n == nil:
		return nil, false
	case n.name == name:
		return n.next, true
	}
	rest, had := n.next.without(name)
	if !had {
		return n, false
	}
	to := *n
	to.next = rest
	return &to, true
}

// all calls f for every name, in no order.
func (t *trie) all(f func(name string, n *node)) {
	if t.root != nil {
		for _, s := range t.root.slots {
			s.all(f)
		}
	}
}

func (s slot) all(f func(string, *node)) {
	if s.b != nil {
		for _, s := range s.b.slots {
			s.all(f)
		}
	}
	for l := s.l; l != nil; l = l.next {
		f(l.name, l)
	}
}

// differ calls f for every name whose node is not the same in both tries, nil
// for none. What they share costs nothing.
func (t *trie) differ(o *trie, f func(name string, was, is *node)) {
	if t.root == o.root {
		return
	}
	none := new(root)
	was, is := t.root, o.root
	if was == nil {
		was = none
	}
	if is == nil {
		is = none
	}
	for i := range was.slots {
		differ(was.slots[i], is.slots[i], f)
	}
}

func differ(was, is slot, f func(string, *node, *node)) {
	if was == is {
		return
	}
	if was.b == nil || is.b == nil {
		// At most one of them is large, and all of it is new or gone.
		old := map[string]*node{}
		was.all(func(name string, n *node) { old[name] = n })
		is.all(func(name string, n *node) {
			if o := old[name]; o != n {
				f(name, o, n)
			}
			delete(old, name)
		})
		for name, n := range old {
			f(name, n, nil)
		}
		return
	}
	for both := was.b.used | is.b.used; both != 0; both &= both - 1 {
		bit := both & -both
		differ(was.b.slot(bit), is.b.slot(bit), f)
	}
}

func (b *branch) slot(bit uint32) slot {
	if b.used&bit == 0 {
		return slot{}
	}
	return b.slots[bits.OnesCount32(b.used&(bit-1))]
}
