package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runLimit ends a command that Run started, so that a hang becomes an error
// with the command's name.
const runLimit = 2 * time.Minute

// Cmd is a command that runs inside a host or workload. Its fields are
// exec.Cmd's; the methods here start it in the right place.
type Cmd struct {
	*exec.Cmd
	place *place
	// ended tells why the command was killed; nil if it was not.
	ended func() error
}

// Command prepares a command inside. When ctx ends, it is killed with its
// process group; it has a session of its own, so that Ctrl-C does not reach it.
func (p *place) Command(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, lookPath(name), args...)
	cmd.Args[0] = name
	cmd.Dir = "/"
	cmd.Env = environ(p.lab.record.ID + "/" + p.part + "/run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // a child in the background may hold the output open
	return &Cmd{cmd, p, func() error { return context.Cause(ctx) }}
}

// Start starts the command; see exec.Cmd.Start.
func (c *Cmd) Start() error {
	if c.Err != nil {
		return c.Err
	}
	return c.place.space.do(c.Cmd.Start)
}

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns all its output.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Run runs a command inside, for at most two minutes, and returns what it
// wrote. Children that it leaves in the background are not waited for. The
// error holds the command and the last lines of stderr.
func (p *place) Run(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	return p.RunContext(ctx, args...)
}

// RunContext is Run with a limit of the caller's.
func (p *place) RunContext(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	if len(args) == 0 {
		return "", "", errors.New("run command: no arguments")
	}
	return p.run(p.Command(ctx, args[0], args[1:]...))
}

func (p *place) run(cmd *Cmd) (stdout, stderr string, err error) {
	// Files, not pipes: a daemon that inherits them does not hold up Wait.
	out, err := memFile("stdout")
	if err != nil {
		return "", "", err
	}
	defer out.Close()
	errOut, err := memFile("stderr")
	if err != nil {
		return "", "", err
	}
	defer errOut.Close()
	cmd.Stdout, cmd.Stderr = out, errOut
	err = cmd.Run()
	stdout, stderr = content(out), content(errOut)
	p.note(cmd.Args, stdout, stderr, err)
	if err != nil {
		if cause := cmd.ended(); cause != nil {
			err = cause
		}
		return stdout, stderr, fmt.Errorf("run %q on %s: %w%s", strings.Join(cmd.Args, " "), p.label, err, lastLines(stderr, stdout))
	}
	return stdout, stderr, nil
}

// note adds a command of Run to the log HOST.commands.
func (p *place) note(args []string, stdout, stderr string, err error) {
	f, openErr := os.OpenFile(p.lab.logPath(p.label+".commands"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if openErr != nil {
		return // closed meanwhile
	}
	defer f.Close()
	const limit = 4 << 10
	clip := func(s string) string {
		if len(s) > limit {
			return s[:limit] + "…\n"
		}
		return s
	}
	text := fmt.Sprintf("%s $ %s\n%s%s", time.Now().Format("15:04:05.000"), strings.Join(args, " "), clip(stdout), clip(stderr))
	if err != nil {
		text += fmt.Sprintf("(%v)\n", err)
	}
	_, _ = io.WriteString(f, text)
}

func (l *Lab) logPath(name string) string {
	return filepath.Join(l.dir, "logs", name+".log")
}

func memFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file for output: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func content(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 64<<20))
	return string(b)
}

// lastLines picks what to quote of a failed command's output.
func lastLines(stderr, stdout string) string {
	text := strings.TrimSpace(stderr)
	if text == "" {
		text = strings.TrimSpace(stdout)
	}
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	return ": " + strings.Join(lines[max(0, len(lines)-5):], "\n")
}
