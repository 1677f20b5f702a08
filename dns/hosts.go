package dns

import (
	"maps"
	"slices"
)

// maxHosts is how many hosts a table may know: their numbers have 16 bits.
const maxHosts = 1 << 16

// hosts is what is known of those who registered names.
type hosts struct {
	index map[string]uint16
	list  []hostState
	// Who may change them in place.
	byIndex, byList *edit
}

type hostState struct {
	name string
	HostState
}

// HostState is what answers need to know of a host that registers names. The
// zero value is a host that is there and near.
type HostState struct {
	// Rank is how far away the host is: lower ones are answered first, those of equal rank
	// in random order.
	Rank uint16
	// Hidden hosts' records are kept and not answered.
	Hidden bool
}

// SetHost sets what answers need to know of a host, if it has a place (see [Edit.Add]). It costs the same
// however many records the host has.
func (e *Edit) SetHost(host string, s HostState) {
	i, ok := e.host(host)
	if !ok || e.t.hosts.list[i].HostState == s {
		return
	}
	e.ownHosts().list[i].HostState = s
}

// host gives the index of a host, which is new if need be. False: there is no room for it.
func (e *Edit) host(name string) (i uint16, ok bool) {
	if i, ok := e.t.hosts.index[name]; ok {
		return i, true
	}
	if len(e.t.hosts.list) == maxHosts {
		return 0, false
	}
	h := e.ownHosts()
	if h.byIndex != e.by {
		h.index, h.byIndex = maps.Clone(h.index), e.by
	}
	i = uint16(len(h.list))
	h.list, h.index[name] = append(h.list, hostState{name: name}), i
	return i, true
}

// ownHosts gives hosts whose list may be changed in place.
func (e *Edit) ownHosts() *hosts {
	if old := e.t.hosts; old.byList != e.by {
		e.t.hosts = &hosts{index: old.index, list: slices.Clone(old.list), byIndex: old.byIndex, byList: e.by}
	}
	return e.t.hosts
}

// sameHidden says whether the hosts that both tables know are hidden alike.
func (t *Table) sameHidden(o *Table) bool {
	if t.hosts == o.hosts {
		return true
	}
	for i, h := range o.hosts.list {
		hidden := i < len(t.hosts.list) && t.hosts.list[i].Hidden
		if hidden != h.Hidden && i < len(t.hosts.list) {
			return false
		}
	}
	return true
}

// Hosts is how many hosts the table knows: all that ever had records or a state in it or in those that it was made from.
func (t *Table) Hosts() int { return len(t.hosts.list) }

// SameHosts says whether both tables answer for the same hosts in the same way.
func (t *Table) SameHosts(o *Table) bool {
	return t.hosts == o.hosts || slices.Equal(t.hosts.list, o.hosts.list)
}
