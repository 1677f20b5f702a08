package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"weft/docker"
	"weft/host"
	"weft/ipam"
)

// namespacePoll is how often namespaces that no engine watches are looked at.
const namespacePoll = time.Second

// engineTimeout bounds one question to the container engine.
const engineTimeout = 10 * time.Second

// target is a container, or a namespace, that an operator named.
type target struct {
	Key        string
	Name       string
	NetNS      string
	Hostname   string
	Domainname string
	HostsPath  string
}

// resolve finds what an operator means by Docker's name or ID, netns:/path or
// pid:N. It must be running.
func (r *Router) resolve(ctx context.Context, name string) (target, error) {
	var t target
	switch {
	case name == "":
		return t, badRequest("weft help attach", "no container was named")
	case strings.HasPrefix(name, "netns:"):
		t.Key, t.NetNS = name, strings.TrimPrefix(name, "netns:")
		if !strings.HasPrefix(t.NetNS, "/") {
			return t, badRequest("for example netns:/run/netns/blue", "%q is not an absolute path of a network namespace", name)
		}
		return t, r.checkNamespace(t)
	case strings.HasPrefix(name, "pid:"):
		pid, err := strconv.Atoi(strings.TrimPrefix(name, "pid:"))
		if err != nil || pid < 1 {
			return t, badRequest("for example pid:4711", "%q is not a process ID", name)
		}
		t.Key, t.NetNS = name, pidNetNS(pid)
		return t, r.checkNamespace(t)
	}
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	// A container that shares another's network shares its attachment.
	c, err := r.docker.Target(ctx, name)
	if err != nil {
		return t, r.dockerError(name, err)
	}
	if c.HostNetwork() {
		return t, &Error{Msg: fmt.Sprintf("container %s uses the host's network and can have no address of its own", name), Code: 409,
			Tip: "start it without --network host"}
	}
	if !c.Running || c.PID == 0 {
		return t, &Error{Msg: fmt.Sprintf("container %s is not running", name), Tip: "docker start " + name, Code: 409}
	}
	return target{Key: c.ID, Name: c.Name, NetNS: pidNetNS(c.PID), Hostname: c.Hostname, Domainname: c.Domainname, HostsPath: c.HostsPath}, nil
}

func (r *Router) dockerError(name string, err error) error {
	switch {
	case errors.Is(err, docker.ErrNotFound):
		return &Error{Msg: "there is no container " + name, Tip: "docker ps", Code: 404}
	case errors.Is(err, docker.ErrUnavailable):
		return &Error{Msg: "the container engine does not answer", Err: err, Code: 503,
			Tip: "start it, name its socket with `weft launch --docker-api`, or attach a namespace by netns:/path or pid:N"}
	}
	return err
}

func pidNetNS(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/net" }

// checkNamespace refuses paths that are no namespace, and the host's own.
func (r *Router) checkNamespace(t target) error {
	id, err := host.NetNSID(t.NetNS)
	if err != nil {
		return &Error{Msg: t.Key + " is not a network namespace here", Err: err, Code: 404}
	}
	own, err := host.NetNSID("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if id == own {
		return &Error{Msg: t.Key + " is in the host's own network and can have no address of its own", Code: 409,
			Tip: "name a container or another network namespace"}
	}
	return nil
}

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
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine = err == nil
	for _, a := range r.attached {
		c, ok := live[a.Key]
		switch {
		case a.docker() && err == nil:
			a.running = ok && c.PID != 0
			if a.running {
				a.NetNS = pidNetNS(c.PID)
				a.NSID, _ = host.NetNSID(a.NetNS)
			}
		default:
			a.running = sameNamespace(a)
		}
	}
}

func (r *Router) setBridge(a netip.Addr) {
	r.mu.Lock()
	changed := r.bridgeDNS != a
	r.bridgeDNS = a
	r.mu.Unlock()
	if changed {
		r.Poke()
	}
}

// sameNamespace says whether the namespace that an attachment was given is
// still there. A path that now leads to another namespace is another container.
func sameNamespace(a *attachment) bool {
	id, err := host.NetNSID(a.NetNS)
	return err == nil && a.NSID != "" && id == a.NSID
}

// onEvent follows the engine.
func (r *Router) onEvent(ctx context.Context) func(docker.Event) {
	return func(e docker.Event) {
		ctx, cancel := context.WithTimeout(ctx, engineTimeout)
		defer cancel()
		switch e.Kind {
		case docker.Connected:
			r.engineConnected(ctx)
		case docker.Lost:
			r.mu.Lock()
			r.engine = false // watchNamespaces looks after its containers
			r.mu.Unlock()
		case docker.Started, docker.Died:
			// An event may come late: what counts is what is so now.
			if c, err := r.docker.Inspect(ctx, e.Container); err == nil && c.Running {
				r.containerStarted(ctx, c)
			} else {
				r.containerDied(e.Container)
			}
		case docker.Removed:
			r.containerRemoved(ctx, e.Container)
		case docker.Renamed:
			if c, err := r.docker.Inspect(ctx, e.Container); err == nil {
				r.containerRenamed(c)
			}
		}
		r.Poke()
	}
}

// engineConnected looks at everything: events may have been missed.
func (r *Router) engineConnected(ctx context.Context) {
	r.mu.Lock()
	r.engine = true
	var keys []string
	for k, a := range r.attached {
		if a.docker() {
			keys = append(keys, k)
		}
	}
	r.mu.Unlock()
	if bridge, err := r.docker.BridgeAddr(ctx); err == nil {
		r.setBridge(bridge)
	}
	for _, k := range keys {
		switch c, err := r.docker.Inspect(ctx, k); {
		case errors.Is(err, docker.ErrNotFound):
			r.containerRemoved(ctx, k)
		case err != nil:
			r.log.Warn("look at a container", "container", shortKey(k), "err", err)
		case c.Running:
			r.containerStarted(ctx, c)
		default:
			r.containerDied(k)
		}
	}
}

// containerStarted redoes the attachment of a container that has one.
func (r *Router) containerStarted(ctx context.Context, c docker.Container) {
	unlock, err := r.ops.lock(ctx, c.ID)
	if err != nil {
		return
	}
	defer unlock()
	r.mu.Lock()
	a := r.attached[c.ID]
	var todo *attachment
	if a != nil {
		todo = a.clone()
		todo.NetNS = pidNetNS(c.PID)
		todo.NSID, _ = host.NetNSID(todo.NetNS)
		todo.Name = c.Name
	}
	r.mu.Unlock()
	if todo == nil {
		return
	}
	if err := r.wire(todo); err != nil {
		r.log.Error("attach a container that was started", "container", shortKey(c.ID), "err", err)
	}
	r.Poke()
}

// wire stores an attachment of a living container, gives it its interface and
// makes it effective.
func (r *Router) wire(a *attachment) error {
	mac, err := r.host.Attach(r.port(a))
	if err != nil {
		a.err = err.Error()
	} else {
		a.mac, a.err, a.running = mac, "", true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(err, r.putAttachmentLocked(a))
}

// containerDied hides the container's names at once; its addresses are kept.
func (r *Router) containerDied(id string) {
	r.mu.Lock()
	if a := r.attached[id]; a != nil && a.running {
		c := a.clone()
		c.running, c.mac = false, ""
		r.attached[id] = c
	}
	r.mu.Unlock()
	r.Poke()
}

// containerRemoved ends an attachment with its container.
func (r *Router) containerRemoved(ctx context.Context, id string) {
	unlock, err := r.ops.lock(ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached[id] == nil {
		return
	}
	if err := r.dropAttachmentLocked(id); err != nil {
		r.log.Error("forget a removed container", "container", shortKey(id), "err", err)
		return
	}
	if r.alloc != nil {
		r.alloc.FreeAll(time.Now(), id)
	}
	r.Poke()
}

func (r *Router) containerRenamed(c docker.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attached[c.ID]
	if a == nil {
		return
	}
	b := a.clone()
	b.Name = c.Name
	if err := r.putAttachmentLocked(b); err != nil {
		r.log.Error("rename a container", "container", shortKey(c.ID), "err", err)
	}
}

// watchNamespaces looks after containers that no engine reports on: bare
// namespaces, and Docker's while the engine does not answer.
func (r *Router) watchNamespaces(ctx context.Context) error {
	tick := time.NewTicker(namespacePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if r.alloc != nil {
			r.mu.Lock()
			r.alloc.Expire(time.Now())
			r.mu.Unlock()
		}
		for _, a := range r.unwatched() {
			r.checkUnwatched(ctx, a)
		}
	}
}

func (r *Router) unwatched() []*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*attachment
	for _, a := range r.attached {
		if !a.docker() || !r.engine && a.running {
			out = append(out, a.clone())
		}
	}
	return out
}

func (r *Router) checkUnwatched(ctx context.Context, a *attachment) {
	switch same := sameNamespace(a); {
	case same == a.running:
	case !same && strings.HasPrefix(a.Key, "pid:"):
		r.containerRemoved(ctx, a.Key) // a process does not come back
	case !same:
		r.containerDied(a.Key)
	}
	if a.running || !strings.HasPrefix(a.Key, "netns:") {
		return
	}
	// A path may lead to a new namespace of the same name: the intent holds.
	id, err := host.NetNSID(a.NetNS)
	if err != nil {
		return
	}
	unlock, err := r.ops.lock(ctx, a.Key)
	if err != nil {
		return
	}
	defer unlock()
	a.NSID = id
	r.mu.Lock()
	gone := r.attached[a.Key] == nil
	r.mu.Unlock()
	if gone {
		return
	}
	if err := r.wire(a); err != nil {
		r.log.Warn("attach a namespace that came back", "container", a.Key, "err", err)
	}
	r.Poke()
}

// restoreAllocations tells the allocator what attachments hold.
func (r *Router) restoreAllocations() error {
	whole := r.member.Founding.Range
	if r.o.NoIPAM || !whole.IsValid() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	subnet := r.member.Founding.Subnet
	if r.o.DefaultSubnet.IsValid() {
		subnet = r.o.DefaultSubnet
	}
	alloc := ipam.NewAllocator(ipam.Owner(r.id.ID()), whole, subnet)
	var held []ipam.Allocation
	for _, a := range r.attached {
		held = append(held, a.allocations()...)
	}
	r.alloc = alloc
	return errors.Join(alloc.Restore(held)...)
}
