package router

import (
	"fmt"
	"strings"
	"time"
)

// RenderTargets writes the targets, one address a line.
func RenderTargets(r Report) string {
	var b strings.Builder
	for _, t := range r.Router.Targets {
		b.WriteString(oneLine(t.Address) + "\n")
	}
	return b.String()
}

// RenderConnections writes a line per tunnel, and per target without one:
// direction, endpoint, state, and either how the tunnel goes or why there is none.
func RenderConnections(r Report) string {
	var b strings.Builder
	width := widest(21, r.Router.Connections, func(c ConnectionReport) string { return c.Endpoint })
	for _, c := range r.Router.Connections {
		line := fmt.Sprintf("%s %s %-11s %s", arrow(c.Outbound), column(c.Endpoint, width), c.State, connectionInfo(c))
		b.WriteString(strings.TrimRight(oneLine(line), " ") + "\n")
	}
	return b.String()
}

func arrow(outbound bool) string {
	if outbound {
		return "->"
	}
	return "<-"
}

func connectionInfo(c ConnectionReport) string {
	var info string
	switch {
	case c.State == "established":
		info = fmt.Sprintf("%-11s %-6s %s", "encrypted", c.Path, label(c.Peer, c.Nickname))
		if c.MTU > 0 {
			info += fmt.Sprintf(" mtu=%d", c.MTU)
		}
		if c.RTT > 0 {
			info += fmt.Sprintf(" rtt=%.1fms", float64(c.RTT)/float64(time.Millisecond))
		}
		return info
	case c.Error != "":
		info = c.Error
	case c.Peer != "":
		info = label(c.Peer, c.Nickname)
	}
	if !c.Retry.IsZero() {
		if info != "" {
			info += ", "
		}
		info += "retry: " + at(c.Retry)
	}
	return info
}

// RenderPeers writes the members. Below this host are its tunnels, one a line;
// below each other is what is known of it: where it is reached, and which
// addresses go there.
func RenderPeers(r Report) string {
	var b strings.Builder
	conns := r.Router.Connections
	endpoints := widest(21, conns, func(c ConnectionReport) string { return c.Endpoint })
	labels := widest(24, conns, func(c ConnectionReport) string { return label(c.Peer, c.Nickname) })
	for _, p := range r.Router.Peers {
		line := label(p.ID, p.Nickname)
		if !p.Self && p.State != "alive" {
			line += " - " + p.State
		}
		b.WriteString(oneLine(line) + "\n")
		if p.Self {
			for _, c := range conns {
				b.WriteString(oneLine(fmt.Sprintf("   %s %s %s %s", arrow(c.Outbound), column(c.Endpoint, endpoints),
					column(label(c.Peer, c.Nickname), labels), c.State)) + "\n")
			}
			continue
		}
		if len(p.Endpoints) > 0 {
			b.WriteString("   endpoints: " + oneLine(strings.Join(p.Endpoints, ", ")) + "\n")
		}
		if len(p.AllowedIPs) > 0 {
			b.WriteString("   allowed ips: " + oneLine(strings.Join(p.AllowedIPs, ", ")) + "\n")
		}
	}
	return b.String()
}
