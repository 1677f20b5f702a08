package router

import (
	"weft/api"
)

// Metrics turns a report into figures for Prometheus. Labels are bounded by the
// number of peers.
func Metrics(r Report) []api.Sample {
	var out []api.Sample
	gauge := func(name, help string, v float64, labels map[string]string) {
		out = append(out, api.Sample{Name: name, Help: help, Labels: labels, Value: v})
	}
	gauge("weft_info", "Constant 1, labelled with version, peer and datapath.", 1,
		map[string]string{"version": r.Version, "peer": r.Router.ID, "datapath": r.Router.Datapath})
	states := map[string]int{"established": 0, "connecting": 0, "retrying": 0, "failed": 0}
	for _, c := range r.Router.Connections {
		states[c.State]++
	}
	for s, n := range states {
		gauge("weft_connections", "Connections, by state.", float64(n), map[string]string{"state": s})
	}
	states = map[string]int{"alive": 0, "failed": 0, "left": 0, "unseen": 0}
	for _, p := range r.Router.Peers {
		states[p.State]++
	}
	for s, n := range states {
		gauge("weft_peers", "Members of the mesh, this host included, by state.", float64(n), map[string]string{"state": s})
	}
	for _, c := range r.Router.Counters {
		out = append(out, api.Sample{Name: "weft_mesh_events_total", Help: "What happened in the mesh since the start, by kind: joins, refusals, rejected entries.", Counter: true,
			Labels: map[string]string{"event": c.Event}, Value: float64(c.Count)})
	}
	for _, x := range r.Router.Rejected {
		out = append(out, api.Sample{Name: "weft_mesh_rejected_total", Help: "What members sent or wrote that was not taken, by member and reason. An empty peer stands for several.", Counter: true,
			Labels: map[string]string{"peer": x.Peer, "reason": x.Reason}, Value: float64(x.Count)})
	}
	l := r.Router.Log
	gauge("weft_mesh_log_hosts", "Hosts whose logs are held, this one included.", float64(l.Hosts), nil)
	gauge("weft_mesh_log_strangers", "Hosts of those that were never met since the start, and that no address space rests on.", float64(l.Strangers), nil)
	gauge("weft_mesh_log_entries", "Log entries held.", float64(l.Entries), nil)
	gauge("weft_mesh_log_bytes", "Bytes of the log entries held.", float64(l.Bytes), nil)
	gauge("weft_mesh_past_bytes", "Bytes held of what other hosts tell of this one's former logs.", float64(l.PastBytes), nil)
	for q, n := range map[string]int{"disk": l.DiskQueue, "inbox": l.Inbox, "outbox": l.Outbox, "relay": l.Relay} {
		gauge("weft_mesh_queue_depth", "Entries, values or datagrams that wait, by queue. All queues are bounded.", float64(n), map[string]string{"queue": q})
	}
	for s, n := range map[string]int{"underlay": l.Guests, "tunnel": l.Locals} {
		gauge("weft_mesh_sessions", "Sessions served now, by where they come from.", float64(n), map[string]string{"side": s})
	}
	for s, n := range map[string]int{"under way": l.Exchanges, "waiting": l.Turns} {
		gauge("weft_mesh_exchanges", "Exchanges of logs now: under way, or waiting for a turn.", float64(n), map[string]string{"state": s})
	}
	rx, tx := map[string]int64{}, map[string]int64{}
	for _, c := range r.Router.Connections {
		if c.Peer == "" {
			continue
		}
		rx[c.Peer] = max(rx[c.Peer], c.RxBytes) // a peer may be listed twice, as a target and as a tunnel
		tx[c.Peer] = max(tx[c.Peer], c.TxBytes)
	}
	for p := range rx {
		l := map[string]string{"peer": p}
		out = append(out, api.Sample{Name: "weft_received_bytes_total", Help: "Bytes received through the tunnel, by peer.", Counter: true, Labels: l, Value: float64(rx[p])},
			api.Sample{Name: "weft_sent_bytes_total", Help: "Bytes sent through the tunnel, by peer.", Counter: true, Labels: l, Value: float64(tx[p])})
	}
	if i := r.IPAM; i != nil {
		for _, o := range i.Owners {
			gauge("weft_ipam_owned_ips", "Addresses owned, by host.", float64(o.IPs), map[string]string{"peer": o.ID})
			if o.Active >= 0 {
				gauge("weft_ipam_active_ips", "Addresses in use on this host.", float64(o.Active), nil)
			}
		}
	}
	if d := r.DNS; d != nil {
		gauge("weft_dns_entries", "Names in the table.", float64(len(d.Entries)), nil)
	}
	gauge("weft_attached_containers", "Containers that have or are to get back an interface.", float64(len(r.Attachments)), nil)
	return out
}
