package router

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/host"
)

// holdBack is for how long a host whose state may not be the latest keeps
// addresses of the range from containers that do not have them yet, and answers for
// none, while it waits to hear from another host. If nobody can be heard for so long, nobody
// else uses them in reach of this host either.
const holdBack = 10 * time.Second

// errUnadopted says that what running containers have is not certain, or not written down.
var errUnadopted = errors.New("what running containers have is not taken into the state yet")

// adopt makes attachments, and what the allocator knows, say what running containers really
// have, as the kernel says: what they use is theirs, whatever an old or a lost state file says.
// A state that is known to be neither says what they have, and the kernel nothing more.
// All of it is written down at once or none. Until it is, nothing is given out and no
// container is changed; watchNamespaces tries again.
func (r *Router) adopt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.unadopted
	if r.unadopted = r.adoptLocked(); r.unadopted != nil {
		if before == nil || describe(before) != describe(r.unadopted) {
			r.log.Error("adopt what running containers have", "err", r.unadopted)
		}
		return
	}
	if before != nil {
		r.log.Info("what running containers have is known and written down")
		r.rewire.Store(true)
		r.pokeBoth()
	}
}

func (r *Router) adoptLocked() error {
	real, err := r.host.Attached()
	held, herr := r.witnessed()
	if err = errors.Join(err, herr); err == nil {
		if r.db.isSettled() {
			err = r.takeLeftoversLocked(real)
		} else {
			err = r.adoptAllLocked(real, held)
		}
	}
	if err == nil {
		err = r.witnessAll(held)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnadopted, err)
	}
	r.db.settle()
	return nil
}

// takeLeftoversLocked is for a state that is known to say all that was given: what else a
// container has on its interface, what runs in it has put there, and the firewall lets
// nothing of that through. An interface that nobody is attached by was left by a router that
// was killed on its way back from an attach that failed.
func (r *Router) takeLeftoversLocked(real map[string][]netip.Prefix) error {
	var errs []error
	for k := range real {
		if r.attached[k] == nil {
			r.log.Warn("take away an interface that nobody is attached by", "container", shortKey(k))
			errs = append(errs, r.host.Detach(host.Port{Key: k}))
		}
	}
	return errors.Join(errs...)
}

// adoptAllLocked is for a state that may be an older copy. What could not have been given
// is not weft's all the same: it would spoil what is set for the whole host.
func (r *Router) adoptAllLocked(real, held map[string][]netip.Prefix) error {
	for k, as := range real {
		real[k] = slices.DeleteFunc(as, func(p netip.Prefix) bool { return checkAddress(p) != nil })
	}
	maps.Copy(real, held)
	changed := adopted(r.attached, real)
	if len(changed) == 0 {
		return nil
	}
	for _, a := range changed {
		unlock, ok := r.ops.try(a.Key) // else what is being done to it would undo this
		if !ok {
			return fmt.Errorf("%s is being worked on", shortKey(a.Key))
		}
		defer unlock()
		if ns := namespaceOf(a.Key); a.NetNS == "" && ns != "" {
			a.NetNS = ns
			// Its interface may have gone elsewhere, and the path lead to another namespace.
			if as, err := r.host.ContainerAddrs(ns, a.Key); err == nil && len(as) > 0 {
				a.NSID, _ = host.NetNSID(ns)
			}
		}
	}
	if err := r.putAttachmentLocked(changed...); err != nil {
		return err
	}
	for _, a := range changed {
		r.log.Warn("adopted what a running container has, which differs from the state file", "container", shortKey(a.Key), "addresses", a.Addrs)
		if a.docker() {
			r.dirty[a.Key] = true // the engine knows where it is, and its name
		}
	}
	if r.alloc != nil {
		r.restoreAllocationsLocked(r.mesh.State().Founding)
	}
	return nil
}

// namespaceOf is the path that the key of a bare namespace stands for; "" for a container
// of the engine.
func namespaceOf(key string) string {
	if pid, ok := strings.CutPrefix(key, "pid:"); ok {
		return "/proc/" + pid + "/ns/net"
	}
	path, _ := strings.CutPrefix(key, "netns:")
	if path == key {
		return ""
	}
	return path
}

// adopted decides: which attachments change, and to what, given what containers
// really have, by key. The state may be an old one: a container has what it has, and
// nothing else; what has nothing keeps what it is stored with. No address is two containers' afterwards: whoever is stored
// with it and has it comes first, then who has it, then the lower key.
func adopted(stored map[string]*attachment, real map[string][]netip.Prefix) []*attachment {
	all := maps.Clone(stored)
	for k := range real {
		if all[k] == nil {
			all[k] = &attachment{Key: k}
		}
	}
	keys := slices.Sorted(maps.Keys(all))
	user := map[netip.Addr]string{}
	use := func(which func(a *attachment, p netip.Prefix) bool) {
		for _, k := range keys {
			for _, p := range slices.Concat(real[k], all[k].Addrs) {
				if _, used := user[p.Addr()]; !used && which(all[k], p) {
					user[p.Addr()] = k
				}
			}
		}
	}
	has := func(a *attachment, p netip.Prefix) bool { return slices.Contains(real[a.Key], p) }
	use(func(a *attachment, p netip.Prefix) bool { return has(a, p) && slices.Contains(a.Addrs, p) })
	use(has)
	use(func(*attachment, netip.Prefix) bool { return true })
	var out []*attachment
	for _, k := range keys {
		a := all[k].clone()
		for _, p := range all[k].Addrs {
			if user[p.Addr()] != k || len(real[k]) > 0 && !hasAddr(real[k], p.Addr()) {
				a.dropAddr(p.Addr())
			}
		}
		for _, p := range real[k] {
			if user[p.Addr()] != k {
				continue
			}
			isNew := !hasAddr(a.Addrs, p.Addr())
			a.addAddr(p, false)
			if isNew && a.Default != "" {
				a.addName(attachedName{FQDN: a.Default, Addr: p.Addr()})
			}
		}
		if !slices.Equal(all[k].Addrs, a.Addrs) {
			out = append(out, a)
		}
	}
	return out
}

// doubtLocked says that what containers here have may be another host's by now, and
// that it is worth waiting to hear of it. mu is held.
func (r *Router) doubtLocked() bool { return r.unproven && time.Since(r.doubted) < holdBack }

// heldBack says why a container must not be given the addresses of an attachment now; nil:
// it may, or has them. This host's state may not be the latest, and they may be another's.
func (r *Router) heldBack(a *attachment) error {
	r.mu.Lock()
	r.noticeSleepLocked()
	doubt, unadopted := r.doubtLocked(), r.unadopted
	r.mu.Unlock()
	if !doubt && unadopted == nil {
		return nil
	}
	real, err := r.host.ContainerAddrs(a.NetNS, a.Key)
	lacks := func(p netip.Prefix) bool { return !slices.Contains(real, p) }
	switch {
	case unadopted != nil && (err != nil || len(real) != len(a.Addrs) || slices.ContainsFunc(a.Addrs, lacks)):
		return unadopted
	case doubt && (err != nil || slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool { return r.wholeRange().Contains(p.Addr()) && lacks(p) })):
		return errUnproven
	}
	return nil
}
