//go:build race

package ipam

const ballots = 2 // see TestElectionExhaustively: the detector makes three take minutes
