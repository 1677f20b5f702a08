//go:build race

package mesh

// testing/synctest together with the race detector can crash the runtime
// (golang/go#76691): bubbles run without it, the stories in real time with it.
const raceEnabled = true
