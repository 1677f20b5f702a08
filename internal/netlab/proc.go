package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Proc is a long-lived process inside a host or workload.
type Proc struct {
	cmd  *Cmd
	log  string // path
	from int64  // where its output begins in the log
	done chan struct{}
	err  error // set when done is closed
}

// Start starts a process that runs until it ends by itself, is killed, or the
// lab is closed. Its output is added to the log logname: letters, digits,
// hyphens and dots.
func (p *place) Start(logname string, args ...string) (*Proc, error) {
	return p.start(logname, "run", args...)
}

func (p *place) start(logname, kind string, args ...string) (*Proc, error) {
	if len(args) == 0 || logname == "" || strings.ContainsAny(logname, "/\x00") {
		return nil, errors.New("start process: want a log's name and a command")
	}
	cmd := p.Command(context.Background(), args[0], args[1:]...)
	cmd.Env = environ(p.lab.record.ID + "/" + p.part + "/" + kind)
	pr := &Proc{cmd: cmd, log: p.lab.logPath(p.label + "." + logname), done: make(chan struct{})}
	// A file, not a pipe: the process may outlive this one, see Keep.
	f, err := os.OpenFile(pr.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		defer f.Close()
		pr.from, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil {
		cmd.Stdout, cmd.Stderr = f, f
		err = p.lab.own(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			p.lab.procs = append(p.lab.procs, pr)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("start %q on %s: %w", strings.Join(args, " "), p.label, err)
	}
	go func() {
		defer close(pr.done)
		pr.err = cmd.Wait()
	}()
	return pr, nil
}

// Pid is the process ID, the same inside and outside.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Kill sends a signal to the process alone, not to its children. A process
// that has ended is no error.
func (p *Proc) Kill(sig os.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns its error, as exec.Cmd.Wait
// does. It may be repeated.
func (p *Proc) Wait() error {
	<-p.done
	return p.err
}

// Log returns what the process wrote so far.
func (p *Proc) Log() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.NewSectionReader(f, p.from, 64<<20))
	return string(b)
}
