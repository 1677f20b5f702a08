//go:build race

package simnet

// testing/synctest together with the race detector can crash the runtime
// (golang/go#76691).
const raceEnabled = true
