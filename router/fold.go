package router

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// folded is what the logs of all hosts say, in the router's terms, but for their
// names: those are many, and package router follows them entry by entry (zone.go).
type folded struct {
	Facts  []ipam.Fact
	Source []source    // of Facts, in the same order
	Claims []hostClaim // sorted by host, then address
	OwnIPs map[netip.Prefix]bool
	Gone   map[peer.ID]bool // hosts that were reset
	Bad    int              // entries that were not taken
}

// grantCache remembers verified facts by their entry's bytes, so that a change
// of the logs costs no signature checks for what has not changed. The zero value
// is ready; it may be used by several goroutines.
type grantCache struct {
	mu sync.Mutex // guards m
	m  map[string]source
}

// begin gives what is known, not to be changed.
func (c *grantCache) begin() map[string]source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m
}

// end keeps what was used, and nothing else.
func (c *grantCache) end(used map[string]source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = used
}

// fold reads the effective entries of every log. It is a pure function of st
// but for the cache, which only saves time. Entries that it does not
// understand are left to newer hosts; entries that lie are counted in Bad.
func fold(st *mesh.State, id mesh.MeshID, cache *grantCache) folded {
	f := folded{OwnIPs: map[netip.Prefix]bool{}, Gone: map[peer.ID]bool{}}
	known, used := cache.begin(), map[string]source{}
	for _, author := range slices.SortedFunc(maps.Keys(st.Logs), peer.ID.Compare) {
		claims := map[netip.Prefix]bool{}
		for _, e := range st.Logs[author] {
			switch e.Kind {
			case mesh.KindGrant:
				raw := string(e.Raw())
				s, ok := known[raw]
				if !ok {
					var err error
					if s, err = parseFact(author, e, id); err != nil {
						if !errors.Is(err, errNewer) {
							f.Bad++
						}
						continue
					}
				}
				used[raw] = s
				if g := s.Fact.Grant; g.Version == 1 && (g.To != ipam.Owner(st.Founding.Founder) || g.Prefix != st.Founding.Range) {
					f.Bad++ // a seed by somebody who did not found this mesh
					continue
				}
				f.Facts, f.Source = append(f.Facts, s.Fact), append(f.Source, s)
			case mesh.KindClaim:
				o, p, err := parseClaim(e.Payload)
				switch {
				case err == errNewer:
				case err != nil:
					f.Bad++
				case o == opSet:
					claims[p] = true
				default:
					delete(claims, p)
				}
			case mesh.KindDepart:
				f.Gone[author] = true
			}
		}
		if f.Gone[author] {
			continue
		}
		for _, p := range slices.SortedFunc(maps.Keys(claims), comparePrefix) {
			f.Claims = append(f.Claims, hostClaim{Addr: p, Host: author})
		}
		if author == st.Self {
			f.OwnIPs = claims
		}
	}
	cache.end(used)
	return f
}

// foldNow folds a state with the router's cache.
func (r *Router) foldNow(st *mesh.State) folded { return fold(st, r.member.Secret.MeshID(), &r.grants) }

// ownClaims are the addresses that this host's own log announces.
func ownClaims(st *mesh.State) map[netip.Prefix]bool {
	var es []mesh.Entry
	for _, e := range st.Logs[st.Self] {
		if e.Kind == mesh.KindClaim {
			es = append(es, e)
		}
	}
	return fold(&mesh.State{Self: st.Self, Logs: map[peer.ID][]mesh.Entry{st.Self: es}}, mesh.MeshID{}, new(grantCache)).OwnIPs
}

// base is what this host's log must hold when a new epoch is opened: every
// grant that it gave or was given, and the names and addresses of what lives
// here now.
func base(old []mesh.Entry, names map[nameKey]bool, claims map[netip.Prefix]bool) ([]mesh.Draft, error) {
	var ds []mesh.Draft
	for _, e := range old {
		if e.Kind == mesh.KindGrant {
			ds = append(ds, mesh.Draft{Kind: e.Kind, Payload: e.Payload})
		}
	}
	add, err := nameDrafts(nil, slices.Collect(maps.Keys(names)))
	return append(append(ds, add...), claimDrafts(nil, claims)...), err
}

// nameDrafts are the entries that withdraw names and announce others, sorted. Others may answer between any two of them. So a name
// that gets something else is announced before it is withdrawn, and there is no moment without it. All else is withdrawn first,
// above all an address that is another container's now: it must not be answered for the one that had it. That a container is
// unhealthy is said before its names are, and taken back after they are, so that it is never answered as healthy. A name that
// cannot be written is left out and reported.
func nameDrafts(withdrawn, announced []nameKey) ([]mesh.Draft, error) {
	var ds []mesh.Draft
	var errs []error
	add := func(o op, ks []nameKey) {
		slices.SortFunc(ks, nameKey.compare)
		for _, k := range ks {
			b, err := encodeName(o, k)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			ds = append(ds, mesh.Draft{Kind: mesh.KindName, Payload: b})
		}
	}
	type place struct {
		name string
		kind nameType
	}
	at := func(k nameKey) place {
		if k.Type == typeCNAME {
			k.Type = typeAddr // to which it leads
		}
		return place{k.Name, k.Type}
	}
	replaced, tenant := map[place]bool{}, map[netip.Addr]string{}
	for _, k := range announced {
		replaced[at(k)] = true
		if k.Addr.IsValid() {
			tenant[k.Addr] = k.Container
		}
	}
	isMark := func(k nameKey) bool { return k.Type == typeUnhealthy }
	marks, names := parted(announced, isMark)
	gone, withdrawn := parted(withdrawn, isMark)
	var first, last []nameKey
	for _, k := range withdrawn {
		if by, moved := tenant[k.Addr]; replaced[at(k)] && (!moved || by == k.Container) {
			last = append(last, k)
		} else {
			first = append(first, k)
		}
	}
	add(opSet, marks)
	add(opDel, first)
	add(opSet, names)
	add(opDel, last)
	add(opDel, gone)
	return ds, errors.Join(errs...)
}

// parted are those of which which holds, and the others.
func parted(ks []nameKey, which func(nameKey) bool) (yes, no []nameKey) {
	for _, k := range ks {
		if which(k) {
			yes = append(yes, k)
		} else {
			no = append(no, k)
		}
	}
	return yes, no
}

func claimDrafts(announced, wanted map[netip.Prefix]bool) []mesh.Draft {
	var ds []mesh.Draft
	add := func(o op, from, without map[netip.Prefix]bool) {
		for _, p := range slices.SortedFunc(maps.Keys(from), comparePrefix) {
			if !without[p] {
				ds = append(ds, mesh.Draft{Kind: mesh.KindClaim, Payload: encodeClaim(o, p)})
			}
		}
	}
	add(opDel, announced, wanted)
	add(opSet, wanted, announced)
	return ds
}
