package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"weft/dns"
	"weft/internal/fdkeep"
)

// defaultName is the name that a container gets when it is attached: its
// hostname if that is in the domain (docker run -h web.weft.local), else its
// Docker name. A bare namespace gets none.
func (r *Router) defaultName(t target) string {
	full := strings.ToLower(strings.TrimSuffix(t.Hostname, "."))
	if t.Domainname != "" {
		full += "." + strings.ToLower(strings.Trim(t.Domainname, "."))
	}
	if strings.HasSuffix(full, "."+r.o.Domain) {
		if fqdn, err := dns.ValidName(full, r.o.Domain); err == nil {
			return fqdn
		}
	}
	if t.Name == "" {
		return ""
	}
	fqdn, err := dns.ValidName(t.Name+"."+r.o.Domain, r.o.Domain)
	if err != nil {
		r.log.Info("container gets no name: its Docker name is not a host name", "container", shortKey(t.Key), "name", t.Name)
		return ""
	}
	return fqdn
}

// nameRequest is the body of POST /dns/add and /dns/remove.
type nameRequest struct {
	Container string   `json:"container"` // empty: names without a container
	IPs       []string `json:"ips"`       // empty: all addresses of the container
	FQDN      string   `json:"fqdn"`      // empty: the container's own name; for a removal, all names
	CNAME     string   `json:"cname"`     // instead of addresses and container: the name that fqdn is to stand for
}

// nameResponse says what was added or removed.
type nameResponse struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Warnings  []string     `json:"warnings,omitempty"`
	CNAME     string       `json:"cname,omitempty"`
}

func (r *Router) nameAdd(ctx context.Context, q nameRequest) (nameResponse, error) {
	var none nameResponse
	ips, fqdn, err := r.parseNames(q)
	if err != nil {
		return none, err
	}
	if q.CNAME != "" {
		return r.alias(ctx, q, fqdn, true)
	}
	if q.Container == "" {
		if fqdn == "" || len(ips) == 0 {
			return none, badRequest("weft dns-add 10.32.0.9 -h db.weft.local", "a name without a container needs addresses and -h")
		}
		if err := r.changeStatic(addrKeys(ips, fqdn), nil); err != nil {
			return none, err
		}
		return nameResponse{Name: fqdn, Addresses: ips, Warnings: warnings(r.pass(ctx))}, nil
	}
	key, unlock, err := r.lockAttached(ctx, q.Container)
	if err != nil {
		return none, err
	}
	defer unlock()
	if fqdn == "" {
		t, err := r.resolve(ctx, q.Container)
		if err != nil {
			return none, err
		}
		if fqdn = r.defaultName(t); fqdn == "" {
			return none, badRequest("give it one with -h", "container %s has no name of its own", q.Container)
		}
	}
	if _, err := encodeName(opSet, nameKey{Name: fqdn, Addr: bridgeAddr, Container: shortKey(key)}); err != nil {
		return none, badRequest("use a shorter path of the namespace", "%v", err)
	}
	err = r.change(key, func(a *attachment) {
		if len(ips) == 0 {
			for _, p := range a.Addrs {
				ips = append(ips, p.Addr())
			}
		}
		for _, ip := range ips {
			a.addName(attachedName{FQDN: fqdn, Addr: ip})
		}
	})
	if err != nil {
		return none, err
	}
	return nameResponse{Name: fqdn, Addresses: ips, Warnings: warnings(r.pass(ctx))}, nil
}

func (r *Router) nameRemove(ctx context.Context, q nameRequest) (nameResponse, error) {
	var none nameResponse
	ips, fqdn, err := r.parseNames(q)
	if err != nil {
		return none, err
	}
	if q.CNAME != "" {
		return r.alias(ctx, q, fqdn, false)
	}
	if q.Container == "" {
		if len(ips) == 0 {
			return none, badRequest("weft dns-remove 10.32.0.9 -h db.weft.local", "name the addresses, or the container, whose names to remove")
		}
		var gone []netip.Addr
		err := r.changeStatic(nil, func(k nameKey) bool {
			hit := k.Type == typeAddr && (fqdn == "" || k.Name == fqdn) && slices.Contains(ips, k.Addr)
			if hit {
				gone = append(gone, k.Addr)
			}
			return hit
		})
		if err != nil {
			return none, err
		}
		return nameResponse{Name: fqdn, Addresses: once(gone), Warnings: warnings(r.pass(ctx))}, nil
	}
	key, unlock, err := r.lockAttached(ctx, q.Container)
	if err != nil {
		return none, err
	}
	defer unlock()
	var gone []netip.Addr
	err = r.change(key, func(a *attachment) {
		before, others := a.clone(), r.othersLocked()
		gone = a.removeNames(fqdn, ips)
		for k := range lost(before, a, r.o.Domain, others) {
			r.lingerLocked(k, before)
		}
	})
	if err == nil && len(gone) == 0 {
		err = errNoSuchName
	}
	if err != nil {
		return none, err
	}
	return nameResponse{Name: fqdn, Addresses: once(gone), Warnings: warnings(r.pass(ctx))}, nil
}

// once sorts addresses, and leaves out repetitions: several names may have been of one.
func once(as []netip.Addr) []netip.Addr {
	slices.SortFunc(as, netip.Addr.Compare)
	return slices.Compact(as)
}

// errNoSuchName answers a removal that would remove nothing.
var errNoSuchName = &Error{Msg: "there is no such name to remove", Tip: "`weft status dns` lists the names", Code: 404}

func (r *Router) lockAttached(ctx context.Context, container string) (string, func(), error) {
	key, err := r.keyOf(ctx, container)
	if err != nil {
		return "", nil, err
	}
	unlock, err := r.ops.lock(ctx, key)
	if err != nil {
		return "", nil, err
	}
	r.mu.Lock()
	have := r.attached[key]
	r.mu.Unlock()
	if have == nil {
		unlock()
		return "", nil, &Error{Msg: fmt.Sprintf("%s is not attached", container), Tip: "weft attach " + container, Code: 404}
	}
	return key, unlock, nil
}

func (r *Router) change(key string, f func(*attachment)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attached[key].clone()
	f(a)
	return r.putAttachmentLocked(a)
}

func (r *Router) parseNames(q nameRequest) (ips []netip.Addr, fqdn string, err error) {
	for _, s := range q.IPs {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return nil, "", badRequest("for example 10.32.0.9", "%q is not an IP address", s)
		}
		ips = append(ips, ip.Unmap())
	}
	if q.FQDN != "" {
		if fqdn, err = dns.ValidPattern(q.FQDN, r.o.Domain); err != nil {
			return nil, "", &Error{Err: err, Code: 400, Tip: "names are letters, digits and hyphens within " + r.o.Domain + ", *.NAME for all below one"}
		}
	}
	return ips, fqdn, nil
}

// alias makes a name stand for another, or ends that. It belongs to no container.
func (r *Router) alias(ctx context.Context, q nameRequest, fqdn string, add bool) (nameResponse, error) {
	if fqdn == "" || q.Container != "" || len(q.IPs) > 0 {
		return nameResponse{}, badRequest("weft dns-add --cname web.weft.local -h www.weft.local", "a name that stands for another needs -h, and neither addresses nor a container")
	}
	target := q.CNAME
	if !strings.Contains(strings.TrimSuffix(target, "."), ".") {
		target = strings.TrimSuffix(target, ".") + "." + r.o.Domain
	}
	target, err := dns.ValidTarget(target)
	if err == nil && target == fqdn {
		err = fmt.Errorf("name %q: stands for itself", q.FQDN)
	}
	if err != nil {
		return nameResponse{}, &Error{Err: err, Code: 400, Tip: "the target is a name, of one label within " + r.o.Domain + " or in full"}
	}
	k := nameKey{Name: fqdn, Type: typeCNAME, Data: target}
	if add {
		err = r.changeStatic([]nameKey{k}, nil)
	} else {
		err = r.changeStatic(nil, func(o nameKey) bool { return o == k })
	}
	if err != nil {
		return nameResponse{}, err
	}
	warn := warnings(r.pass(ctx))
	if add {
		warn = append(warn, aliasWarnings(r.zone.table.Load(), fqdn, target)...)
	}
	return nameResponse{Name: fqdn, CNAME: target, Warnings: warn}, nil
}

// aliasWarnings say what keeps an alias from being answered.
func aliasWarnings(t *dns.Table, fqdn, target string) (out []string) {
	if slices.ContainsFunc(t.At(fqdn), func(o dns.Record) bool { return o.Addr.IsValid() }) {
		out = append(out, fmt.Sprintf("%s has addresses, which are answered instead of the alias", fqdn))
	}
	for at, steps := target, 0; steps < 8; steps++ {
		if at == fqdn {
			return append(out, fmt.Sprintf("%s stands for itself by way of %s, and is answered with an error", fqdn, target))
		}
		rs := t.At(at)
		i := slices.IndexFunc(rs, func(o dns.Record) bool { return o.Type() == "CNAME" })
		if i < 0 {
			break
		}
		at = rs[i].Target
	}
	return out
}

func addrKeys(ips []netip.Addr, fqdn string) (ks []nameKey) {
	for _, ip := range ips {
		ks = append(ks, nameKey{Name: fqdn, Addr: ip})
	}
	return ks
}

// changeStatic adds names that belong to no container, and removes others.
func (r *Router) changeStatic(add []nameKey, remove func(nameKey) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	put := map[string][]byte{}
	var del []string
	for _, k := range add {
		if _, err := encodeName(opSet, k); err != nil {
			return err
		}
		b, err := json.Marshal(attachedName{FQDN: k.Name, Addr: k.Addr, Type: k.Type, Port: k.Port, Data: k.Data})
		if err != nil {
			return err
		}
		put[staticKey(k)] = b
	}
	for k := range r.static {
		if remove != nil && remove(k) {
			del = append(del, staticKey(k))
			r.lingerLocked(k, nil)
		}
	}
	if remove != nil && len(del) == 0 {
		return errNoSuchName
	}
	if err := r.db.Apply(bucketStatic, put, del); err != nil {
		return err
	}
	for _, k := range add {
		k.Container = ""
		r.static[k] = true
	}
	for k := range r.static {
		if remove != nil && remove(k) {
			delete(r.static, k)
		}
	}
	return nil
}

// staticKey is a name's key in the state file.
func staticKey(k nameKey) string {
	if k.Type == typeCNAME {
		return k.Name + " CNAME " + k.Data
	}
	return k.Name + " " + k.Addr.String()
}

func loadStatic(load func(string) (map[string][]byte, error)) (map[nameKey]bool, error) {
	stored, err := load(bucketStatic)
	if err != nil {
		return nil, err
	}
	all := map[nameKey]bool{}
	for k, b := range stored {
		var n attachedName
		if err := json.Unmarshal(b, &n); err != nil {
			return nil, fmt.Errorf("read name %q from the state file: %w", k, err)
		}
		all[n.key("")] = true
	}
	return all, nil
}

// dnsAddr is where containers find the name server: the bridge's address in
// Docker's default network, which they reach before they are attached, else
// the mesh's.
func (r *Router) dnsAddr() (netip.Addr, bool) {
	if r.dns == nil {
		return netip.Addr{}, false
	}
	if len(r.o.DNSListen) > 0 {
		return r.o.DNSListen[0].Addr(), true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bridgeDNS.IsValid() {
		return r.bridgeDNS, true
	}
	return bridgeAddr, true
}

// listenLocked is where the name server should listen now.
func (r *Router) listenLocked() []netip.AddrPort {
	if r.dns == nil {
		return nil
	}
	if len(r.o.DNSListen) > 0 {
		return slices.Clone(r.o.DNSListen)
	}
	out := []netip.AddrPort{netip.AddrPortFrom(bridgeAddr, 53)}
	if r.bridgeDNS.IsValid() {
		out = append(out, netip.AddrPortFrom(r.bridgeDNS, 53))
	}
	return out
}

// lookup answers a name as this host's server does.
func (r *Router) lookup(name string) ([]netip.Addr, error) {
	if r.dns == nil {
		return nil, &Error{Msg: "this router was launched without DNS", Code: 409, Tip: "`weft status dns` on another host, or launch without --no-dns"}
	}
	fqdn := strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	table := r.dns.Table()
	addrs := table.Lookup(fqdn)
	if len(addrs) == 0 && !strings.HasSuffix(fqdn, "."+r.o.Domain+".") {
		addrs = table.Lookup(fqdn + r.o.Domain + ".")
	}
	if len(addrs) == 0 {
		for _, e := range r.Report().DNS.Entries {
			if e.Hidden && (e.Name == strings.TrimSuffix(fqdn, "."+r.o.Domain+".") || e.Name+"." == fqdn) {
				return nil, &Error{Msg: fmt.Sprintf("%s is on host %s, which has stopped or is out of reach", name, e.Peer), Tip: "`weft status peers`", Code: 404}
			}
		}
		return nil, &Error{Msg: fmt.Sprintf("no container is named %s", name), Tip: "`weft status dns` lists the names", Code: 404}
	}
	return addrs, nil
}

// text is what a name says, but for an address.
func (k nameKey) text() string {
	if k.Type == typeSRV {
		return fmt.Sprintf("%d %s", k.Port, k.Data)
	}
	return k.Data
}

// SocketHolder is where the tunnel device's process, where there is one, holds the name server's
// sockets for the next router.
func SocketHolder(runDir string) string { return filepath.Join(runDir, "sockets.sock") }

// dropSockets ends what a router with DNS has left to one without.
func (r *Router) dropSockets() {
	holder := fdkeep.Client{Path: SocketHolder(r.o.RunDir)}
	names, err := holder.Names()
	if err != nil {
		return // there is none
	}
	for _, name := range names {
		if err := holder.Drop(name); err != nil {
			r.log.Warn("drop a dns socket", "err", err)
		}
	}
}
