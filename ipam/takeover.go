package ipam

import (
	"cmp"
	"slices"
)

// Takeover is that all that From owned is To's: by a decision, or by force.
type Takeover struct {
	From, To Owner
	Forced   bool   // by an operator, without a majority
	ID       uint32 // twice the instance, and one more if it was decided; of forced ones several may have the same
}

// version is that of the grants by which To takes what From had. It does not depend on what else is decided: what was taken by force
// stays taken, whatever a majority has decided meanwhile. It gives way to a decision about the same host.
func (t Takeover) version() uint32 { return t.ID * takeoverStep }

func (t Takeover) compare(o Takeover) int {
	return cmp.Or(cmp.Compare(t.ID, o.ID), t.From.Compare(o.From))
}

// Brings says whether g is one of the grants by which a takeover was carried out.
func (t Takeover) Brings(g Grant) bool {
	return g.From == t.From && g.To == t.To && g.Version == t.version()
}

// taking is that a host has carried out a takeover.
type taking struct {
	by Owner
	id uint32
}

// hearing is that a host has heard of a takeover by force.
type hearing struct {
	by, from Owner
	id       uint32
}

func decidedID(instance uint32) uint32 { return 2*instance + 1 }
func isForced(id uint32) bool          { return id%2 == 0 }

func forcedTakeover(f Fact) Takeover {
	return Takeover{From: f.Vote.Value.Hosts[0], To: f.By, Forced: true, ID: 2 * f.Vote.Instance}
}

func compareForce(a, b Fact) int {
	return cmp.Or(a.By.Compare(b.By), a.Vote.Value.Hosts[0].Compare(b.Vote.Value.Hosts[0]))
}

// ahead is how many instances behind the open one a takeover by force still counts. What its author took for decided can be open again:
// votes of hosts that it had forced before have come late, and have changed who decides. Without a bound one member could use up the
// versions that there are.
const ahead = 64

// force adds the takeovers that were forced: of the same host in the same instance one counts.
func (l *Ledger) force(forced map[uint32][]Fact) {
	for i, fs := range forced {
		if i > l.open.instance+ahead {
			continue
		}
		slices.SortFunc(fs, compareForce)
		for _, f := range fs {
			t := forcedTakeover(f)
			if slices.ContainsFunc(l.takeovers, func(o Takeover) bool { return o.From == t.From && o.ID == t.ID }) {
				continue
			}
			// What came after it, and is in the base, leaves nothing of it.
			if l.base == nil || !slices.ContainsFunc(l.base.Takeovers, func(o Takeover) bool { return o.From == t.From && o.ID > t.ID }) {
				l.takeovers = append(l.takeovers, t)
			}
		}
	}
}

// Overruled are takeovers that self's operator has forced and that do not count, since another one by force came first, or of which a
// part is another's: a takeover of the same host was decided, and carried out before it could be heard of this one. And those that were
// decided, and carried out by self, in a council that force had made, and that votes of hosts which it had removed have undone.
func (l *Ledger) Overruled() []Takeover {
	return slices.Concat(l.overruledForce(), l.undone())
}

func (l *Ledger) undone() (out []Takeover) {
	for g := range l.accepts {
		t := Takeover{From: g.From, To: g.To, ID: g.Version / takeoverStep}
		if g.To == l.self && t.Brings(g) && !isForced(t.ID) && (l.base == nil || t.ID > decidedID(l.base.Instance)) &&
			!slices.Contains(l.takeovers, t) && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, Takeover.compare)
	return out
}

func (l *Ledger) overruledForce() []Takeover {
	return slices.DeleteFunc(slices.Clone(l.forced), func(t Takeover) bool {
		if !slices.Contains(l.takeovers, t) { // then it is over, or does not count
			return l.base != nil && slices.ContainsFunc(l.base.Takeovers, func(o Takeover) bool { return o.From == t.From && o.ID > t.ID })
		}
		return !slices.ContainsFunc(l.takeovers, func(o Takeover) bool {
			return o.From == t.From && o.To != t.To && o.ID > t.ID && slices.ContainsFunc(l.ring.parts, func(p Part) bool {
				return p.Owner == o.To && p.Version == o.version() && slices.ContainsFunc(l.spoilsOf[t.ID], p.Prefix.Overlaps)
			})
		})
	})
}

// outranked is the version of the last takeover of a host's space: what it had or gave by lower ones is void.
func (l *Ledger) outranked(h Owner) uint32 {
	for _, t := range slices.Backward(l.takeovers) {
		if t.From == h {
			return t.version()
		}
	}
	return 0
}

// Takeovers are those that were decided or forced, in the order of their IDs.
func (l *Ledger) Takeovers() []Takeover { return slices.Clone(l.takeovers) }

// Lost is the last takeover of self's space, if it was ever taken over.
func (l *Ledger) Lost() (Takeover, bool) {
	for _, t := range slices.Backward(l.takeovers) {
		if t.From == l.self {
			return t, true
		}
	}
	return Takeover{}, false
}
