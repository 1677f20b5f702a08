package mesh

import (
	"crypto/ed25519"
	"slices"
	"time"
)

// An epoch opens with all that lasts of the one before, and others take a snapshot of
// MaxSnapshot entries at most. So what would not fit into the next one is refused when
// it is to be written: a host that could not open an epoch could not start again.
const (
	maxLasting      = MaxSnapshot - 2     // beside the Begin and the host record
	maxLastingBytes = maxLogBytes * 3 / 4 // the rest of an epoch is to write on
	spare           = 256                 // entries that names and claims leave to grants and votes

	// crampedPause is the least time between two epochs that this host opens because
	// there was no room in one.
	crampedPause = time.Minute

	fullTip = `(see docs/operations.md, "When something is wrong")`
)

// lasts tells that the next snapshot may have an entry of that kind. A departure is the
// end of a log.
func lasts(k Kind) bool { return k != KindBegin && k != KindHost && k != KindDepart }

// optional tells that a snapshot may do without: a host whose names are not known can
// still keep its word about address space.
func optional(k Kind) bool { return k == KindName || k == KindClaim }

// roomFor says whether drafts that last still fit behind the entries of an epoch, of that
// size together. What was withdrawn counts until the next epoch: only the base knows it.
func roomFor(es []Entry, size int, ds []Draft) bool {
	some, opt := false, false
	for _, d := range ds {
		some, opt = some || lasts(d.Kind), opt || optional(d.Kind)
		size += draftLen(d)
	}
	if !some || len(es)+len(ds) <= maxLasting-spare && size <= maxLastingBytes-spare*maxEntry {
		return true // however much of it is there twice
	}
	all := make([]Draft, 0, len(es)+len(ds))
	for _, e := range es {
		all = append(all, Draft{e.Kind, e.Payload})
	}
	return within(snapshot(append(all, ds...), true), opt)
}

// within tells that a snapshot fits; opt, that it does and leaves what is spared.
func within(all []Draft, opt bool) bool {
	n, size := len(all), 0
	for _, d := range all {
		size += draftLen(d)
	}
	if opt {
		n, size = n+spare, size+spare*maxEntry
	}
	return n <= maxLasting && size <= maxLastingBytes
}

// fit leaves out names and claims, the last first, until a snapshot leaves room for
// what a host has to say besides. It returns how many.
func fit(all []Draft) (out []Draft, left int) {
	n, size := len(all)+spare, spare*maxEntry
	for _, d := range all {
		size += draftLen(d)
	}
	drop := make(map[int]bool)
	for i := len(all) - 1; i >= 0 && (n > maxLasting || size > maxLastingBytes); i-- {
		if optional(all[i].Kind) {
			drop[i] = true
			n, size = n-1, size-draftLen(all[i])
		}
	}
	for i, d := range all {
		if !drop[i] {
			out = append(out, d)
		}
	}
	return out, len(drop)
}

// helps tells that a new epoch with that base would have more room than the log, or
// other things in it. What names taken epochs is no content.
func (m *Mesh) helps(base []Draft, log []Entry) bool {
	now := make(map[string]bool)
	for _, d := range snapshot(nil, false, log) {
		if d.Kind != KindTaken {
			now[d.key()] = true
		}
	}
	next, _ := fit(m.shorter(snapshot(base, true, log), nil))
	return len(next) < len(now) || slices.ContainsFunc(next, func(d Draft) bool { return !now[d.key()] })
}

func draftLen(d Draft) int { return entryHeader + len(d.Payload) + ed25519.SignatureSize }
