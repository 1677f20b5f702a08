package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/api"
)

// Routes are the operations of the router over its API.
func (r *Router) Routes() []api.Route {
	read := func(path string, h api.Handler) api.Route {
		return api.Route{Method: "GET", Path: path, Read: true, Handle: h}
	}
	write := func(method, path string, h api.Handler) api.Route {
		return api.Route{Method: method, Path: path, Handle: h}
	}
	return []api.Route{
		read("/status", r.shown(RenderStatus, func(p Report) any { return p })),
		read("/status/targets", r.shown(RenderTargets, func(p Report) any { return p.Router.Targets })),
		read("/status/connections", r.shown(RenderConnections, func(p Report) any { return p.Router.Connections })),
		read("/status/peers", r.shown(RenderPeers, func(p Report) any { return p.Router.Peers })),
		read("/status/dns", r.shown(RenderDNS, func(p Report) any { return p.DNS })),
		read("/status/ipam", r.shown(RenderIPAM, func(p Report) any { return p.IPAM })),
		read("/report", func(context.Context, *api.Request) (any, error) { return r.Report(), nil }),
		read("/ps", r.getPS),
		read("/domain", func(context.Context, *api.Request) (any, error) { return r.o.Domain + ".\n", nil }),
		read("/dns-address", func(context.Context, *api.Request) (any, error) {
			if a, ok := r.dnsAddr(); ok {
				return a.String() + "\n", nil
			}
			return "", nil
		}),
		read("/dns-args", func(context.Context, *api.Request) (any, error) {
			if a, ok := r.dnsAddr(); ok {
				return fmt.Sprintf("--dns=%v --dns-search=%s\n", a, r.o.Domain), nil
			}
			return "", nil
		}),
		read("/lookup", r.getLookup),
		read("/names/watch", r.getNamesWatch),
		read("/name/{container}/{ip}", r.getName),
		read("/ip/{id}", r.getIP),
		read("/ip/{id}/{ip}/{plen}", r.getIP),

		write("POST", "/connect", r.postConnect),
		write("POST", "/forget", r.postForget),
		write("POST", "/attach", r.postAttach),
		write("POST", "/detach", r.postDetach),
		write("POST", "/dns/add", r.postName(r.nameAdd)),
		write("POST", "/dns/remove", r.postName(r.nameRemove)),
		write("PUT", "/name/{container}/{ip}", r.pathName(r.nameAdd)),
		write("DELETE", "/name/{container}/{ip}", r.pathName(r.nameRemove)),
		write("POST", "/ip/{id}", r.allocateIP),
		write("POST", "/ip/{id}/{ip}/{plen}", r.allocateIP),
		write("PUT", "/ip/{id}/{ip}/{plen}", r.claimIP),
		write("DELETE", "/ip/{id}", r.freeIP),
		write("DELETE", "/ip/{id}/{ip}", r.freeIP),
		write("DELETE", "/ip/{id}/{ip}/{plen}", r.freeIP),
		write("GET", "/ring", func(ctx context.Context, q *api.Request) (any, error) {
			if q.Query("alone") == "true" {
				r.alone()
			}
			return nil, r.prime(ctx)
		}),
		write("GET", "/token", func(context.Context, *api.Request) (any, error) {
			return map[string]string{"token": tokenFor(r.member.Secret, r.endpoints())}, nil
		}),
		write("POST", "/stop", func(ctx context.Context, _ *api.Request) (any, error) { return nil, r.stop(ctx) }),
		write("POST", "/reset", r.postReset),
		write("DELETE", "/peer", func(ctx context.Context, _ *api.Request) (any, error) { return r.resetAnswer(ctx, false) }),
		write("DELETE", "/peer/{id}", func(ctx context.Context, q *api.Request) (any, error) {
			out, err := r.removePeer(ctx, q.Path("id"), q.Query("force") == "true")
			if err != nil {
				return nil, err
			}
			return out, nil
		}),
	}
}

// shown answers with a table, or with its part of the report as JSON.
func (r *Router) shown(text func(Report) string, part func(Report) any) api.Handler {
	return func(_ context.Context, q *api.Request) (any, error) {
		rep := r.Report()
		if q.WantsJSON() {
			return part(rep), nil
		}
		return text(rep), nil
	}
}

func (r *Router) getPS(_ context.Context, q *api.Request) (any, error) {
	rows := r.attachmentReports(q.QueryAll("container"))
	if q.WantsJSON() {
		if rows == nil {
			rows = []AttachmentReport{}
		}
		return rows, nil
	}
	return RenderPS(Report{Attachments: rows}), nil
}

func (r *Router) getLookup(_ context.Context, q *api.Request) (any, error) {
	addrs, err := r.lookup(q.Query("name"))
	if err != nil {
		return nil, err
	}
	return map[string][]netip.Addr{"addresses": addrs}, nil
}

// noContainer is what stands for a container in the path of a name that belongs to none, as in Weave.
const noContainer = "-"

// getName says which names are registered here for an address, of a container or of none.
func (r *Router) getName(ctx context.Context, q *api.Request) (any, error) {
	ips, fqdn, err := r.parseNames(nameRequest{IPs: []string{q.Path("ip")}, FQDN: q.Query("fqdn")})
	if err != nil {
		return nil, err
	}
	key := ""
	if c := q.Path("container"); c != noContainer {
		if key, err = r.keyOf(ctx, c); err != nil {
			return nil, err
		}
	}
	found := r.namesOf(key, ips[0], fqdn)
	if len(found) == 0 {
		return nil, &Error{Msg: "no such name", Code: 404}
	}
	return strings.Join(found, "\n") + "\n", nil
}

// namesOf are the names, or the one, of an address of a container; without a key, of none.
func (r *Router) namesOf(key string, ip netip.Addr, fqdn string) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	see := func(name string, addr netip.Addr) {
		if addr == ip && (fqdn == "" || name == fqdn) {
			found = append(found, name)
		}
	}
	if key == "" {
		for k := range r.static {
			see(k.Name, k.Addr)
		}
		slices.Sort(found)
	} else if a := r.attached[key]; a != nil {
		for _, n := range a.Names {
			see(n.FQDN, n.Addr)
		}
	}
	return found
}

type targetsRequest struct {
	Targets []string `json:"targets"`
	Replace bool     `json:"replace"`
}

func (r *Router) postConnect(_ context.Context, q *api.Request) (any, error) {
	var req targetsRequest
	if err := q.JSON(&req); err != nil {
		return nil, err
	}
	return nil, r.changeTargets(r.mesh.Connect(req.Targets, req.Replace))
}

func (r *Router) postForget(_ context.Context, q *api.Request) (any, error) {
	var req targetsRequest
	if err := q.JSON(&req); err != nil {
		return nil, err
	}
	return nil, r.changeTargets(r.mesh.Forget(req.Targets))
}

func (r *Router) postAttach(ctx context.Context, q *api.Request) (any, error) {
	var req attachRequest
	if err := q.JSON(&req); err != nil {
		return nil, err
	}
	return answer(r.attach(ctx, req))
}

func (r *Router) postDetach(ctx context.Context, q *api.Request) (any, error) {
	var req struct {
		Container string   `json:"container"`
		Addrs     []string `json:"addrs"`
	}
	if err := q.JSON(&req); err != nil {
		return nil, err
	}
	return answer(r.detach(ctx, req.Container, req.Addrs))
}

func answer[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

type nameOp func(context.Context, nameRequest) (nameResponse, error)

func (r *Router) postName(do nameOp) api.Handler {
	return func(ctx context.Context, q *api.Request) (any, error) {
		var req nameRequest
		if err := q.JSON(&req); err != nil {
			return nil, err
		}
		return answer(do(ctx, req))
	}
}

func (r *Router) pathName(do nameOp) api.Handler {
	return func(ctx context.Context, q *api.Request) (any, error) {
		req := nameRequest{Container: q.Path("container"), IPs: []string{q.Path("ip")}, FQDN: q.Query("fqdn")}
		if req.Container == noContainer {
			req.Container = ""
		}
		return answer(do(ctx, req))
	}
}

func (r *Router) postReset(ctx context.Context, q *api.Request) (any, error) {
	var req struct {
		Force bool `json:"force"`
	}
	if err := q.JSON(&req); err != nil {
		return nil, err
	}
	return r.resetAnswer(ctx, req.Force)
}

func (r *Router) resetAnswer(ctx context.Context, force bool) (any, error) {
	warn, err := r.reset(ctx, force)
	if err != nil || len(warn) == 0 {
		return nil, err
	}
	return map[string][]string{"warnings": warn}, nil
}

// changeTargets remembers the targets for a router that starts after a crash,
// also when only some of a change was taken.
func (r *Router) changeTargets(refused error) error {
	if refused != nil {
		refused = &Error{Err: refused, Code: 400, Tip: "`weft status targets` lists them"}
	}
	var ts []string
	for _, t := range r.mesh.Targets() {
		ts = append(ts, t.Addr)
	}
	b, err := json.Marshal(ts)
	if err != nil {
		return err
	}
	return errors.Join(refused, r.db.Apply(bucketRouter, map[string][]byte{keyTargets: b}, nil))
}
