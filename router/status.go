package router

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/ipam"
	"weft/mesh"
	"weft/peer"
)

// Report is the router's state now.
func (r *Router) Report() Report {
	v := r.view.Load()
	if v == nil {
		return Report{Version: r.o.Version}
	}
	// What the mesh says is taken anew, so that what is printed is true when it
	// is printed; the plan is that of the last pass.
	st := r.mesh.State()
	names := nicknames(st)
	rep := Report{Version: r.o.Version, Router: r.routerReport(v, st, names)}
	rep.IPAM = r.ipamReport(st, names)
	rep.Router.Notices = append(rep.Router.Notices, r.spaceNotices(v, st)...)
	r.mu.Lock()
	claiming := r.allocating > 0
	r.mu.Unlock()
	if r.o.NoIPAM && !claiming {
		rep.IPAM.Status = "off (launched with an empty --ipalloc-range)"
	}
	if r.dns != nil {
		rep.DNS = r.dnsReport(st)
	}
	rep.Attachments = r.attachmentReports(nil)
	return rep
}

func nicknames(st *mesh.State) map[peer.ID]string {
	m := map[peer.ID]string{}
	for _, h := range st.Hosts {
		m[h.ID] = h.Record.Nickname
	}
	return m
}

// label is how a host is shown: peer ID and nickname, as in
// "k3v7q2m5x4n6p8r9(host1)".
func label(id, nickname string) string {
	if nickname == "" {
		return id
	}
	return id + "(" + nickname + ")"
}

func (r *Router) routerReport(v *view, st *mesh.State, names map[peer.ID]string) RouterReport {
	id := r.id.ID()
	mid := r.member.Secret.MeshID()
	rr := RouterReport{
		ID: id.String(), Nickname: r.o.Nickname, Mesh: mid.String(), Control: peer.ControlAddr(mid.Control(), id),
		Port: r.o.Port, Datapath: string(r.device().Kind()), MTU: v.MTU, Discovery: !r.o.NoDiscovery,
		Waiting: st.Waiting, Notices: append(slices.Clone(st.Notices), v.Plan.ClaimConflicts...),
	}
	rr.Notices = append(rr.Notices, disputeNotices(v.Plan.KeyDisputes)...)
	for event, n := range r.mesh.Counters() {
		rr.Counters = append(rr.Counters, CounterReport{event, n})
	}
	rr.Counters = append(rr.Counters, CounterReport{"state_entries_rejected", uint64(r.rejects.Load())})
	for _, x := range r.mesh.Rejections() {
		rj := RejectReport{Reason: x.Reason, Count: x.Count}
		if !x.Peer.IsZero() {
			rj.Peer = x.Peer.String()
		}
		rr.Rejected = append(rr.Rejected, rj)
	}
	s := r.mesh.Stats()
	rr.Log = LogReport{Hosts: s.Authors, Strangers: s.Strangers, Entries: s.Entries, Bytes: s.LogBytes, PastBytes: s.PastBytes, DiskQueue: s.DiskQueue, Inbox: s.Inbox,
		Outbox: s.Outbox, Relay: s.Relay, Guests: s.Guests, Locals: s.Locals, Exchanges: s.Exchanges, Turns: s.Turns}
	if r.dns != nil {
		c := r.dns.Counters()
		rr.Counters = append(rr.Counters, CounterReport{"dns_queries", c.Queries}, CounterReport{"dns_malformed", c.Malformed},
			CounterReport{"dns_refused", c.Refused}, CounterReport{"dns_forwarded", c.Forwarded}, CounterReport{"dns_failed", c.Failed}, CounterReport{"dns_shed", c.Shed})
	}
	slices.SortFunc(rr.Counters, func(a, b CounterReport) int { return cmp.Compare(a.Event, b.Event) })
	if !st.Founding.IsZero() {
		rr.Founded = label(st.Founding.Founder.String(), names[st.Founding.Founder])
	}
	if p := r.overlap.Load(); p != nil {
		rr.Notices = append(rr.Notices, *p)
	}
	if p := r.lastProblem(); p != "" {
		rr.Notices = append(rr.Notices, mismatch+p)
	}
	byPeer := map[peer.ID]bool{}
	for _, t := range r.mesh.Targets() {
		tr := TargetReport{Address: t.Addr, State: t.State, Error: t.Err, Retry: t.NextTry}
		if !t.Peer.IsZero() {
			tr.Peer = t.Peer.String()
			byPeer[t.Peer] = true
		}
		rr.Targets = append(rr.Targets, tr)
		if t.Peer.IsZero() {
			rr.Connections = append(rr.Connections, ConnectionReport{Outbound: true, Endpoint: t.Addr, State: targetState(t), Error: t.Err, Retry: t.NextTry})
		}
	}
	for _, p := range v.Plan.Peers {
		h, session := r.tunnels.session(p.Config.PublicKey)
		c := ConnectionReport{Outbound: byPeer[p.ID], Peer: p.ID.String(), Nickname: names[p.ID], Path: "direct", MTU: v.MTU, RxBytes: h.rx, TxBytes: h.tx, State: "connecting"}
		if i := slices.IndexFunc(st.Hosts, func(x mesh.Host) bool { return x.ID == p.ID }); i >= 0 {
			c.RTT = st.Hosts[i].RTT
			switch live := st.Hosts[i].Liveness; {
			case live == mesh.Left:
				c.State, c.Error = "failed", "stopped"
			case live == mesh.Failed:
				c.State, c.Error = "failed", "no sign of life"
			}
		}
		switch {
		case session && c.State == "connecting":
			c.State = "established"
		case !session && c.State == "connecting":
			c.Error = "no handshake yet"
		}
		switch {
		case h.end.IsValid():
			c.Endpoint = h.end.String()
		case len(p.Try) > 0:
			c.Endpoint = p.Try[0].String()
		}
		rr.Connections = append(rr.Connections, c)
	}
	slices.SortFunc(rr.Connections, func(a, b ConnectionReport) int {
		return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	for _, h := range st.Hosts {
		if v.Folded.Gone[h.ID] {
			continue
		}
		pr := PeerReport{ID: h.ID.String(), Nickname: h.Record.Nickname, Self: h.Self, State: liveness(h)}
		for _, e := range h.Record.Endpoints {
			pr.Endpoints = append(pr.Endpoints, e.String())
		}
		for _, p := range v.Plan.Peers {
			if p.ID == h.ID {
				for _, a := range p.Config.AllowedIPs {
					pr.AllowedIPs = append(pr.AllowedIPs, a.String())
				}
				_, pr.Established = r.tunnels.session(p.Config.PublicKey)
				pr.Established = pr.Established && h.Liveness == mesh.Alive
			}
		}
		rr.Peers = append(rr.Peers, pr)
	}
	return rr
}

func targetState(t mesh.Target) string {
	if t.State == "" {
		return "connecting"
	}
	return t.State
}

func liveness(h mesh.Host) string {
	if h.Self {
		return "alive"
	}
	switch h.Liveness {
	case mesh.Alive:
		return "alive"
	case mesh.Failed:
		return "failed"
	case mesh.Left:
		return "left"
	}
	return "unseen"
}

func (r *Router) device() tunnelDevice {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	return r.dev
}

func (r *Router) lastProblem() string {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	return r.problem
}

func (r *Router) ipamReport(st *mesh.State, names map[peer.ID]string) *IPAMReport {
	rep := &IPAMReport{Status: "idle", DefaultSubnet: r.defaultSubnet().String()}
	if !r.defaultSubnet().IsValid() {
		rep.DefaultSubnet = ""
	}
	b, err := r.booksNow()
	if errors.Is(err, ipam.ErrNotReady) {
		rep.Status = "awaiting the founder of the mesh"
		return rep
	}
	ring := b.ledger.Ring()
	rep.Range = ring.Whole().String()
	reachable := map[ipam.Owner]bool{}
	for _, h := range st.Hosts {
		reachable[ipam.Owner(h.ID)] = h.Self || h.Liveness == mesh.Alive
	}
	r.mu.Lock()
	waiting, priming, unproven, unadopted := r.allocating > 0, r.priming > 0, r.unproven, r.unadopted
	active := 0
	if r.alloc != nil {
		active = len(r.alloc.All())
	}
	r.mu.Unlock()
	for _, o := range b.ledger.Electors() {
		rep.Electors = append(rep.Electors, label(peer.ID(o).String(), names[peer.ID(o)]))
	}
	mine, anyOther := false, false
	for _, s := range ring.Shares() {
		if s.Owner == (ipam.Owner{}) {
			continue
		}
		o := OwnerReport{ID: peer.ID(s.Owner).String(), Nickname: names[peer.ID(s.Owner)], IPs: s.Addresses, Percent: 100 * s.Fraction, Active: -1, Reachable: reachable[s.Owner]}
		if peer.ID(s.Owner) == r.id.ID() {
			o.Active, mine = active, len(b.ledger.Usable()) > 0
		} else {
			anyOther = anyOther || o.Reachable
		}
		rep.Owners = append(rep.Owners, o)
	}
	slices.SortFunc(rep.Owners, func(a, b OwnerReport) int {
		return cmp.Or(-cmp.Compare(boolInt(a.ID == r.id.ID().String()), boolInt(b.ID == r.id.ID().String())), cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.ID, b.ID))
	})
	first, named := b.ledger.Beginning()
	switch {
	case unadopted != nil: // which `prime --alone` does not help
		rep.Status = "waiting: " + describe(unadopted)
	case unproven:
		rep.Status = "waiting to hear from another host, since this one's state may not be the latest - 'prime --alone' goes on without"
	case !ring.Seeded() && named:
		rep.Status = "awaiting the hosts that are to seed the range"
		switch _, missing := r.beginning.owners(st); {
		case st.Founding.Founder != st.Self:
			rep.Status += ", which " + r.show(st, ipam.Owner(st.Founding.Founder)) + " names"
		case r.beginning.seeds == nil: // its state was lost
			rep.Status += " - launch this host with --ipalloc-init seed=HOST,… to name them"
		case len(missing) > 0:
			rep.Status += ": " + strings.Join(missing, ", ")
		}
	case !ring.Seeded() && first > 0:
		known := 0
		for o, near := range reachable {
			if near && b.ledger.Stands(o) {
				known++
			}
		}
		rep.Status = fmt.Sprintf("awaiting consensus (quorum: %d, known: %d)", first/2+1, known)
		if es := b.ledger.Electors(); !majority(es, func(o ipam.Owner) bool { return reachable[o] }) {
			away := slices.DeleteFunc(es, func(o ipam.Owner) bool { return reachable[o] })
			rep.Status += fmt.Sprintf(" - %s began it, and is out of reach - 'rmpeer --force' if it is dead", r.showAll(st, away))
		} else if known > first/2 && known < first && !waiting && !priming {
			rep.Status += fmt.Sprintf(" - begins with %d hosts, or when somebody waits for an address", first)
		}
	case !ring.Seeded():
		rep.Status = "awaiting the founder of the mesh"
	case waiting && !mine && !anyOther:
		rep.Status = "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
	case waiting:
		rep.Status = "waiting for IP(s) to become available"
	case !mine && r.beginning.observer && !priming:
		rep.Status = "idle"
	case !mine:
		rep.Status = "priming"
	default:
		rep.Status = "ready"
	}
	for _, c := range b.ledger.Conflicts() {
		rep.Conflicts = append(rep.Conflicts, conflictText(c, func(o ipam.Owner) string { return r.show(st, o) }))
	}
	return rep
}

// conflictText says what two hosts both believe to own, and the way out.
func conflictText(c ipam.Conflict, show func(ipam.Owner) string) string {
	if c.From.IsZero() {
		return fmt.Sprintf("%v was seeded twice, by %s and by %s; %s's counts: run `weft reset --force` on %s and launch it anew", c.Prefix, show(c.A), show(c.B), show(c.A), show(c.B))
	}
	return fmt.Sprintf("%s has granted %v both to %s, whose it is, and to %s, which has to attach its containers there again: was an old state put back?", show(c.From), c.Prefix, show(c.A), show(c.B))
}

// spaceNotices are what an operator should know about this host's part of the
// range.
func (r *Router) spaceNotices(v *view, st *mesh.State) []string {
	var out []string
	if v.Ledger == nil {
		return nil
	}
	if s := r.beginning.differs(v.Ledger); s != "" && st.Founding.Founder != st.Self {
		out = append(out, s)
	}
	if r.damaged != "" {
		out = append(out, r.damaged)
	}
	if p := r.nameProblem.Load(); p != nil && *p != "" {
		out = append(out, "the names of this host are not announced as they are, so others may answer with containers that have gone: "+*p)
	}
	r.mu.Lock()
	if r.unadopted != nil {
		out = append(out, "no addresses are given out: "+describe(r.unadopted))
	}
	switch {
	case !r.unproven:
	case r.unprovenBy == wasBooted && r.lone():
		out = append(out, fmt.Sprintf("this host was rebooted and knows of no other: for %v it gives out no addresses, so that one which knows more can meet it", dialIn))
	default:
		out = append(out, "this host's state may not be the latest ("+r.unprovenBy+"): it gives out no addresses before it has heard from another host; `weft prime --alone` goes on without")
	}
	names := map[string]string{}
	for k, a := range r.attached {
		if names[k] = shortKey(k); a.Name != "" {
			names[k] = a.Name
		}
	}
	b := &books{st: st, folded: v.Folded, ledger: v.Ledger}
	e := r.envLocked(b)
	r.mu.Unlock()
	for _, s := range v.Stray {
		out = append(out, r.strayText(v, st, names[s.Container], s.Addr.Addr()))
	}
	if n := saidOfRing(st); n > fullToTake*3/4 {
		out = append(out, fmt.Sprintf("this host's log holds %d of at most %d entries about the ring, and takes no more address space from %d on: see \"A mesh that has had many hosts\" in docs/operations.md", n, mesh.MaxSnapshot, fullToTake))
	}
	for _, h := range st.Hosts {
		if n := v.Ring.Owned(ipam.Owner(h.ID)); v.Folded.Gone[h.ID] && len(n) > 0 {
			out = append(out, fmt.Sprintf("%s has left the mesh, and what it had (%s) is nobody's: weft rmpeer %v", r.show(st, ipam.Owner(h.ID)), strings.Trim(fmt.Sprint(n), "[]"), h.ID))
		}
	}
	if ps, taker := v.Ledger.LeftOver(); len(ps) > 0 && !e.Alive(taker) {
		out = append(out, fmt.Sprintf("%s, which was to take what takeovers have left over (%s), is out of reach or has left: as long as it is, that is nobody's; if it does not come back: weft rmpeer %v", r.show(st, taker), strings.Trim(fmt.Sprint(ps), "[]"), peer.ID(taker)))
	}
	for _, t := range v.Ledger.Overruled() {
		why := "by force, which does not count, or not for all that it had: others have taken over from it meanwhile"
		if !t.Forced {
			why = "by a decision that is undone: it was made without hosts that were removed by force, and one of those has been heard since"
		}
		out = append(out, fmt.Sprintf("this host took over from %s %s; containers here that have its addresses are to be detached and attached again", r.show(st, t.From), why))
	}
	for _, t := range v.Ledger.Takeovers() {
		if v.Ledger.Pending(t) {
			why, tip := r.waitsFor(b, e, t)
			out = append(out, fmt.Sprintf("%s is to take over from %s, and can not yet: %s; %s", r.show(st, t.To), r.show(st, t.From), why, tip))
		}
		if t.Forced {
			out = append(out, fmt.Sprintf("%s took over from %s by force, without a majority", r.show(st, t.To), r.show(st, t.From)))
		}
	}
	return out
}

// strayText says that a container's address is not this host's any more: it was taken over with
// the rest, or was given by a host whose taker did not know of that, or by a takeover that is undone.
func (r *Router) strayText(v *view, st *mesh.State, name string, a netip.Addr) string {
	whose := "nobody's"
	if o := v.Ring.Owner(a); !o.IsZero() {
		whose = r.show(st, o) + "'s"
		if t, ok := v.Ledger.Lost(); ok && o == t.To {
			whose += ", which took over while this host was away"
		}
	}
	return fmt.Sprintf("%s is out of reach: its address %v is %s; detach and attach it again", name, a, whose)
}

func (r *Router) dnsReport(st *mesh.State) *DNSReport {
	rep := &DNSReport{Domain: r.o.Domain + ".", Upstream: r.dns.Upstream(), TTL: r.o.DNSTTL}
	for _, a := range r.dns.Listening() {
		rep.Addresses = append(rep.Addresses, a.String())
	}
	hosts := map[peer.ID]mesh.Host{}
	for _, h := range st.Hosts {
		hosts[h.ID] = h
	}
	for _, n := range r.zone.all() {
		rec := record(n.nameKey, n.Host, n.Unhealthy)
		rep.Entries = append(rep.Entries, DNSEntry{Name: shortName(n.Name, r.o.Domain), Type: rec.Type(), Address: n.Addr, Data: n.text(), Container: n.Container,
			Peer: n.Host.String(), Hidden: r.hidden(hosts[n.Host]), Unhealthy: n.Unhealthy})
	}
	slices.SortFunc(rep.Entries, func(a, b DNSEntry) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), a.Address.Compare(b.Address), cmp.Compare(a.Data, b.Data), cmp.Compare(a.Peer, b.Peer))
	})
	return rep
}

// shortName leaves the domain out of a name within it.
func shortName(fqdn, domain string) string {
	if s, ok := strings.CutSuffix(fqdn, "."+domain+"."); ok {
		return s
	}
	return fqdn
}

// attachmentReports lists what is attached; only, if not empty, names the
// containers wanted by name, ID or beginning of an ID.
func (r *Router) attachmentReports(only []string) []AttachmentReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []AttachmentReport
	for _, a := range r.attached {
		if len(only) > 0 && !slices.ContainsFunc(only, func(s string) bool {
			return s == a.Key || s == a.Name || len(s) >= 4 && len(s) < len(a.Key) && a.Key[:len(s)] == s
		}) {
			continue
		}
		rep := AttachmentReport{Container: a.Key, Name: a.Name, MAC: a.mac, Running: a.running,
			Addresses: slices.SortedFunc(slices.Values(a.Addrs), comparePrefix)}
		for _, n := range a.Names {
			rep.Names = append(rep.Names, n.FQDN)
		}
		slices.Sort(rep.Names)
		rep.Names = slices.Compact(rep.Names)
		out = append(out, rep)
	}
	slices.SortFunc(out, func(a, b AttachmentReport) int { return cmp.Compare(a.Container, b.Container) })
	return out
}
