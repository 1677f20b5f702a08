package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weft/docker"
	"weft/host"
	"weft/ipam"
	"weft/mesh"
)

// namespacePoll is how often namespaces that no engine watches are looked at.
const namespacePoll = time.Second

// engineTimeout bounds one question to the container engine.
const engineTimeout = 10 * time.Second

// findLiving marks the attachments whose containers live, at start. While the
// engine does not answer, a container whose namespace is still the one that it
// had counts as living: its addresses must stay routed.
func (r *Router) findLiving(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	live := map[string]docker.Container{}
	cs, err := r.docker.List(ctx)
	for _, c := range cs {
		live[c.ID] = c
	}
	if bridge, err := r.docker.BridgeAddr(ctx); err == nil {
		r.setBridge(bridge)
	}
	r.adopt()
	r.mu.Lock()
	r.engine = err == nil
	all := slices.Collect(maps.Values(r.attached))
	r.mu.Unlock()
	held := map[string]bool{}
	for _, a := range all {
		b := a.clone()
		if c, ok := live[a.Key]; ok && c.PID != 0 {
			b.NetNS = pidNetNS(c.PID)
		}
		held[a.Key] = r.heldBack(b) != nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, a := range r.attached {
		if !a.docker() || err != nil {
			a.running = sameNamespace(a)
		} else if c, ok := live[k]; ok {
			r.foundLocked(a, c)
		}
		if a = r.attached[k]; a.running && held[k] {
			a.running = false // until it is known whose its addresses are
			if a.docker() {
				r.dirty[k] = true
			}
		}
	}
}

// foundLocked takes in a container that was found alive at the start. What is new
// about it is kept on disk too: the next router may start while the engine is away.
func (r *Router) foundLocked(a *attachment, c docker.Container) {
	b, err := r.renewed(a, c)
	if err != nil {
		return // it has just ended; an event says so
	}
	b.running = true
	if b.sameContainer(a) && b.sameShown(a) {
		r.attached[a.Key] = b
	} else if err := r.putAttachmentLocked(b); err != nil {
		r.log.Warn("remember a container's namespace", "container", shortKey(a.Key), "err", err)
		r.attached[a.Key] = b
	}
}

// renewed is an attachment brought up to what its container now is.
func (r *Router) renewed(a *attachment, c docker.Container) (*attachment, error) {
	b := a.clone()
	b.Name, b.NetNS = c.Name, pidNetNS(c.PID)
	var err error
	if b.NSID, err = host.NetNSID(b.NetNS); err != nil {
		return nil, err
	}
	fqdn := r.defaultName(target{Key: c.ID, Name: c.Name, Hostname: c.Hostname, Domainname: c.Domainname})
	switch {
	case a.Name == "": // adopted by its interface: whether it was to have a name is not known
		b.nameAll(fqdn)
	case a.Name != c.Name:
		b.rename(fqdn)
	}
	b.follow(c, r.o.Domain)
	return b, nil
}

func (r *Router) setBridge(a netip.Addr) {
	r.mu.Lock()
	changed := r.bridgeDNS != a
	r.bridgeDNS = a
	r.mu.Unlock()
	if !changed {
		return
	}
	var text []byte
	if a.IsValid() {
		text = []byte(a.String())
	}
	if err := r.db.Apply(bucketRouter, map[string][]byte{keyBridge: text}, nil); err != nil {
		r.log.Warn("remember Docker's bridge address", "err", err)
	}
	r.rewire.Store(true) // containers without a network of Docker's have a route to it
	r.Poke()
}

// sameNamespace says whether the namespace that an attachment was given is
// still there. A path that now leads to another namespace is another container.
func sameNamespace(a *attachment) bool {
	id, err := host.NetNSID(a.NetNS)
	if process, ok := strings.CutSuffix(a.NetNS, "/ns/net"); ok && errors.Is(err, fs.ErrNotExist) && a.NSID != "" {
		// Of a process whose main thread has ended the others may go on.
		threads, _ := filepath.Glob(process + "/task/*/ns/net")
		return slices.ContainsFunc(threads, func(path string) bool {
			id, err := host.NetNSID(path)
			return err == nil && id == a.NSID
		})
	}
	return err == nil && a.NSID != "" && id == a.NSID
}

// containerStarted redoes the attachment of a container that lives. The
// container is locked.
func (r *Router) containerStarted(c docker.Container) error {
	r.mu.Lock()
	a := r.attached[c.ID]
	r.mu.Unlock()
	if a == nil {
		return nil
	}
	todo, err := r.renewed(a, c)
	if err != nil {
		return err
	}
	switch {
	case !a.running || !todo.sameContainer(a):
		err = r.wire(todo)
	default:
		err = r.updateNames(todo)
	}
	if err != nil {
		return err
	}
	if err := r.rewriteHosts(todo); err != nil {
		r.log.Warn("the container is attached, and its hosts file is not rewritten", "container", todo.Name, "err", err)
	}
	return nil
}

// wire gives a living container its interface, stores its attachment and makes
// it effective. The container is locked.
func (r *Router) wire(a *attachment) error {
	if err := r.heldBack(a); err != nil {
		return err
	}
	mac, err := r.host.Attach(r.port(a))
	if err != nil {
		return fmt.Errorf("attach %s: %w", shortKey(a.Key), err)
	}
	a.mac, a.running = mac, true
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.putAttachmentLocked(a)
}

// containerDied hides the container's names at once; its addresses are kept. The
// container is locked.
func (r *Router) containerDied(key string) {
	r.mu.Lock()
	if a := r.attached[key]; a != nil && a.running {
		r.diedLocked(a)
	}
	r.mu.Unlock()
	r.pokeBoth()
}

func (r *Router) diedLocked(a *attachment) {
	c := a.clone()
	c.running, c.mac = false, ""
	r.attached[a.Key] = c
}

// hideEnded hides the names of an engine's container whose namespace has gone, whatever the engine says, and when: of a container that
// it starts again it says nothing, and of none while it hangs. So it does not wait for the container's lock either, which may be
// held by who waits for the engine; should an operation that is under way undo it, the next look is a second later.
func (r *Router) hideEnded(a *attachment) {
	if !a.docker() || !a.running || sameNamespace(a) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached[a.Key] != a { // it has changed meanwhile
		return
	}
	r.diedLocked(a)
	r.dirty[a.Key] = true // should it live all the same, the engine knows where
	r.pokeBoth()
}

// stoppedRenamed has a container that does not live known by its name of now: another may have
// the old one, and is then meant by it. The container is locked.
func (r *Router) stoppedRenamed(c docker.Container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attached[c.ID]
	if a == nil || a.Name == c.Name || a.Name == "" { // without one, it gets its names when it starts: see renewed
		return nil
	}
	b := a.clone()
	b.Name = c.Name
	b.rename(r.defaultName(target{Key: c.ID, Name: c.Name, Hostname: c.Hostname, Domainname: c.Domainname}))
	return r.putAttachmentLocked(b)
}

// containerRemoved ends an attachment with its container, which is locked. Others may live
// on in its namespace: an address is free only when nobody can use it any more.
func (r *Router) containerRemoved(key string) error {
	if err := r.host.Detach(host.Port{Key: key}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached[key] == nil {
		return nil
	}
	if err := r.dropAttachmentLocked(key); err != nil {
		return err
	}
	if r.alloc != nil {
		r.alloc.FreeAll(time.Now(), key)
	}
	r.pokeBoth()
	return nil
}

// watchNamespaces looks after containers that no engine reports on, bare
// namespaces, and notices the end of Docker's if the engine does not tell; and it tries again
// what failed.
func (r *Router) watchNamespaces(ctx context.Context) error {
	tick := time.NewTicker(namespacePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.mu.Lock()
		if r.alloc != nil {
			r.alloc.Expire(time.Now())
		}
		var again []string
		if r.engine { // once it answers again, everything is looked at
			again = slices.Collect(maps.Keys(r.dirty))
		}
		var unwatched []string
		var watched []*attachment
		for k, a := range r.attached {
			if a.docker() {
				watched = append(watched, a)
			} else {
				unwatched = append(unwatched, k)
			}
		}
		unadopted := r.unadopted != nil
		r.mu.Unlock()
		if unadopted {
			r.adopt()
		}
		for _, k := range again {
			r.lookSoon(ctx, k)
		}
		for _, a := range watched {
			r.hideEnded(a)
		}
		for _, k := range unwatched {
			if err := r.checkUnwatched(k); err != nil {
				r.log.Debug("look at a namespace", "container", shortKey(k), "err", err)
			}
		}
	}
}

func (r *Router) checkUnwatched(key string) error {
	unlock, ok := r.ops.try(key)
	if !ok { // it is looked at again; the others are not to wait
		return nil
	}
	defer unlock()
	r.mu.Lock()
	a := r.attached[key]
	r.mu.Unlock()
	if a == nil || sameNamespace(a) && a.running {
		return nil
	}
	id, err := host.NetNSID(a.NetNS)
	switch {
	case a.held():
		return nil
	case strings.HasPrefix(key, "pid:") && (err != nil || id != a.NSID):
		return r.containerRemoved(key) // a process does not come back
	case err != nil:
		if a.running {
			r.containerDied(key)
		}
		return nil
	}
	// A path may lead to a new namespace of the same name: the intent holds.
	r.containerDied(key)
	todo := a.clone()
	todo.NSID = id
	if err := r.wire(todo); err != nil {
		return err
	}
	r.Poke()
	return nil
}

// restoreAllocations makes the allocator, once the mesh's range is known, and
// tells it what attachments hold.
func (r *Router) restoreAllocations(f mesh.Founding) {
	if !f.Range.IsValid() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restoreAllocationsLocked(f)
}

func (r *Router) restoreAllocationsLocked(f mesh.Founding) {
	subnet := f.Subnet
	if r.o.DefaultSubnet.IsValid() {
		subnet = r.o.DefaultSubnet
	}
	alloc := ipam.NewAllocator(ipam.Owner(r.id.ID()), f.Range, subnet)
	var held []ipam.Allocation
	for _, a := range r.attached {
		held = append(held, a.allocations()...)
	}
	for _, err := range alloc.Restore(held) {
		r.log.Error("restore an address", "err", err)
	}
	if r.alloc != nil {
		alloc.KeepHolds(r.alloc)
	}
	r.alloc = alloc
	r.suspendLocked()
}

// loadBridge reads where Docker's bridge was, for a router that starts while
// the engine does not answer and its containers live on.
func loadBridge(load func(string) (map[string][]byte, error)) (netip.Addr, error) {
	kept, err := load(bucketRouter)
	if err != nil || len(kept[keyBridge]) == 0 {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(string(kept[keyBridge]))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read Docker's bridge address from the state file: %w", err)
	}
	return a, nil
}
