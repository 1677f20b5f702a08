package router

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/ipam"
)

// attachment is the persisted intent to give one container, or one network
// namespace, its place on the mesh. It is written to the state file before
// anything of it is done, and redone at every start of the router, the engine
// or the container, until it is detached or the container is removed.
//
// Stored as JSON under its key in the bucket "attach"; unknown fields are
// dropped, missing ones are zero.
type attachment struct {
	// Key names the container: Docker's full ID, "netns:PATH" or "pid:N".
	Key   string
	Name  string // Docker's name, for people; empty for bare namespaces
	NetNS string // path of the namespace; found anew for Docker's containers
	NSID  string // host.NetNSID of the namespace when it was last seen alive

	Addrs        []netip.Prefix // address with its subnet's length
	Claimed      []netip.Addr   // those of Addrs that were asked for by name
	Names        []attachedName
	Offers       []offer `json:",omitempty"` // from the container's labels and exposed ports, of its main name; found anew at each start of it
	Default      string  // of Names, what came from the container: it follows a renaming; empty: attached without
	NoMulticast  bool
	RewriteHosts bool      // the container's hosts file, which the engine writes anew at each start
	HostsFile    hostsFile `json:",omitzero"`  // that one, if so
	Unhealthy    bool      `json:",omitempty"` // what its health check last said, while the engine could be asked

	// What follows is not stored.
	running bool
	mac     string
}

// attachedName is a name of an attachment. It is answered while the container
// lives.
type attachedName struct {
	FQDN string
	Addr netip.Addr
	Type nameType `json:",omitempty"` // zero: Addr
	Port uint16   `json:",omitempty"`
	Data string   `json:",omitempty"`
}

func (n attachedName) key(container string) nameKey {
	return nameKey{Name: n.FQDN, Addr: n.Addr, Container: container, Type: n.Type, Port: n.Port, Data: n.Data}
}

const (
	bucketAttach = "attach"
	bucketStatic = "static"
	bucketRouter = "router"
)

func (a *attachment) docker() bool { return !strings.Contains(a.Key, ":") }

// each goes through its names, and what it offers at its main name.
func (a *attachment) each(domain string, f func(attachedName)) {
	for _, n := range a.Names {
		f(n)
	}
	main, ok := a.mainName()
	if !ok || len(a.Offers) == 0 {
		return
	}
	target := serviceTarget(a.Key, main)
	services(a.Offers, main, domain, target, f)
	for _, n := range a.Names {
		if n.Type == typeAddr && n.FQDN == main && target != main {
			f(attachedName{FQDN: target, Addr: n.Addr})
		}
	}
}

// found goes through what is found of it now: nothing unless it lives, and no address that is another host's.
func (a *attachment) found(domain string, others func(netip.Addr) bool, f func(nameKey)) {
	if !a.running {
		return
	}
	a.each(domain, func(n attachedName) {
		if !n.Addr.IsValid() || !others(n.Addr) {
			f(n.key(shortKey(a.Key)))
		}
	})
}

// removeNames takes names from it, of all addresses and all names if none are given, and says whose are gone.
func (a *attachment) removeNames(fqdn string, ips []netip.Addr) (gone []netip.Addr) {
	a.Names = slices.DeleteFunc(a.Names, func(n attachedName) bool {
		hit := (fqdn == "" || n.FQDN == fqdn) && (len(ips) == 0 || slices.Contains(ips, n.Addr))
		if hit {
			gone = append(gone, n.Addr)
		}
		return hit
	})
	return gone
}

// serviceTarget is the name that SRV records of a container lead to. Several containers may
// have its other names, and offer other things or nothing.
func serviceTarget(key, main string) string {
	if t := shortKey(key) + "." + main; len(t) <= 254 { // RFC 1035, with the last dot
		return t
	}
	return main
}

// clone copies an attachment, so that it can be changed, stored, and only then
// put in place of the old one.
func (a *attachment) clone() *attachment {
	c := *a
	c.Addrs = slices.Clone(a.Addrs)
	c.Claimed = slices.Clone(a.Claimed)
	c.Names = slices.Clone(a.Names)
	c.Offers = slices.Clone(a.Offers)
	return &c
}

// addAddr gives it an address, in the place of the same one with another length.
func (a *attachment) addAddr(p netip.Prefix, claimed bool) {
	if i := slices.IndexFunc(a.Addrs, func(have netip.Prefix) bool { return have.Addr() == p.Addr() }); i >= 0 {
		a.Addrs[i] = p
	} else {
		a.Addrs = append(a.Addrs, p)
	}
	if claimed && !slices.Contains(a.Claimed, p.Addr()) {
		a.Claimed = append(a.Claimed, p.Addr())
	}
}

// hasAddr says whether an address is among them, with whatever length.
func hasAddr(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (a *attachment) dropAddr(addr netip.Addr) {
	a.Addrs = slices.DeleteFunc(a.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr })
	a.Claimed = slices.DeleteFunc(a.Claimed, func(c netip.Addr) bool { return c == addr })
	a.Names = slices.DeleteFunc(a.Names, func(n attachedName) bool { return n.Addr == addr })
}

func (a *attachment) addName(n attachedName) {
	if !slices.Contains(a.Names, n) {
		a.Names = append(a.Names, n)
	}
}

// sameContainer says whether both were made for the same start of a container, by
// the same name.
func (a *attachment) sameContainer(b *attachment) bool {
	return a.NSID == b.NSID && a.NetNS == b.NetNS && a.Name == b.Name
}

// nameAll gives all its addresses a default name; empty: none.
func (a *attachment) nameAll(fqdn string) {
	if a.Default = fqdn; fqdn == "" {
		return
	}
	for _, p := range a.Addrs {
		a.addName(attachedName{FQDN: fqdn, Addr: p.Addr()})
	}
}

// rename puts another default name in the place of the old one.
func (a *attachment) rename(fqdn string) {
	if a.Default == "" || fqdn == "" {
		return
	}
	for i, n := range a.Names {
		if n.FQDN == a.Default {
			a.Names[i].FQDN = fqdn
		}
	}
	a.Default = fqdn
}

func (a *attachment) allocations() []ipam.Allocation {
	var out []ipam.Allocation
	for _, p := range a.Addrs {
		out = append(out, ipam.Allocation{Container: a.Key, Addr: p, Claimed: slices.Contains(a.Claimed, p.Addr())})
	}
	return out
}

// shortKey is how a container is named in tables and in the name table: the
// first 12 characters of Docker's ID, or the namespace as it was given.
func shortKey(key string) string {
	if !strings.Contains(key, ":") && len(key) > 12 {
		return key[:12]
	}
	return key
}

// putAttachmentLocked makes them the stored and then the effective attachments, all or
// none. One without addresses is none: it goes.
func (r *Router) putAttachmentLocked(as ...*attachment) error {
	put, del := map[string][]byte{}, []string(nil)
	for _, a := range as {
		if len(a.Addrs) == 0 {
			del = append(del, a.Key)
			continue
		}
		b, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("encode attachment %s: %w", shortKey(a.Key), err)
		}
		put[a.Key] = b
	}
	defer r.bearStored(as)
	if err := r.bearBoth(as); err != nil {
		return err
	}
	if err := r.db.Apply(bucketAttach, put, del); err != nil {
		return err
	}
	for _, a := range as {
		if r.attached[a.Key] = a; len(a.Addrs) == 0 {
			delete(r.attached, a.Key)
		}
	}
	return nil
}

func (r *Router) dropAttachmentLocked(key string) error {
	return r.putAttachmentLocked(&attachment{Key: key})
}

func loadAttachments(load func(string) (map[string][]byte, error)) (map[string]*attachment, error) {
	stored, err := load(bucketAttach)
	if err != nil {
		return nil, err
	}
	all := map[string]*attachment{}
	for key, b := range stored {
		a := new(attachment)
		if err := json.Unmarshal(b, a); err != nil || a.Key != key {
			return nil, &Error{Msg: fmt.Sprintf("the state file's attachment of %s cannot be read", shortKey(key)), Err: err,
				Tip: "restore STATE-DIR from a backup, or remove this host with `weft reset --force` and launch it again"}
		}
		all[key] = a
	}
	return all, nil
}

// heldPrefix begins the keys of addresses that a program holds through the API
// without a container that weft wires.
const heldPrefix = "held:"
