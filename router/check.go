package router

import (
	"errors"

	"weft/dns"
	"weft/mesh"
	"weft/peer"
)

// checkEntry says what is wrong with what another host has signed, so that it can
// be named. What is wrong here counts for nothing where logs are folded. Kinds and
// versions that are not known are left to newer releases.
func (r *Router) checkEntry(author peer.ID, k mesh.Kind, payload []byte) error {
	var err error
	switch k {
	case mesh.KindGrant:
		_, err = parseGrant(author, payload, r.member.Secret.MeshID())
	case mesh.KindName:
		var o op
		var n nameKey
		if o, n, err = parseName(payload); err == nil && o == opSet {
			_, err = dns.ValidPattern(n.Name, r.o.Domain)
		}
	case mesh.KindClaim:
		_, p, perr := parseClaim(payload)
		if err = perr; err == nil {
			err = checkAddress(p)
		}
	}
	if errors.Is(err, errNewer) {
		return nil
	}
	return err
}
