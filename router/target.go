package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weft/docker"
	"weft/host"
)

// target is a container, or a namespace, that an operator named.
type target struct {
	Key        string
	Name       string
	NetNS      string // path of the namespace
	NSID       string // and what it led to: a process ID may be another's later
	Hostname   string
	Domainname string
	container  docker.Container // zero for bare namespaces
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
		return r.checkNamespace(t)
	case strings.HasPrefix(name, "pid:"):
		pid, err := strconv.Atoi(strings.TrimPrefix(name, "pid:"))
		if err != nil || pid < 1 {
			return t, badRequest("for example pid:4711", "%q is not a process ID", name)
		}
		t.Key, t.NetNS = name, pidNetNS(pid)
		return r.checkNamespace(t)
	}
	c, err := r.askEngine(ctx, name)
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
	return r.checkNamespace(target{Key: c.ID, Name: c.Name, NetNS: pidNetNS(c.PID), Hostname: c.Hostname, Domainname: c.Domainname, container: c})
}

// askEngine finds the container that an operator means. One that shares another's network
// shares its attachment: then that other one.
func (r *Router) askEngine(ctx context.Context, name string) (docker.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	return r.docker.Target(ctx, name)
}

// shown is how an operator knows it.
func (t target) shown() string { return cmp.Or(t.Name, t.Key) }

// same refuses to go on with what is found later under the name of t, if that is
// another container, or the same one started anew.
func (t target) same(later target) error {
	if later.Key == t.Key && later.NSID == t.NSID {
		return nil
	}
	return &Error{Msg: t.shown() + " has ended, or was started anew, while it was being attached", Tip: "run the same again", Code: 409}
}

// lives says that it has ended, if it has.
func (t target) lives() error {
	later := t
	later.NSID, _ = host.NetNSID(t.NetNS)
	return t.same(later)
}

// whileAlive is ctx until the container has ended. The engine may be away, and knows
// no bare namespaces: so its namespace is looked at.
func (t target) whileAlive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { // ends with ctx
		tick := time.NewTicker(namespacePoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := t.lives(); err != nil {
				cancel(err)
			}
		}
	}()
	return ctx, func() { cancel(nil) }
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
func (r *Router) checkNamespace(t target) (target, error) {
	var err error
	if t.NSID, err = host.NetNSID(t.NetNS); err != nil {
		return t, &Error{Msg: t.shown() + " cannot be read as a network namespace of this host", Err: err, Code: 404,
			Tip: "`ls /run/netns` and `ps` show what there is; attach takes netns:/path or pid:N"}
	}
	own, err := host.NetNSID("/proc/self/ns/net")
	if err != nil {
		return t, err
	}
	if t.NSID == own {
		return t, &Error{Msg: t.shown() + " is in the host's own network and can have no address of its own", Code: 409,
			Tip: "name a container or another network namespace"}
	}
	return t, nil
}
