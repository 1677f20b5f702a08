package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/docker"
	"weft/host"
)

// holdBack is for how long a host whose state may not be the latest keeps
// addresses of the range from containers that do not have them yet, and answers for
// none, while it waits to hear from another host. If nobody can be heard for so long, nobody
// else uses them in reach of this host either.
const holdBack = 10 * time.Second

// adopt makes attachments say what running containers really have: what they use
// is theirs, whatever an old or a lost state file says. containers are the
// engine's that live. Of those that have an interface and can not be looked at, since
// the engine does not answer, nobody knows which addresses they use: nothing is given
// out until adoptLate has seen them.
func (r *Router) adopt(containers map[string]docker.Container, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := r.host.AttachedKeys()
	if err != nil {
		r.log.Warn("look for containers with an interface", "err", err)
	}
	r.adoptLocked(containers, keys)
	if answered {
		return
	}
	for _, k := range keys {
		if (&attachment{Key: k}).docker() && r.attached[k] == nil {
			r.strangers = append(r.strangers, k)
		}
	}
	if len(r.strangers) > 0 {
		r.log.Warn("containers run whose addresses are known to their engine only: nothing is given out until it answers", "containers", len(r.strangers))
	}
}

// lookForStrangers adopts them if the engine answers, and forgets those that have ended:
// no engine may ever say so. What fails is tried again by watchNamespaces.
func (r *Router) lookForStrangers(ctx context.Context, engine bool) {
	keys, err := r.host.AttachedKeys()
	if err == nil {
		r.keepStrangers(keys)
	}
	if engine {
		ctx, cancel := context.WithTimeout(ctx, engineTimeout)
		defer cancel()
		err = errors.Join(err, r.adoptLate(ctx))
	}
	if err != nil {
		r.log.Debug("look at running containers", "err", err)
	}
}

// keepStrangers forgets those that have no interface any more.
func (r *Router) keepStrangers(attached []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strangers = slices.DeleteFunc(r.strangers, func(k string) bool { return !slices.Contains(attached, k) })
	r.suspendLocked()
}

// adoptLate is adopt for those that could not be looked at.
func (r *Router) adoptLate(ctx context.Context) error {
	r.mu.Lock()
	none := len(r.strangers) == 0
	r.mu.Unlock()
	if none {
		return nil
	}
	cs, err := r.docker.List(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	theirs := map[string]docker.Container{}
	for _, c := range cs {
		if slices.Contains(r.strangers, c.ID) {
			theirs[c.ID] = c
		}
	}
	r.adoptLocked(theirs, nil)
	for k := range theirs {
		if a := r.attached[k]; a != nil && r.alloc != nil {
			for _, err := range r.alloc.Restore(a.allocations()) {
				r.log.Error("restore an address", "err", err)
			}
		}
	}
	r.strangers = nil
	r.suspendLocked()
	r.rewire.Store(true)
	return nil
}

// suspendLocked tells the allocator whether it may give out addresses anew. mu is held.
func (r *Router) suspendLocked() {
	if r.alloc != nil {
		r.alloc.Suspend(r.unproven || len(r.strangers) > 0)
	}
}

// adoptLocked looks at containers, and at namespaces that no engine has made. mu is held.
func (r *Router) adoptLocked(containers map[string]docker.Container, keys []string) {
	real := map[string][]netip.Prefix{}
	look := func(key, ns string) {
		as, err := r.host.ContainerAddrs(ns, key)
		if err != nil {
			r.log.Debug("look at a container's addresses", "container", shortKey(key), "err", err)
		} else if len(as) > 0 {
			real[key] = as
		}
	}
	for id, c := range containers {
		if c.PID != 0 && !c.HostNetwork() && c.SharesWith() == "" {
			look(id, pidNetNS(c.PID))
		}
	}
	spaces := map[string]string{}
	for _, k := range keys {
		if pid, ok := strings.CutPrefix(k, "pid:"); ok {
			spaces[k] = "/proc/" + pid + "/ns/net"
		} else if path, ok := strings.CutPrefix(k, "netns:"); ok {
			spaces[k] = path
		}
	}
	for k, ns := range spaces {
		look(k, ns)
	}
	changed := adopted(r.attached, real, r.unproven)
	for _, a := range changed {
		if ns, ok := spaces[a.Key]; ok && a.NetNS == "" {
			a.NetNS = ns
			a.NSID, _ = host.NetNSID(ns)
		}
		if c, ok := containers[a.Key]; ok && a.Name == "" {
			t := target{Key: c.ID, Name: c.Name, Hostname: c.Hostname, Domainname: c.Domainname}
			a.Name, a.NetNS = c.Name, pidNetNS(c.PID)
			a.NSID, _ = host.NetNSID(a.NetNS)
			if fqdn := r.defaultName(t); fqdn != "" {
				a.Default = fqdn
				for _, p := range a.Addrs {
					a.addName(attachedName{FQDN: fqdn, Addr: p.Addr()})
				}
			}
		}
		r.log.Warn("adopted what a running container has, which differs from the state file", "container", shortKey(a.Key), "addresses", a.Addrs)
		var err error
		if len(a.Addrs) == 0 {
			err = r.dropAttachmentLocked(a.Key)
		} else {
			err = r.putAttachmentLocked(a)
		}
		if err != nil {
			r.log.Error("store an adopted attachment", "container", shortKey(a.Key), "err", err)
		}
	}
}

// adopted decides: which attachments change, and to what, given what containers
// really have. With doubt, the state may be an old one: then a container has what
// it has, and nothing else.
func adopted(stored map[string]*attachment, real map[string][]netip.Prefix, doubt bool) []*attachment {
	user := map[netip.Addr]string{}
	for key, as := range real {
		for _, p := range as {
			user[p.Addr()] = key
		}
	}
	keys := map[string]bool{}
	for k := range stored {
		keys[k] = true
	}
	for k := range real {
		keys[k] = true
	}
	var out []*attachment
	for k := range keys {
		a := &attachment{Key: k}
		if s := stored[k]; s != nil {
			a = s.clone()
		}
		before := slices.Clone(a.Addrs)
		for _, p := range before {
			by, used := user[p.Addr()]
			if used && by != k || doubt && len(real[k]) > 0 && !slices.Contains(real[k], p) {
				a.dropAddr(p.Addr())
			}
		}
		for _, p := range real[k] {
			a.addAddr(p, false)
		}
		if !slices.Equal(before, a.Addrs) {
			out = append(out, a)
		}
	}
	return out
}

// doubtLocked says that what containers here have may be another host's by now, and
// that it is worth waiting to hear of it. mu is held.
func (r *Router) doubtLocked() bool { return r.unproven && time.Since(r.doubted) < holdBack }

// heldBack says that a container must not get the addresses of an attachment now:
// this host's state may not be the latest, and they may be another's.
func (r *Router) heldBack(a *attachment) bool {
	r.mu.Lock()
	doubt := r.doubtLocked()
	r.mu.Unlock()
	if !doubt {
		return false
	}
	real, err := r.host.ContainerAddrs(a.NetNS, a.Key)
	return err != nil || slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool {
		return r.wholeRange().Contains(p.Addr()) && !slices.Contains(real, p)
	})
}
