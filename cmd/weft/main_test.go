package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes two programs for the scripts: weft is the real one, weft-fake
// differs from it in its router, which is a working model without a network,
// and in believing to be root.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weft": main,
		"weft-fake": func() {
			a := newApp()
			a.euid = func() int { return 0 }
			a.newDaemon = newFake
			a.stopOffline = fakeStopOffline
			a.resetOffline = fakeResetOffline
			os.Exit(a.run(untilSignal(), os.Args[1:]))
		},
		"weft-nobody": func() {
			a := newApp()
			a.euid = func() int { return 65534 }
			os.Exit(a.run(context.Background(), os.Args[1:]))
		},
	})
}
