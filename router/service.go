package router

import (
	"cmp"
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

// offer is one thing that a container says it offers, at whatever name it has.
type offer struct {
	Service string `json:",omitempty"` // "_http._tcp"; empty: it has no name of its own
	Port    uint16 `json:",omitempty"` // zero: it is a text
	Text    string `json:",omitempty"`
}

func (o offer) compare(p offer) int {
	return cmp.Or(cmp.Compare(o.Service, p.Service), cmp.Compare(o.Port, p.Port), cmp.Compare(o.Text, p.Text))
}

// follow takes from a container what its attachment shows of it while it runs.
func (a *attachment) follow(c docker.Container, domain string) {
	a.Unhealthy, a.Offers = c.Unhealthy, offers(c, domain)
	if a.RewriteHosts {
		a.HostsFile = hostsFile{c.HostsPath, c.Hostname, c.Domainname}
	}
}

// mainName is the name that the container got when it was attached. While it does not have that, or got none, it is the first
// that was added since.
func (a *attachment) mainName() (string, bool) {
	first := ""
	for _, n := range a.Names {
		switch {
		case n.Type != typeAddr || strings.HasPrefix(n.FQDN, "*"):
		case n.FQDN == a.Default:
			return n.FQDN, true
		case first == "":
			first = n.FQDN
		}
	}
	return first, first != ""
}

// offers are what a container's exposed ports and labels say, sorted, each once, maxOffers at most.
func offers(c docker.Container, domain string) []offer {
	var out []offer
	for _, p := range c.Exposed {
		out = append(out, offer{Port: p.Number})
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
		service := "_" + name + "._" + proto
		if _, bad := dns.ValidName(service+"."+domain, domain); err == nil && bad == nil && n != 0 && name != "" {
			out = append(out, offer{Service: service, Port: uint16(n)})
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
			out = append(out, offer{Text: text})
		}
	}
	slices.SortFunc(out, offer.compare)
	if out = slices.Compact(out); len(out) > maxOffers {
		slices.SortStableFunc(out, func(a, b offer) int { return cmp.Compare(a.rank(), b.rank()) })
		out = out[:maxOffers]
		slices.SortFunc(out, offer.compare)
	}
	return out
}

// maxOffers is how much a container may offer beside its names. An image can expose all ports there are, and
// the names of all containers of a host share its log.
const maxOffers = 256

// rank is in which order they are kept where there are too many: services, for which clients ask by name; then texts; and
// ports that nobody has named, the lowest first.
func (o offer) rank() int {
	switch {
	case o.Service != "":
		return 0
	case o.Text != "":
		return 1
	}
	return 2
}

// services are the SRV and TXT records of a container whose main name is fqdn: for each port one there; for
// each service one at _SERVICE._PROTO before that name and one before the domain; and its texts. The SRV
// records lead to target.
func services(os []offer, fqdn, domain, target string, f func(attachedName)) {
	for _, o := range os {
		switch {
		case o.Port == 0:
			f(attachedName{FQDN: fqdn, Type: typeTXT, Data: o.Text})
		case o.Service == "":
			f(attachedName{FQDN: fqdn, Type: typeSRV, Port: o.Port, Data: target})
		default:
			for _, below := range []string{fqdn, domain} {
				if at, err := dns.ValidName(o.Service+"."+below, domain); err == nil { // else it is too long
					f(attachedName{FQDN: at, Type: typeSRV, Port: o.Port, Data: target})
				}
			}
		}
	}
}

// mark says that a container is unhealthy.
func mark(container string) nameKey { return nameKey{Container: container, Type: typeUnhealthy} }

// updateNames makes what a running container offers and its health effective. The container
// is locked.
func (r *Router) updateNames(a *attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.attached[a.Key]
	if had == nil || had.sameShown(a) {
		return nil
	}
	return r.putAttachmentLocked(a)
}

// sameShown says whether both show the same of a container while it runs.
func (a *attachment) sameShown(b *attachment) bool {
	return a.Unhealthy == b.Unhealthy && a.HostsFile == b.HostsFile && slices.Equal(a.Offers, b.Offers)
}
