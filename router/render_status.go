package router

import (
	"fmt"
	"strconv"
	"strings"
)

var connectionStates = []string{"established", "connecting", "retrying", "failed"}

// RenderStatus writes the overview that `weft status` prints.
func RenderStatus(r Report) string {
	var f form
	f.line("Version", "%s", r.Version)
	f.line("Service", "router")
	f.line("Name", "%s", label(r.Router.ID, r.Router.Nickname))
	f.line("Encryption", "%s", encryption(r.Router.Datapath))
	f.line("PeerDiscovery", "%s", enabled(r.Router.Discovery))
	f.line("Targets", "%d", len(r.Router.Targets))
	f.line("Connections", "%s", count(r.Router.Connections, func(c ConnectionReport) string { return c.State }, connectionStates))
	f.line("Peers", "%s", peers(r.Router.Peers))
	for _, w := range r.Router.Waiting {
		f.line("Waiting", "%s", w)
	}
	for _, n := range r.Router.Notices {
		f.line("Notice", "%s", n)
	}
	if i := r.IPAM; i != nil {
		f.WriteByte('\n')
		f.line("Service", "ipam")
		f.line("Status", "%s", i.Status)
		f.known("Range", i.Range)
		f.known("DefaultSubnet", i.DefaultSubnet)
		for _, c := range i.Conflicts {
			f.line("Conflict", "%s", c)
		}
	}
	if d := r.DNS; d != nil {
		f.WriteByte('\n')
		f.line("Service", "dns")
		f.line("Domain", "%s", d.Domain)
		f.line("Upstream", "%s", orNone(d.Upstream))
		f.line("TTL", "%d", d.TTL)
		f.line("Entries", "%d", len(d.Entries))
	}
	return f.String()
}

func encryption(datapath string) string {
	if datapath == "" {
		return "WireGuard (no device yet)"
	}
	return "WireGuard (" + datapath + ")"
}

func enabled(b bool) string {
	if b {
		return "enabled"
	}
	return "disabled"
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// peers counts the members, and the tunnels from here that are up.
func peers(ps []PeerReport) string {
	up := 0
	for _, p := range ps {
		if p.Established {
			up++
		}
	}
	if up == 0 {
		return strconv.Itoa(len(ps))
	}
	return fmt.Sprintf("%d (with %d established connections)", len(ps), up)
}
