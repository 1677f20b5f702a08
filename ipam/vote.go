package ipam

import (
	"bytes"
	"cmp"
	"slices"
)

// Ballot orders the tries to decide an instance: by round, then by who tries. The zero Ballot is before all.
type Ballot struct {
	Round uint32
	By    Owner
}

func (b Ballot) compare(o Ballot) int {
	return cmp.Or(cmp.Compare(b.Round, o.Round), b.By.Compare(o.By))
}

func (b Ballot) less(o Ballot) bool { return b.compare(o) < 0 }

// Op is what a Value does.
type Op uint8

const (
	OpSeed Op = 1 // Hosts share the range: the ring begins
	OpAdd  Op = 2 // Hosts become electors
	OpDrop Op = 3 // Hosts are electors no more: they have departed
	OpTake Op = 4 // all that Hosts[0] owns becomes Hosts[1]'s: the former is dead
	OpBase Op = 5 // all that was said before comes to the Base with Digest; Hosts are the electors
)

// Value is what can be decided. The zero Value is none.
type Value struct {
	Op     Op
	Hosts  []Owner
	Digest Digest // of OpBase
}

func (v Value) equal(o Value) bool {
	return v.Op == o.Op && slices.Equal(v.Hosts, o.Hosts) && v.Digest == o.Digest
}

// Vote is what an elector has said about one instance: all of it, so that the latest vote stands for those before it. Paxos's messages
// are votes: who promises a ballot of its own prepares it, who accepts at a ballot of its own proposes; the others promise and accept
// it. Votes are facts of the voter's log: on its disk before anybody sees them, delivered late, twice or never.
type Vote struct {
	Instance uint32
	Promised Ballot
	Intent   Value // what the voter wants to propose, if Promised is its own
	Accepted Ballot
	Value    Value // what was accepted; none while Accepted is zero
}

// after says whether v is a later vote than o of the same voter in the same instance.
func (v Vote) after(o Vote) bool {
	if v.Promised != o.Promised {
		return o.Promised.less(v.Promised)
	}
	if v.Accepted != o.Accepted {
		return o.Accepted.less(v.Accepted)
	}
	return cmp.Or(v.Value.compare(o.Value), v.Intent.compare(o.Intent)) > 0 // honest voters say one thing at a time
}

// election is one instance of single-decree Paxos (Lamport, Paxos Made Simple, 2001), as one host sees it.
type election struct {
	instance uint32
	electors []Owner
	latest   map[Owner]Vote   // of electors
	all      map[Owner][]Vote // of electors, every one that was seen
	beyond   map[Owner][]Vote // of electors, those that count for what is decided only: see newElection
}

func (e *election) quorum() int { return len(e.electors)/2 + 1 }

// decided returns the value that a majority has accepted at one ballot.
func (e *election) decided() (Value, bool) {
	v, _, ok := e.outcome()
	return v, ok
}

// choice is a value, comparable.
type choice struct {
	op     Op
	hosts  string // one after another
	digest Digest
}

func (v Value) choice() choice {
	hosts := make([]byte, 0, len(v.Hosts)*len(Owner{}))
	for _, h := range v.Hosts {
		hosts = append(hosts, h[:]...)
	}
	return choice{v.Op, string(hosts), v.Digest}
}

func (v Value) compare(o Value) int {
	return cmp.Or(cmp.Compare(v.Op, o.Op), slices.CompareFunc(v.Hosts, o.Hosts, Owner.Compare), bytes.Compare(v.Digest[:], o.Digest[:]))
}

// acceptance is what an elector has accepted when.
type acceptance struct {
	ballot Ballot
	choice choice
}

// outcome is decided with the ballot. An elector that is not honest may say at a ballot something else than others: that is no vote for
// what they have accepted. If it says several things at its own ballot, and has each accepted by others, all see the same of them.
func (e *election) outcome() (decided Value, first Ballot, ok bool) {
	count := map[acceptance]int{}
	last := map[acceptance]Owner{} // that was counted
	for _, by := range e.electors {
		for _, v := range slices.Concat(e.all[by], e.beyond[by]) {
			if v.Accepted == (Ballot{}) {
				continue
			}
			a := acceptance{v.Accepted, v.Value.choice()}
			if count[a] > 0 && last[a] == by {
				continue
			}
			last[a] = by
			if count[a]++; count[a] < e.quorum() {
				continue
			}
			if !ok || v.Accepted.less(first) || v.Accepted == first && v.Value.compare(decided) < 0 { // of several, all are for the same
				decided, first, ok = v.Value, v.Accepted, true
			}
		}
	}
	return decided, first, ok
}

// maxJump is how many rounds a vote may be ahead of all others that count. Honest electors outbid each other by one; one that says the
// highest round that there is would leave nobody a ballot. All electors' logs together have too few votes to get there in jumps.
const maxJump = 1 << 12

// newElection is what the votes of an instance, whoever cast them, make of it for self. Electors' votes of rounds that no others lead up
// to are as votes that have not come yet: they count when those are here. What self has said counts always; it has seen what led there.
// So does what a majority has accepted, however high: the votes that led up to it are not kept when logs become shorter.
func newElection(instance uint32, electors []Owner, votes map[Owner][]Vote, self Owner) election {
	e := election{instance: instance, electors: electors, latest: map[Owner]Vote{}, all: map[Owner][]Vote{}, beyond: map[Owner][]Vote{}}
	highest := uint32(0)
	var rounds []uint32
	for _, by := range electors {
		for _, v := range votes[by] {
			if rounds = append(rounds, v.Promised.Round); by == self {
				highest = max(highest, v.Promised.Round)
			}
		}
	}
	slices.Sort(rounds)
	for _, r := range rounds {
		if uint64(r) <= uint64(highest)+maxJump {
			highest = max(highest, r)
		}
	}
	for _, by := range electors {
		first := map[Ballot]Value{} // that it has accepted: its log shows in which order
		for _, v := range votes[by] {
			if w, known := first[v.Accepted]; known && !w.equal(v.Value) {
				continue
			}
			if first[v.Accepted] = v.Value; v.Promised.Round > highest {
				e.beyond[by] = append(e.beyond[by], v)
				continue
			}
			if e.all[by] = append(e.all[by], v); v.after(e.latest[by]) {
				e.latest[by] = v
			}
		}
	}
	return e
}

// opinion is what an elector thinks of what others want, beside the votes.
type opinion struct {
	// agree is asked before a ballot is promised: whether self would have its proposer's intent decided; again before self proposes an
	// intent of its own, since a majority's promises may come days later; and before a value is accepted that by proposes, or proposed
	// that others have accepted: by may propose what it has asked nobody for, and who was dead may have come back. Only what may have
	// been decided already is carried through without, or nothing would ever be decided while who knows is away. To accept nothing is
	// always safe.
	agree func(by Owner, v Value) bool
	// bear says whether self can carry such a value through: not what it has reason to take for made up.
	bear func(Value) bool
	// near says who is in reach, and so may still answer a ballot.
	near func(Owner) bool
}

// asks is how many ballots, one after the other, somebody in reach may leave unanswered before what may have been decided, and is not
// agreed to, is carried through without that answer.
const asks = 8

// step returns the vote that self casts next, if there is one. wish is what it would have decided, none for nothing; with start it may
// begin a ballot for that, which outbids those under way.
func (e *election) step(self Owner, wish Value, start bool, o opinion) (Vote, bool) {
	if !slices.Contains(e.electors, self) {
		return Vote{}, false
	}
	if _, done := e.decided(); done {
		return Vote{}, false
	}
	mine := e.latest[self]
	mine.Instance = e.instance
	for _, by := range e.electors { // accept the highest proposal that no promise forbids
		if v := e.latest[by]; by != self && v.Accepted.By == by && mine.Accepted.less(v.Accepted) && !v.Accepted.less(mine.Promised) && (o.agree(by, v.Value) || e.mustPropose(by, v) && !e.awaits(self, v.Accepted, o) && o.bear(v.Value)) {
			mine.Promised, mine.Intent, mine.Accepted, mine.Value = v.Accepted, Value{}, v.Accepted, v.Value
		}
	}
	for _, by := range e.electors { // promise the highest ballot
		if v := e.latest[by]; by != self && v.Promised.By == by && mine.Promised.less(v.Promised) && o.agree(by, v.Intent) {
			mine.Promised, mine.Intent = v.Promised, Value{}
		}
	}
	if mine.Promised.By == self && mine.Accepted != mine.Promised { // propose, once a majority has promised
		free, bound := e.promised(self, mine)
		wanted := o.agree(self, mine.Intent) && (mine.Intent.Op != OpTake || mine.Intent.equal(wish))
		switch {
		case bound.Op != 0 && (o.agree(self, bound) || !free && !e.awaits(self, mine.Promised, o) && o.bear(bound)):
			mine.Accepted, mine.Value = mine.Promised, bound
		case free && wanted:
			mine.Accepted, mine.Value = mine.Promised, mine.Intent
		}
	}
	if start && wish.Op != 0 && !mine.after(e.latest[self]) && o.agree(self, wish) {
		round := uint32(0)
		for _, v := range e.latest {
			round = max(round, v.Promised.Round)
		}
		mine.Promised, mine.Intent = Ballot{round + 1, self}, wish
		if e.quorum() == 1 {
			value := wish
			if mine.Accepted != (Ballot{}) {
				value = mine.Value
			}
			mine.Accepted, mine.Value = mine.Promised, value
		}
	}
	return mine, mine.after(e.latest[self])
}

// promised says what the promises for self's ballot, of which mine is one, let it propose: what it likes, if free, and the value that
// was accepted at the highest ballot, if there is one. Without a majority it is neither.
//
// That value may be passed over if it cannot have been decided, and never will be: not even if all that have promised nothing yet have
// accepted it. Had it been decided, then all higher ballots were for it, and who has accepted it has accepted nothing else since.
// Nothing else was decided at lower ballots either, or it would not have been proposed.
func (e *election) promised(self Owner, mine Vote) (free bool, bound Value) {
	var ps []Vote
	var highest Ballot
	for _, by := range e.electors {
		v := e.latest[by]
		if by == self {
			v = mine
		}
		if v.Promised != mine.Promised {
			continue
		}
		if by != self { // what it has accepted once counts, whatever it says of that now
			for _, x := range e.all[by] {
				if v.Accepted.less(x.Accepted) {
					v.Accepted, v.Value = x.Accepted, x.Value
				}
			}
		}
		if ps = append(ps, v); highest.less(v.Accepted) {
			highest, bound = v.Accepted, v.Value
		}
	}
	if len(ps) < e.quorum() {
		return false, Value{}
	}
	having := len(e.electors) - len(ps)
	for _, v := range ps {
		if bound.Op != 0 && v.Value.equal(bound) {
			having++
		}
	}
	return bound.Op == 0 || having < e.quorum(), bound
}

// awaits says whether more promises may come for a ballot, of hosts in reach: they may tell that a value was not decided. In the end it is
// enough that they were asked, in ballots that self has promised, too. It goes by number and not by round, which whoever prepares chooses;
// and who answers anything is awaited anew: else one elector could have something carried through in the moment before others answer.
func (e *election) awaits(self Owner, ballot Ballot, o opinion) bool {
	var asked []Ballot
	for _, v := range e.all[self] {
		asked = append(asked, v.Promised)
	}
	slices.SortFunc(asked, Ballot.compare)
	asked = slices.Compact(asked)
	var since Ballot // who has answered nothing from here on was asked often enough
	if n := len(asked); n >= asks {
		since = asked[n-asks]
	}
	return slices.ContainsFunc(e.electors, func(h Owner) bool {
		last := e.latest[h].Promised
		return h != self && o.near(h) && last.less(ballot) && !last.less(since)
	})
}

// mustPropose says whether by, which proposes what v accepts, had no choice, as far as the votes that are known here tell.
func (e *election) mustPropose(by Owner, v Vote) bool {
	before := Vote{Instance: v.Instance, Promised: v.Accepted}
	for _, x := range e.all[by] { // its proposal is an acceptance, too
		if x.Accepted != v.Accepted && before.Accepted.less(x.Accepted) {
			before.Accepted, before.Value = x.Accepted, x.Value
		}
	}
	free, bound := e.promised(by, before)
	return !free && bound.Op != 0 && bound.equal(v.Value)
}
