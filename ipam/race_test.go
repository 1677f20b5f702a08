//go:build race

package ipam

import "flag"

const (
	ballots    = 2     // see TestElectionExhaustively: the detector makes three take minutes
	churnSteps = 10000 // see TestFragmentationStaysBounded: there are no goroutines to watch
)

// Random tests run at length in the pass without the detector.
func init() { _ = flag.Set("rapid.checks", "30") }
