package router

import (
	"fmt"
	"strings"
)

// staticOwner stands for the container of a name that belongs to none, so that
// the table keeps its columns.
const staticOwner = "weave:extern"

// RenderIPAM writes who owns how much of the range. While nobody is known to own
// any, or this host gives out none, it writes how things are instead.
func RenderIPAM(r Report) string {
	if r.IPAM == nil {
		return ""
	}
	var b strings.Builder
	owners := r.IPAM.Owners
	if len(owners) == 0 || strings.HasPrefix(r.IPAM.Status, "off") {
		var f form
		f.known("Status", r.IPAM.Status)
		b.WriteString(f.String())
		owners = nil
	}
	width := widest(36, owners, func(o OwnerReport) string { return label(o.ID, o.Nickname) })
	for _, o := range owners {
		fmt.Fprintf(&b, "%s %8d IPs (%04.1f%% of total)", column(oneLine(label(o.ID, o.Nickname)), width), o.IPs, o.Percent)
		if o.Active >= 0 {
			fmt.Fprintf(&b, " (%d active)", o.Active)
		}
		if !o.Reachable {
			b.WriteString(" - unreachable!")
		}
		b.WriteByte('\n')
	}
	for _, c := range r.IPAM.Conflicts {
		b.WriteString("conflict: " + oneLine(c) + "\n")
	}
	return b.String()
}

// RenderDNS writes the name table: name, address, container, host. Names of
// hosts that are failed or stopped are not answered, and say so. It is empty
// without DNS.
func RenderDNS(r Report) string {
	if r.DNS == nil {
		return ""
	}
	var b strings.Builder
	entries := r.DNS.Entries
	owner := func(e DNSEntry) string {
		if e.Container == "" {
			return staticOwner
		}
		return shortContainer(e.Container)
	}
	names := widest(12, entries, func(e DNSEntry) string { return e.Name })
	owners := widest(12, entries, owner)
	for _, e := range entries {
		what := e.Address.String()
		if !e.Address.IsValid() {
			what = e.Type + " " + e.Data
		}
		line := fmt.Sprintf("%s %-15s %s %s", column(e.Name, names), what, column(owner(e), owners), e.Peer)
		if e.Hidden {
			line += " - hidden"
		}
		if e.Unhealthy {
			line += " - unhealthy"
		}
		b.WriteString(oneLine(line) + "\n")
	}
	return b.String()
}

// RenderPS writes a line per container that has its interface now: ID, MAC,
// CIDRs. Those that are to get it back when they run again are only in the report.
func RenderPS(r Report) string {
	var b strings.Builder
	for _, a := range r.Attachments {
		if !a.Running {
			continue
		}
		mac := a.MAC
		if mac == "" {
			mac = "-"
		}
		line := shortContainer(a.Container) + " " + mac
		for _, p := range a.Addresses {
			line += " " + p.String()
		}
		b.WriteString(oneLine(line) + "\n")
	}
	return b.String()
}
