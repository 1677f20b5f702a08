// Command weft joins Docker hosts into one encrypted network in which every
// container has an address and a name.
//
// It is one binary: the verbs that an operator types, which speak to the router
// through its UNIX socket; the router itself, which `weft launch` starts in the
// background by running this binary again with the hidden verb `router`; and the
// userspace tunnel device, the hidden verb `device`, which outlives the router.
//
// This package turns flags into Options and errors into words. It owns the
// signals, the exit codes and the starting of goroutines, and decides nothing
// about the mesh. stdout carries data, stderr talk: `weft: error: …`, then
// `weft: hint: …`. Exit codes: 0 done, 1 failed, 2 used wrongly.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"weft/api"
	"weft/router"
)

// version is set when a release is built: -ldflags "-X main.version=…".
var version = "0.1.0"

func main() {
	os.Exit(newApp().run(untilSignal(), os.Args[1:]))
}

// untilSignal is a context that ends with the first signal, so that what runs
// ends in good order. The second signal kills.
func untilSignal() context.Context {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, func() {
		// A terminal that is closed sends SIGHUP more than once, by way of the
		// kernel and of the shell: nobody's second thought.
		signal.Ignore(syscall.SIGHUP)
		stop()
	})
	return ctx
}

// app is what the verbs act on.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	euid           func() int
	newDaemon      func(router.Options) (daemon, error)
	stopOffline    func(router.Options) error
	resetOffline   func(o router.Options, force bool) error

	runDir  string          // --run-dir of the verb that runs
	fromEnv map[string]bool // flags whose value came from the environment
	started bool            // the verb's arguments were found right
}

// daemon is a router, as `launch` runs it.
type daemon interface {
	Run(ctx context.Context) error // blocks; releases what New took
	Close() error                  // instead of Run
	Ready() <-chan struct{}        // closed when it serves
	Done() <-chan struct{}         // closed when an operation has ended it
	// Settle, after Ready, blocks until the router has met its mesh or will have to
	// wait for it. An error means that the launch was a mistake.
	Settle(ctx context.Context) error
	Greeting() []string    // what to tell the operator, after Settle; no secret
	Report() router.Report // after Ready
	Routes() []api.Route
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		euid:         os.Geteuid,
		newDaemon:    func(o router.Options) (daemon, error) { return router.New(o) },
		stopOffline:  router.StopOffline,
		resetOffline: router.ResetOffline,
	}
}

// run carries out one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !a.started { // cobra found the command line wrong
		err = asUsage(cmd, err)
	}
	printError(a.stderr, err)
	return exitCode(err)
}
