package router

import (
	"context"
	"net/netip"

	"weft/api"
	"weft/dns"
)

// nameEvent is a line of /names/watch: first a snapshot in Added, then, as they come, changes.
// A change of health is a removal and an addition.
type nameEvent struct {
	Type    string       `json:"type"` // "snapshot" or "change"
	Added   []nameRecord `json:"added,omitempty"`
	Removed []nameRecord `json:"removed,omitempty"`
}

// nameRecord is one thing that one name says, as this host answers it.
type nameRecord struct {
	Name      string     `json:"name"` // fully qualified, with the last dot
	Type      string     `json:"type"` // A, AAAA, SRV, TXT or CNAME
	Address   netip.Addr `json:"address,omitzero"`
	Port      uint16     `json:"port,omitempty"`
	Target    string     `json:"target,omitempty"`
	Text      string     `json:"text,omitempty"`
	Container string     `json:"container,omitempty"` // ID, at most 12 characters of it
	Peer      string     `json:"peer"`
	Unhealthy bool       `json:"unhealthy,omitempty"`
}

// watchNames tells a program what this host answers, and what changes. A program that reads slowly
// gets what has changed since its last line, however often, in one: nothing queues up for it.
func (r *Router) watchNames(ctx context.Context, write func(any) error) error {
	var told *dns.Table
	for {
		changed := r.zone.changed.next()
		now := r.zone.table.Load()
		e := nameEvent{Type: "snapshot"}
		if told == nil {
			e.Added = nameRecords(now.Records())
		} else {
			came, went := now.Since(told)
			e = nameEvent{Type: "change", Added: nameRecords(came), Removed: nameRecords(went)}
		}
		if told == nil || len(e.Added)+len(e.Removed) > 0 {
			if err := write(e); err != nil {
				return err
			}
		}
		told = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func nameRecords(rs []dns.Record) (out []nameRecord) {
	for _, r := range rs {
		if r.Host == "" { // the zone's own
			continue
		}
		out = append(out, nameRecord{Name: r.Name, Type: r.Type(), Address: r.Addr, Port: r.Port, Target: r.Target, Text: r.Text,
			Container: r.Owner, Peer: r.Host, Unhealthy: r.Down})
	}
	return out
}

func (r *Router) getNamesWatch(context.Context, *api.Request) (any, error) {
	return api.Stream(r.watchNames), nil
}
