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
	root *branch
	size int
}

// branch has a slot for each 5 bits of hash that some name below it has.
type branch struct {
	used  uint32 // which of the 32 slots are there
	slots []slot
	owner *edit // may change the branch in place; nobody once its edit is done
}

// slot is a branch or a leaf.
type slot struct {
	b *branch
	l *leaf
}

// leaf is one name. Names whose 64 bits of hash are all equal are chained.
type leaf struct {
	hash uint64
	name string
	node *node
	next *leaf
}

// edit is the right to change, in place, branches that were made by it: a table
// that is made of many names copies no branch twice.
type edit struct{ _ byte }

var hashSeed = maphash.MakeSeed()

// get finds a name in wire form and lower case. It allocates nothing.
func (t *trie) get(name []byte) *node {
	h := maphash.Bytes(hashSeed, name)
	b := t.root
	for shift := 0; b != nil; shift += 5 {
		bit := uint32(1) << (h >> shift & 31)
		if b.used&bit == 0 {
			return nil
		}
		s := b.slots[bits.OnesCount32(b.used&(bit-1))]
		if s.l != nil {
			for l := s.l; l != nil; l = l.next {
				if l.hash == h && l.name == string(name) {
					return l.node
				}
			}
			return nil
		}
		b = s.b
	}
	return nil
}

// set gives a trie in which the name has this node; nil takes the name out.
func (t trie) set(name string, n *node, by *edit) trie {
	h := maphash.String(hashSeed, name)
	if n == nil {
		root, gone := t.root.remove(h, name, 0, by)
		if gone {
			return trie{root, t.size - 1}
		}
		return t
	}
	if t.root == nil {
		t.root = &branch{owner: by}
	}
	root, added := t.root.put(&leaf{hash: h, name: name, node: n}, 0, by)
	if added {
		t.size++
	}
	return trie{root, t.size}
}

// mine gives the branch if by may change it, else a copy that it may.
func (b *branch) mine(by *edit) *branch {
	if b.owner == by {
		return b
	}
	return &branch{used: b.used, slots: append(make([]slot, 0, len(b.slots)+1), b.slots...), owner: by}
}

func (b *branch) put(l *leaf, shift int, by *edit) (_ *branch, added bool) {
	bit := uint32(1) << (l.hash >> shift & 31)
	i := bits.OnesCount32(b.used & (bit - 1))
	b = b.mine(by)
	if b.used&bit == 0 {
		b.used |= bit
		b.slots = append(b.slots, slot{})
		copy(b.slots[i+1:], b.slots[i:])
		b.slots[i] = slot{l: l}
		return b, true
	}
	s := &b.slots[i]
	switch {
	case s.b != nil:
		s.b, added = s.b.put(l, shift+5, by)
	case s.l.hash == l.hash:
		old, has := s.l.without(l.name)
		l.next, added = old, !has
		s.l = l
	default:
		// Two names part further down.
		down := &branch{owner: by}
		down, _ = down.put(s.l, shift+5, by)
		down, added = down.put(l, shift+5, by)
		*s = slot{b: down}
	}
	return b, added
}

// remove takes a name out; a branch that is left with one leaf gives way to it.
func (b *branch) remove(h uint64, name string, shift int, by *edit) (_ *branch, gone bool) {
	if b == nil {
		return nil, false
	}
	bit := uint32(1) << (h >> shift & 31)
	if b.used&bit == 0 {
		return b, false
	}
	i := bits.OnesCount32(b.used & (bit - 1))
	s := b.slots[i]
	if s.b != nil {
		s.b, gone = s.b.remove(h, name, shift+5, by)
		if gone && s.b != nil && len(s.b.slots) == 1 && s.b.slots[0].l != nil {
			s = s.b.slots[0]
		}
	} else {
		s.l, gone = s.l.without(name)
	}
	if !gone {
		return b, false
	}
	b = b.mine(by)
	if s.b == nil && s.l == nil {
		b.slots = append(b.slots[:i], b.slots[i+1:]...)
		b.used &^= bit
		if len(b.slots) == 0 {
			return nil, true
		}
		return b, true
	}
	b.slots[i] = s
	return b, true
}

// without gives a chain without a name, copied as far as it changes.
func (l *leaf) without(name string) (_ *leaf, had bool) {
	switch {
	case l == nil:
		return nil, false
	case l.name == name:
		return l.next, true
	}
	rest, had := l.next.without(name)
	if !had {
		return l, false
	}
	return &leaf{l.hash, l.name, l.node, rest}, true
}

// all calls f for every name, in no order.
func (t *trie) all(f func(name string, n *node)) { t.root.all(f) }

func (b *branch) all(f func(string, *node)) {
	if b == nil {
		return
	}
	for _, s := range b.slots {
		s.all(f)
	}
}

func (s slot) all(f func(string, *node)) {
	s.b.all(f)
	for l := s.l; l != nil; l = l.next {
		f(l.name, l.node)
	}
}

// differ calls f for every name whose node is not the same in both tries, nil
// for none. What they share costs nothing.
func (t *trie) differ(o *trie, f func(name string, was, is *node)) {
	differ(slot{b: t.root}, slot{b: o.root}, 0, f)
}

func differ(was, is slot, shift int, f func(string, *node, *node)) {
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
		differ(was.b.slot(bit), is.b.slot(bit), shift+5, f)
	}
}

func (b *branch) slot(bit uint32) slot {
	if b.used&bit == 0 {
		return slot{}
	}
	return b.slots[bits.OnesCount32(b.used&(bit-1))]
}
