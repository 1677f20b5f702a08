package router

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// beginning is how the ring of a mesh begins, as --ipalloc-init says. It counts
// on the host that founds the mesh, but for observer; the others learn it from
// that host's log.
type beginning struct {
	first    int      // how many hosts share the range out; 0 or 1: the founder has all of it
	seeds    []string // nicknames or peer IDs of those that do; nil: whoever comes first
	observer bool     // this host asks for space only when a container needs some, and does not vote
}

// parseBeginning reads consensus[=N], seed=ID,… or observer; empty is the default.
func parseBeginning(s string) (beginning, error) {
	how, value, given := strings.Cut(s, "=")
	switch {
	case s == "", s == "consensus":
		return beginning{}, nil
	case s == "observer":
		return beginning{observer: true}, nil
	case how == "consensus" && given:
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > ipam.MaxElectors {
			return beginning{}, fmt.Errorf("consensus=%s: the number of hosts is from 1 to %d", value, ipam.MaxElectors)
		}
		return beginning{first: n}, nil
	case how == "seed" && given:
		var b beginning
		for _, name := range strings.Split(value, ",") {
			if name = strings.TrimSpace(name); name == "" || slices.Contains(b.seeds, name) {
				return beginning{}, fmt.Errorf("seed=%s: a list of different hosts is wanted, nicknames or peer IDs", value)
			}
			b.seeds = append(b.seeds, name)
		}
		if b.first = len(b.seeds); b.first > ipam.MaxElectors {
			return beginning{}, fmt.Errorf("seed=…: %d hosts, more than %d", b.first, ipam.MaxElectors)
		}
		return b, nil
	}
	return beginning{}, fmt.Errorf("%q is not consensus, consensus=N, seed=HOST,… or observer", s)
}

// fact is what the founder writes at the head of its log; nil if it seeds the
// ring for itself.
func (b beginning) fact(self peer.ID) *ipam.Fact {
	if b.first < 2 && b.seeds == nil {
		return nil
	}
	return &ipam.Fact{By: ipam.Owner(self), Kind: ipam.FactInit, First: uint8(b.first), Named: b.seeds != nil}
}

// owners are the hosts that the founder has named, as far as they are members, and what
// is wrong with the other names.
func (b beginning) owners(st *mesh.State) (known []ipam.Owner, missing []string) {
	by := map[ipam.Owner]string{}
	for _, name := range b.seeds {
		var found []ipam.Owner
		for _, h := range st.Hosts {
			if h.ID.String() == name {
				found = []ipam.Owner{ipam.Owner(h.ID)}
				break
			}
			if h.Record.Nickname == name {
				found = append(found, ipam.Owner(h.ID))
			}
		}
		switch {
		case len(found) == 0:
			missing = append(missing, name)
		case len(found) > 1:
			missing = append(missing, fmt.Sprintf("one of the %d hosts that are called %s: launch anew with peer IDs", len(found), name))
		case by[found[0]] != "":
			missing = append(missing, fmt.Sprintf("another host than %s, which is %s as well: launch anew", name, by[found[0]]))
		default:
			by[found[0]] = name
			known = append(known, found[0])
		}
	}
	slices.SortFunc(known, ipam.Owner.Compare)
	return known, missing
}

// differs says in what the mesh does not begin as this host was told.
func (b beginning) differs(l *ipam.Ledger) string {
	first, named := l.Beginning()
	switch {
	case b.first == 0, b.first == max(first, 1) && (b.seeds != nil) == named:
		return ""
	case first == 0:
		return "this host was launched with another --ipalloc-init than the founder of the mesh, which has the whole range to begin with; the founder's counts (launch with --ipalloc-init consensus to be told no more)"
	case named:
		return fmt.Sprintf("this host was launched with another --ipalloc-init than the founder of the mesh, which has named %d hosts to begin the ring; the founder's counts (launch with --ipalloc-init consensus to be told no more)", first)
	}
	return fmt.Sprintf("this host was launched with another --ipalloc-init than the founder of the mesh, consensus=%d; the founder's counts (launch with --ipalloc-init consensus to be told no more)", first)
}
