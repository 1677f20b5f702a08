package router

import (
	"math/rand/v2"
	"time"

	"weft/ipam"
)

// Each ballot is an entry of the log that is never withdrawn. So tries come ever less
// often, up to hourly while nobody answers them, and up to every two minutes else.
const (
	answeredBallots = 8
	silentBallots   = 13
)

// ballotWait is for how long no other ballot is begun after so many in vain. Who outbids
// somebody else should not do it again at the same time.
func ballotWait(n int) time.Duration {
	return 400*time.Millisecond<<min(n, silentBallots) + rand.N(800*time.Millisecond)
}

// beginsBallotLocked says whether this host begins a ballot now, and has it look again when it may begin the
// next one. mu is held.
func (r *Router) beginsBallotLocked(b *books, e ipam.Env) bool {
	if !b.ledger.Wishes(e) {
		return false
	}
	now := time.Now()
	if i := b.ledger.Instance(); i != r.balloting {
		r.balloting, r.ballots, r.nextBallot = i, 0, time.Time{}
	}
	if n := b.ledger.Heard(); n != r.answers {
		r.answers, r.ballots, r.nextBallot = n, min(r.ballots, answeredBallots), minTime(r.nextBallot, now.Add(ballotWait(answeredBallots)))
	}
	if now.Before(r.nextBallot) || !majority(b.ledger.Electors(), e.Alive) {
		return false
	}
	wait := ballotWait(r.ballots)
	r.ballots++
	r.triedLocked(e.Take)
	r.nextBallot = now.Add(wait)
	time.AfterFunc(wait+10*time.Millisecond, r.Poke)
	return true
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// majority says whether so many of the electors are in reach that they can decide. A
// ballot without them would fill the log.
func majority(electors []ipam.Owner, alive func(ipam.Owner) bool) bool {
	n := 0
	for _, o := range electors {
		if alive(o) {
			n++
		}
	}
	return n > len(electors)/2
}
