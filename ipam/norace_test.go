//go:build !race

package ipam

const (
	ballots    = 3 // see TestElectionExhaustively
	churnSteps = 100000
)
