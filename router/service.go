package router

import (
	"slices"
	"strconv"
	"strings"

	"weft/dns"
	"weft/docker"
)

// Labels by which a container says what it offers. SERVICE is a name of RFC 6335 ("http"),
// with "/udp" behind it if it is not TCP; several are parted by commas.
const (
	labelService = "weft.service" // SERVICE[/PROTO][=PORT],…
	labelPort    = "weft.port"    // of services that name none; else the lowest exposed port of the protocol
	labelText    = "weft.txt"     // a text; weft.txt.KEY=VALUE gives the text KEY=VALUE
)

// follow takes from a container what its attachment shows of it while it runs.
func (a *attachment) follow(c docker.Container, domain string) {
	a.Unhealthy = c.Unhealthy
	a.Services, a.ServedAs = nil, ""
	if fqdn, ok := a.mainName(); ok {
		a.ServedAs = fqdn
		a.Services = services(c, fqdn, domain, a.target())
	}
}

// serves says whether its services are to be found: they lead to a name, which may
// have been removed since.
func (a *attachment) serves() bool {
	return slices.ContainsFunc(a.Names, func(n attachedName) bool { return n.Type == typeAddr && n.FQDN == a.ServedAs })
}

// mainName is the name that the container got when it was attached, or the first that
// was added since.
func (a *attachment) mainName() (string, bool) {
	for _, n := range a.Names {
		if n.Type == typeAddr && !strings.HasPrefix(n.FQDN, "*") {
			return n.FQDN, true
		}
	}
	return "", false
}

// services are the SRV and TXT records of a container: for each exposed port one at its own name;
// for each service that a label names one at _SERVICE._PROTO before the container's
// name and one before the domain; and its texts. The SRV records lead to target.
func services(c docker.Container, fqdn, domain, target string) []attachedName {
	var out []attachedName
	add := func(n attachedName) {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, p := range c.Exposed {
		add(attachedName{FQDN: fqdn, Type: typeSRV, Port: p.Number, Data: target})
	}
	for s := range strings.SplitSeq(c.Labels[labelService], ",") {
		s, port, _ := strings.Cut(strings.TrimSpace(s), "=")
		name, proto, ok := strings.Cut(strings.ToLower(s), "/")
		if !ok {
			proto = "tcp"
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if port == "" {
			n, err = strconv.ParseUint(c.Labels[labelPort], 10, 16)
		}
		if c.Labels[labelPort] == "" && port == "" {
			n, err = 0, nil
			for _, p := range c.Exposed {
				if p.Proto == proto {
					n = uint64(p.Number)
					break
				}
			}
		}
		if err != nil || n == 0 {
			continue
		}
		for _, below := range []string{fqdn, domain} {
			at, err := dns.ValidName("_"+name+"._"+proto+"."+below, domain)
			if name == "" || err != nil {
				continue
			}
			add(attachedName{FQDN: at, Type: typeSRV, Port: uint16(n), Data: target})
		}
	}
	for k, v := range c.Labels {
		text := v
		switch key, isText := strings.CutPrefix(k, labelText); {
		case !isText:
			continue
		case strings.HasPrefix(key, "."):
			text = key[1:] + "=" + v
		case key != "":
			continue
		}
		if text != "" && len(text) <= 255 {
			add(attachedName{FQDN: fqdn, Type: typeTXT, Data: text})
		}
	}
	slices.SortFunc(out, func(a, b attachedName) int { return a.key("").compare(b.key("")) })
	return out
}

// updateNames makes a running container's new services and health effective. The container
// is locked.
func (r *Router) updateNames(a *attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.attached[a.Key]
	if had == nil || had.Unhealthy == a.Unhealthy && slices.Equal(had.Services, a.Services) {
		return nil
	}
	return r.putAttachmentLocked(a)
}
