package router

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"weft/dns"
)

// lingering is how long what dns-remove has taken is still answered, so that a dns-add right behind it replaces it
// without a moment in which the name does not exist, or its services do not.
const lingering = 500 * time.Millisecond

// leaving is when a name that dns-remove has taken goes, and whose it was.
type leaving struct {
	until time.Time
	from  *attachment // as it was; nil: it belonged to no container
}

// lingerLocked keeps a removed name announced for a moment.
func (r *Router) lingerLocked(k nameKey, from *attachment) {
	r.linger[k] = leaving{time.Now().Add(lingering), from}
	time.AfterFunc(lingering, r.pokeNames)
}

// lost is what is not found of a container any more, after a change of its names.
func lost(before, after *attachment, domain string, others func(netip.Addr) bool) map[nameKey]bool {
	all := map[nameKey]bool{}
	before.found(domain, others, func(k nameKey) { all[k] = true })
	after.found(domain, others, func(k nameKey) { delete(all, k) })
	return all
}

// lingers says whether any name is.
func (r *Router) lingers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.linger) > 0
}

// endedLocked says that a removed name must not be answered any longer: its time is over, or its container does not live, or has
// its address no more, which may be anybody's then.
func (r *Router) endedLocked(k nameKey, was leaving, others func(netip.Addr) bool) bool {
	if !time.Now().Before(was.until) {
		return true
	}
	if was.from == nil {
		return false
	}
	now := r.attached[was.from.Key]
	return now == nil || !now.running || hasAddr(was.from.Addrs, k.Addr) && (!hasAddr(now.Addrs, k.Addr) || others(k.Addr))
}

// addLingeringLocked adds, to what is to be announced, removed names that nothing has
// replaced yet: here, or on another host.
func (r *Router) addLingeringLocked(names map[nameKey]bool, others func(netip.Addr) bool) {
	maps.DeleteFunc(r.linger, func(k nameKey, was leaving) bool { return r.endedLocked(k, was, others) })
	if len(r.linger) == 0 {
		return
	}
	own := func(k nameKey) dns.Record { return record(k, r.id.ID(), false) }
	here, mine := map[string][]dns.Record{}, map[dns.Record]bool{}
	for k := range r.linger {
		here[k.Name], mine[own(k)] = nil, true
	}
	for k := range names {
		if rs, ok := here[k.Name]; ok {
			here[k.Name] = append(rs, own(k))
		}
	}
	table, there := r.zone.table.Load(), map[string][]dns.Record{}
	for k := range r.linger {
		if _, looked := there[k.Name]; !looked {
			there[k.Name] = table.At(k.Name)
		}
		replaced := slices.ContainsFunc(here[k.Name], func(o dns.Record) bool { return replaces(o, own(k)) })
		elsewhere := slices.ContainsFunc(there[k.Name], func(o dns.Record) bool {
			o.Down = false
			return !mine[o] && replaces(o, own(k))
		})
		if replaced || elsewhere {
			delete(r.linger, k)
		}
	}
	for k, was := range r.linger {
		names[k] = true
		if was.from != nil && r.attached[was.from.Key].Unhealthy {
			names[mark(k.Container)] = true
		}
	}
}

// replaces says that a record takes the place of one of its name that was leaving: both lead to an address, or are
// of one type. So what a container offers beside its address replaces what another offered, and not its address. An
// alias replaces everything.
func replaces(o, removed dns.Record) bool {
	leads := func(r dns.Record) bool { return r.Addr.IsValid() || r.Type() == "CNAME" }
	return o.Type() == "CNAME" || o.Type() == removed.Type() || leads(o) && leads(removed)
}
