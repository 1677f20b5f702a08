package dns

import (
	"slices"
	"strconv"
	"testing"
)

// Names that are looked for together are found as each alone is: at all depths of the trie, beside names that are not there, and whatever
// was looked for before.
func TestSearchesTogether(t *testing.T) {
	check := func(tab *trie, ss []search) (found int) {
		t.Helper()
		tab.getAll(ss)
		for _, s := range ss {
			if want := tab.get(s.name); s.node != want {
				t.Fatalf("%s: found %+v, want %+v", fromWire(string(s.name)), s.node, want)
			}
			if s.node != nil && s.node.name != string(s.name) {
				t.Fatalf("%s: found %s", fromWire(string(s.name)), fromWire(s.node.name))
			}
			if s.node != nil {
				found++
			}
		}
		return found
	}
	const size = 20000
	var names trie
	by := new(edit)
	ss := make([]search, 32)
	for i := range ss {
		ss[i].name = []byte(toWire(strconv.Itoa(i) + ".weft.local."))
	}
	if n := check(&names, ss); n != 0 {
		t.Errorf("%d found in nothing", n)
	}
	for i := range size {
		if i == 10 {
			if n := check(&names, ss); n != 10 {
				t.Errorf("%d of 10 found", n)
			}
		}
		names = names.set(toWire(strconv.Itoa(i)+".weft.local."), &node{entries: []entry{{data: "\x0a\x00\x00\x01"}}}, by)
	}
	for from := 0; from < 2*size; from += len(ss) {
		want := 0
		for i := range ss {
			n := (from + i) * 7919 % (2 * size) // scattered, half of them not there
			if n < size {
				want++
			}
			ss[i].name = []byte(toWire(strconv.Itoa(n) + ".weft.local."))
		}
		if n := check(&names, ss); n != want {
			t.Errorf("%d found of %d", n, want)
		}
	}
	check(&names, nil)
	empty := slices.Clone(ss)
	if n := check(new(trie), empty); n != 0 {
		t.Errorf("%d found in nothing after others", n)
	}
}

// Nodes that share a hash are told apart by their names.
func TestSearchesOfAChain(t *testing.T) {
	var names trie
	name := toWire("a.weft.local.")
	names = names.set(name, &node{}, new(edit))
	first := names.get([]byte(name))
	other := &node{hash: first.hash, name: toWire("b.weft.local."), next: first}
	names.root.slots[first.hash%rootSize] = slot{l: other}
	ss := []search{{name: []byte(name)}}
	if names.getAll(ss); ss[0].node != first {
		t.Errorf("found %+v", ss[0].node)
	}
	names.root.slots[first.hash%rootSize] = slot{l: &node{hash: first.hash, name: other.name}}
	if names.getAll(ss); ss[0].node != nil {
		t.Errorf("found %+v", ss[0].node)
	}
}
