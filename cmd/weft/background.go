package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/api"
)

// A launch and the background router that it starts speak through two pipes:
//
//	launch → router   launchConfig, then launchWord{Stay: true}
//	router → launch   launchResult
//
// The router stays only once it has read the second word. A launch that is
// interrupted or killed closes the pipe without it, and the router takes itself
// down again, so that no half of a launch is left.
const (
	configFD = 3 // in the router's process
	resultFD = 4
)

type launchWord struct{ Stay bool }

type launchResult struct {
	Ready    bool
	Greeting []string
	Error    string
	Hints    []string
}

// giveUpTimeout is how long a router may take to end after its launch was interrupted.
const giveUpTimeout = 15 * time.Second

// background starts the router in a process and session of its own and returns
// when it serves.
func (a *app) background(ctx context.Context, c launchConfig) (greeting []string, err error) {
	log, err := openLog(c.Options.RunDir)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	configR, configW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer configW.Close()
	resultR, resultW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe: %w", err), configR.Close())
	}
	defer resultR.Close()
	child := &exec.Cmd{
		Path: exe, Args: []string{os.Args[0], "router"},
		Env: withoutSecrets(os.Environ()), Dir: "/",
		Stdout: log, Stderr: log,
		ExtraFiles:  []*os.File{configFD - 3: configR, resultFD - 3: resultW},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = child.Start()
	configR.Close()
	resultW.Close() // so that the router's end is seen
	if err != nil {
		return nil, fmt.Errorf("start the router: %w", err)
	}
	results := make(chan launchResult, 1)
	go func() { // ends with the router, or with resultR
		var r launchResult
		if json.NewDecoder(resultR).Decode(&r) == nil {
			results <- r
		}
		close(results)
	}()
	// A config that a dying router does not read is explained by its result.
	configErr := json.NewEncoder(configW).Encode(c)

	note := time.AfterFunc(noteAfter, func() {
		fmt.Fprintf(a.stderr, "weft: waiting for the router, which logs to %s\n", log.Name())
	})
	defer note.Stop()
	select {
	case <-ctx.Done():
		configW.Close()
		return nil, errors.Join(ctx.Err(), end(child))
	case r, ok := <-results:
		switch {
		case ok && r.Ready && ctx.Err() != nil:
			configW.Close()
			return nil, errors.Join(ctx.Err(), end(child))
		case ok && r.Ready:
			if json.NewEncoder(configW).Encode(launchWord{Stay: true}) == nil {
				return r.Greeting, child.Process.Release()
			}
		case ok:
			_ = child.Wait() // it has said why
			return nil, &failure{err: errors.New(r.Error), hints: r.Hints}
		}
		hint := "its log says why: " + log.Name()
		err := child.Wait()
		if err == nil {
			err = configErr
		}
		if err == nil {
			return nil, fail(hint, "the router ended before it served")
		}
		return nil, fail(hint, "the router ended before it served: %w", err)
	}
}

// end waits for a router whose launch has been given up, and kills one that
// does not come to an end.
func end(child *exec.Cmd) error {
	kill := time.AfterFunc(giveUpTimeout, func() { child.Process.Kill() })
	defer kill.Stop()
	err := child.Wait()
	if s, ok := errors.AsType[*exec.ExitError](err); ok && s.Exited() {
		return nil // with an error, since it was interrupted
	}
	return err
}

// maxLog is the size in bytes beyond which a launch begins a new log.
const maxLog = 1 << 20

// openLog opens RUN-DIR/router.log, which only root may read.
func openLog(runDir string) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	path := filepath.Join(runDir, "router.log")
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("begin a new log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := f.Chmod(0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	return f, nil
}

var errAbandoned = errors.New("the launch that started this router ended before it served")

// child is the background router's side.
func (a *app) child(ctx context.Context) error {
	config, result := os.NewFile(configFD, "config"), os.NewFile(resultFD, "result")
	if !isPipe(config) || !isPipe(result) {
		return fail("weft launch, or weft launch --foreground", "weft router is what weft launch starts")
	}
	defer result.Close()
	// The device process outlives the router: it must not hold the pipes.
	unix.CloseOnExec(configFD)
	unix.CloseOnExec(resultFD)
	words := json.NewDecoder(config)
	var c launchConfig
	if err := words.Decode(&c); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stay := make(chan struct{})
	go func() { // ends with the first word, or with the launch
		defer config.Close()
		var w launchWord
		if err := words.Decode(&w); err != nil || !w.Stay {
			cancel(errAbandoned)
			return
		}
		close(stay)
	}()
	log := newLogger(a.stderr, c)
	served := false
	err := a.serve(ctx, c, log, func(greeting []string) error {
		served = true
		if err := json.NewEncoder(result).Encode(launchResult{Ready: true, Greeting: greeting}); err != nil {
			return errAbandoned
		}
		result.Close()
		select {
		case <-stay:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil && !served {
		_ = json.NewEncoder(result).Encode(launchResult{Error: err.Error(), Hints: api.Hints(err)}) // run prints it too, to the log
	}
	return err
}

func isPipe(f *os.File) bool {
	if f == nil {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().Type() == os.ModeNamedPipe
}
