package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"weft/host"
	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

const methodHand = "space.hand"

// stop announces that this host goes, so that its names hide at once, and takes
// the tunnels down. Bridge, addresses and local traffic stay.
func (r *Router) stop(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // a caller that hangs up must not leave half a stop
	leave, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := r.mesh.Leave(leave); err != nil {
		r.log.Warn("announce the stop", "err", err)
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	defer r.end()
	r.stopped = true // no pass may make the tunnel again
	return errors.Join(r.dev.Remove(ctx), r.host.RemoveTunnel())
}

// reset hands this host's address space to another, then removes all that weft
// made on the host. With force it goes on when nobody takes the space.
func (r *Router) reset(ctx context.Context, force bool) error {
	if err := r.handOver(ctx); err != nil {
		if !force {
			return &Error{Msg: "this host's address space could not be handed over", Err: err, Code: 409,
				Tip: "bring another host of the mesh back, or give the space up: weft reset --force"}
		}
		r.log.Warn("address space is given up", "err", err)
	}
	if _, err := r.mesh.Append(mesh.Draft{Kind: mesh.KindDepart}); err != nil {
		r.log.Warn("announce the departure", "err", err)
	}
	var ports []host.Port
	for _, a := range r.living() {
		p := r.port(a)
		p.Addrs = nil
		ports = append(ports, p)
	}
	err := r.stop(ctx)
	for _, p := range ports {
		err = errors.Join(err, r.host.Detach(p))
	}
	// The files are in use until the router has ended, which does not hinder
	// their removal.
	return errors.Join(err, r.host.Remove(), removeFiles(r.o))
}

// handOver grants all that this host owns to the other host that has most, and
// waits until that host has it on disk. The only member of a mesh has nobody to
// hand to, and nothing that anybody else could miss.
func (r *Router) handOver(ctx context.Context) error {
	if r.o.NoIPAM {
		return nil
	}
	ring, err := r.ringNow()
	if errors.Is(err, ipam.ErrNotReady) {
		return nil
	}
	if err != nil {
		return err
	}
	self := ipam.Owner(r.id.ID())
	others := 0
	for _, h := range r.bySpace(ring) {
		others++
		if h.Liveness != mesh.Alive {
			continue
		}
		r.mu.Lock()
		r.alloc.SetRing(ring)
		gs := ipam.HandOver(ring, self, ipam.Owner(h.ID))
		var ds []mesh.Draft
		for _, g := range gs {
			b, err := encodeGrant(g)
			if err != nil {
				r.mu.Unlock()
				return err
			}
			ds = append(ds, mesh.Draft{Kind: mesh.KindGrant, Payload: b})
		}
		var es []mesh.Entry
		if len(ds) > 0 {
			es, err = r.mesh.Append(ds...)
		}
		r.mu.Unlock()
		if err != nil || len(ds) == 0 {
			return err
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err = r.mesh.Call(call, h.ID, methodHand, encodeEntries(es))
		cancel()
		if err == nil {
			return nil
		}
		// The grants are made: only this taker can have the space now.
		return fmt.Errorf("hand address space to %v: %w", h.ID, err)
	}
	if others == 0 {
		return nil
	}
	return errors.New("no other host of the mesh is in reach")
}

// bySpace are the other hosts, the one with most address space first.
func (r *Router) bySpace(ring *ipam.Ring) []mesh.Host {
	byID := map[peer.ID]mesh.Host{}
	var out []mesh.Host
	st := r.mesh.State()
	gone := fold(st, r.member.Secret.MeshID(), grantCache{}).Gone
	for _, h := range st.Hosts {
		if !h.Self && !gone[h.ID] {
			byID[h.ID] = h
		}
	}
	for _, o := range ring.Donors(ipam.Owner(r.id.ID()), ring.Whole()) {
		if h, ok := byID[peer.ID(o)]; ok {
			out = append(out, h)
			delete(byID, h.ID)
		}
	}
	for _, h := range st.Hosts {
		if _, left := byID[h.ID]; left {
			out = append(out, h)
		}
	}
	return out
}

// take carries grants that another host made to this one when it was reset.
func (r *Router) take(ctx context.Context, from peer.ID, body []byte) error {
	es, err := parseEntries(body)
	if err != nil {
		return err
	}
	return r.carry(ctx, from, es)
}

// removeFiles deletes the state and run directories' files that weft made.
func removeFiles(o Options) error {
	var errs []error
	for _, dir := range []string{o.StateDir, o.RunDir} {
		// The directories themselves may be mount points.
		names, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, n := range names {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// StopOffline takes the tunnels down when no router runs to do it. Others
// notice that the host is gone by its silence.
func StopOffline(o Options) error {
	o, h, err := offline(o)
	if err != nil {
		return err
	}
	return removeDevice(o, h)
}

// ResetOffline removes all that weft made on the host when no router runs. The
// host's address space cannot be handed over then, which force accepts.
func ResetOffline(o Options, force bool) error {
	o, h, err := offline(o)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, "state.db")); err == nil && !force {
		return &Error{Msg: "no router is running, so this host's address space cannot be handed to another host", Code: 409,
			Tip: "`weft launch --resume` and `weft reset` hand it over; `weft reset --force` gives it up"}
	}
	return errors.Join(removeDevice(o, h), h.Remove(), removeFiles(o))
}

func removeDevice(o Options, h *host.Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return peer.Remove(ctx, peer.Options{Interface: wireGuardName, RunDir: o.RunDir, Links: h, Log: o.Log})
}

func offline(o Options) (Options, *host.Host, error) {
	o, err := o.withDefaults()
	if err != nil {
		return o, nil, err
	}
	if os.Geteuid() != 0 {
		return o, nil, &Error{Msg: "weft needs root to remove network devices", Tip: "sudo weft …", Code: 403}
	}
	h, err := host.New(host.Options{Bridge: bridgeName, WireGuard: wireGuardName, Log: o.Log})
	return o, h, err
}
