package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// Container is what the mesh needs to know of a container.
type Container struct {
	ID          string            // 64 hex digits
	Name        string            // without the engine's leading slash
	Hostname    string            // the first label of its host name
	Domainname  string            // the rest of it, "" if there is none
	PID         int               // of its first process, whose namespaces are the container's; 0 unless Running
	Running     bool              // it has a live process; paused counts as live
	NetworkMode string            // "bridge", "default", "none", "host", "container:ID", or the name of a network
	HostsPath   string            // the file on this host that is its /etc/hosts, "" if it has none
	Labels      map[string]string // the caller owns it
	Exposed     []Port            // what the image or its user says that it listens on, sorted
	Unhealthy   bool              // its health check fails; false while it starts, and without a health check
}

// Port is one that a container listens on.
type Port struct {
	Number uint16
	Proto  string // "tcp", "udp" or "sctp"
}

// HostNetwork says that the container has no network of its own but the host's.
func (c Container) HostNetwork() bool { return c.NetworkMode == "host" }

// SharesWith returns the name or ID of the container whose network this one shares, or "".
func (c Container) SharesWith() string {
	other, ok := strings.CutPrefix(c.NetworkMode, "container:")
	if !ok {
		return ""
	}
	return other
}

// FQDN returns host and domain name with a dot between, or "" if there is no domain name.
func (c Container) FQDN() string {
	if c.Hostname == "" || c.Domainname == "" {
		return ""
	}
	return c.Hostname + "." + c.Domainname
}

// containerName is the engine's grammar for names and IDs. Anything else cannot be a container, and must not be put into a URL.
var containerName = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Inspect looks up a container, running or not, by ID, name or unambiguous start of an ID. Errors: ErrNotFound, ErrAmbiguous,
// ErrUnavailable.
func (c *Client) Inspect(ctx context.Context, nameOrID string) (Container, error) {
	got, err := c.inspect(ctx, nameOrID)
	if err != nil {
		return Container{}, fmt.Errorf("inspect container %q: %w", nameOrID, err)
	}
	return got, nil
}

func (c *Client) inspect(ctx context.Context, nameOrID string) (got Container, err error) {
	if !containerName.MatchString(nameOrID) {
		return Container{}, ErrNotFound
	}
	err = c.do(ctx, func(api *engine) error {
		r, err := api.ContainerInspect(ctx, strings.TrimPrefix(nameOrID, "/"), client.ContainerInspectOptions{})
		if err == nil {
			got = fromInspect(r)
		}
		return err
	})
	return got, err
}

func fromInspect(r client.ContainerInspectResult) Container {
	in := r.Container
	c := Container{ID: in.ID, Name: strings.TrimPrefix(in.Name, "/"), HostsPath: in.HostsPath}
	if in.State != nil && in.State.Running && in.State.Pid > 0 { // a container that is about to be restarted is Running without a process
		c.Running, c.PID = true, in.State.Pid
		c.Unhealthy = in.State.Health != nil && in.State.Health.Status == container.Unhealthy
	}
	if in.HostConfig != nil {
		c.NetworkMode = string(in.HostConfig.NetworkMode)
	}
	if in.Config != nil {
		c.Labels = in.Config.Labels
		for p := range in.Config.ExposedPorts {
			c.Exposed = append(c.Exposed, Port{p.Num(), string(p.Proto())})
		}
		slices.SortFunc(c.Exposed, func(a, b Port) int { return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Proto, b.Proto)) })
		c.Hostname, c.Domainname = splitHostname(in.Config.Hostname, in.Config.Domainname)
	}
	return c
}

// splitHostname undoes what differs between engines: old docker commands split `-h a.weft.local`, later
// ones leave the whole name in the host name.
func splitHostname(hostname, domainname string) (host, domain string) {
	full := strings.Trim(hostname, ".")
	if domainname = strings.Trim(domainname, "."); domainname != "" {
		full += "." + domainname
	}
	host, domain, _ = strings.Cut(full, ".")
	return host, domain
}

// maxShares bounds how far a chain of containers that share networks is followed. The engine itself accepts such chains.
const maxShares = 8

// Target looks up the container that has the network which the named container uses: itself, or in network mode container:X what X
// uses. The result may still have the host's network (see HostNetwork) or not be running. Errors as for Inspect.
func (c *Client) Target(ctx context.Context, nameOrID string) (Container, error) {
	first, err := c.Inspect(ctx, nameOrID)
	if err != nil {
		return Container{}, err
	}
	got := first
	for range maxShares {
		other := got.SharesWith()
		if other == "" {
			return got, nil
		}
		if got, err = c.Inspect(ctx, other); err != nil {
			return Container{}, fmt.Errorf("find the network of container %s: %w", first.Name, err)
		}
	}
	return Container{}, fmt.Errorf("find the network of container %s: more than %d containers share in a chain", first.Name, maxShares)
}

// List returns the running containers. Errors: ErrUnavailable.
func (c *Client) List(ctx context.Context) ([]Container, error) {
	var ids []string
	err := c.do(ctx, func(api *engine) error {
		r, err := api.ContainerList(ctx, client.ContainerListOptions{})
		for _, s := range r.Items {
			ids = append(ids, s.ID)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	out := make([]Container, 0, len(ids))
	for _, id := range ids {
		got, err := c.inspect(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound): // gone since
		case err != nil:
			return nil, fmt.Errorf("list containers: inspect container %q: %w", id, err)
		case got.Running:
			out = append(out, got)
		}
	}
	return out, nil
}
