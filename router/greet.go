package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/mesh"
)

// rejoinFor is how long a launch without targets waits for a host that it knew.
const rejoinFor = 3 * time.Second

const copyTip = "this host is a copy of another: `weft reset --force` here gives it an identity of its own, then launch it again"

// settleFor is how long a launch waits for the first contact with a target.
const settleFor = 10 * time.Second

// Settle waits, after Ready, until this host is a member of its mesh or knows
// that it will have to wait. It returns an error when the launch was a mistake:
// when every target that a newcomer named has refused it for a reason that does
// not cure itself, or when another host uses this one's identity.
func (r *Router) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	tried := func(t mesh.Target) bool { return t.State != "connecting" && t.State != "" }
	seen := refusals{}
	final := func(t mesh.Target) bool { return incurable(t.Reason) && !seen.once(t) }
	for {
		ts := slices.DeleteFunc(r.mesh.Targets(), func(t mesh.Target) bool { return t.State == "self" })
		for _, t := range ts {
			seen.note(t)
		}
		st := r.mesh.State()
		if st.Copied != "" {
			return &Error{Msg: st.Copied, Tip: copyTip, Code: 409}
		}
		met := slices.ContainsFunc(ts, func(t mesh.Target) bool { return t.State == "established" })
		switch {
		case len(ts) == 0 && (r.tunnels.admitted.Load() || !r.hasPeers(st)), met && !st.Founding.IsZero():
			return nil
		case len(ts) == 0 && time.Since(began) > rejoinFor:
			return nil // nobody that it knew answers
		case len(ts) == 0:
		case len(ts) > 0 && st.Founding.IsZero() && !met && !slices.ContainsFunc(ts, func(t mesh.Target) bool { return !final(t) }):
			return errors.Join(refusal(ts), r.forgetMembership())
		case !slices.ContainsFunc(ts, func(t mesh.Target) bool { return !tried(t) || st.Founding.IsZero() && seen.once(t) }):
			return nil // all were tried; none answers, or none is of a mesh yet: the router goes on trying
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// hasPeers says whether this host knows another that has not gone for good or
// announced its stop.
func (r *Router) hasPeers(st *mesh.State) bool {
	gone := r.foldNow(st).Gone
	return slices.ContainsFunc(st.Hosts, func(h mesh.Host) bool { return !h.Self && !gone[h.ID] && h.Liveness != mesh.Left })
}

// refusals are the tries of each target that were taken for a wrong secret. All
// that tells one is a connection that ends before its proof, which a network can do
// as well: a single one is not believed.
type refusals map[string][]time.Time

func (s refusals) note(t mesh.Target) {
	if t.Reason == mesh.WrongSecret && !t.NextTry.IsZero() && !slices.Contains(s[t.Addr], t.NextTry) {
		s[t.Addr] = append(s[t.Addr], t.NextTry)
	}
}

// once says that a target's word for a wrong secret is not to be believed yet.
func (s refusals) once(t mesh.Target) bool { return t.Reason == mesh.WrongSecret && len(s[t.Addr]) < 2 }

func incurable(why mesh.Reason) bool {
	switch why {
	case mesh.Clone, mesh.OtherMesh, mesh.OtherRange, mesh.WrongSecret, mesh.OtherProto:
		return true
	}
	return false
}

func refusal(ts []mesh.Target) error {
	var msgs []string
	tip := ""
	for _, t := range ts {
		msgs = append(msgs, t.Addr+": "+t.Err)
		switch t.Reason {
		case mesh.Clone:
			tip = copyTip
		case mesh.OtherMesh:
			tip = "`weft reset` on the hosts of one mesh, then launch them with a host of the other"
		case mesh.OtherRange:
			tip = "launch without --ipalloc-range; a mesh keeps the range that it was founded with"
		case mesh.WrongSecret:
			tip = "`weft token` on a host of that mesh prints the right one"
		case mesh.OtherProto:
			tip = "bring both hosts to the same release of weft"
		}
	}
	return &Error{Msg: "cannot join: " + strings.Join(msgs, "; "), Tip: tip, Code: 409}
}

// Greeting is what `weft launch` tells the operator when the router serves: who
// this host is, whom it has met or waits for, and how others join. It holds no
// secret. Asking for it takes the launch for a success.
func (r *Router) Greeting() []string {
	r.kept.Store(true)
	st := r.mesh.State()
	who := label(r.id.ID().String(), r.o.Nickname)
	var out []string
	var unmet []string
	for _, t := range r.mesh.Targets() {
		if t.State != "established" && t.State != "self" {
			why := t.Err
			if why == "" {
				why = "no answer yet"
			}
			unmet = append(unmet, fmt.Sprintf("%s (%s)", t.Addr, why))
		}
	}
	switch {
	case r.member.Founded:
		out = append(out, fmt.Sprintf("weft is running: %s founded mesh %v with range %v", who, r.member.Secret.MeshID(), st.Founding.Range))
	case st.Founding.IsZero():
		out = append(out, fmt.Sprintf("weft is running: %s has not joined yet", who))
	default:
		out = append(out, fmt.Sprintf("weft is running: %s is in mesh %v", who, r.member.Secret.MeshID()))
	}
	if len(unmet) > 0 {
		out = append(out, "waiting for "+strings.Join(unmet, ", ")+"; `weft status connections` follows it")
	}
	if r.member.Founded {
		out = append(out,
			"to add a host, run `weft token` here and, there:",
			"    weft launch TOKEN")
	}
	return out
}
