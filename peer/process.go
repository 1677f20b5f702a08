package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readyFD tells the device process the descriptor on which its starter waits.
// It writes readyOK there, or its error.
const (
	readyFD = "WEFT_DEVICE_READY_FD"
	readyOK = "ready"
)

// maxLog is the size at which a device log is set aside at the next start.
const maxLog = 1 << 20

func pidPath(runDir string) string { return filepath.Join(runDir, "device.pid") }
func logPath(runDir string) string { return filepath.Join(runDir, "device.log") }

// startProcess starts the device process and returns its pid when its control
// socket answers. The process has a session of its own, so that no signal to
// the router's group or terminal reaches it.
func startProcess(ctx context.Context, o Options) (pid int, err error) {
	if len(o.Executable) == 0 {
		return 0, errors.New("start the device process: no executable is given")
	}
	exe, err := exec.LookPath(o.Executable[0])
	if err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	defer null.Close()
	log, err := openLog(logPath(o.RunDir))
	if err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	defer r.Close()
	argv := append(append([]string{}, o.Executable...),
		"--interface", o.Interface, "--mtu", strconv.Itoa(o.MTU), "--run-dir", o.RunDir)
	p, err := os.StartProcess(exe, argv, &os.ProcAttr{
		Dir:   "/",
		Env:   deviceEnv(),
		Files: []*os.File{null, log, log, w},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start the device process: %w", err)
	}
	answer, err := awaitReady(ctx, r)
	if err == nil && answer == readyOK {
		o.Log.Info("device process started", "pid", p.Pid)
		// It is not waited for: it outlives this process. If it dies before
		// us it stays a zombie until reap.
		pid := p.Pid // Release overwrites it
		return pid, p.Release()
	}
	where := ""
	if err != nil {
		where = whereabouts(p.Pid)
		dump(p)
	}
	p.Kill()
	state, _ := p.Wait()
	switch {
	case err != nil:
		return 0, fmt.Errorf("start the device process: %w%s (see %s)", err, where, logPath(o.RunDir))
	case answer == "":
		return 0, fmt.Errorf("start the device process: it ended with %v (see %s)", state, logPath(o.RunDir))
	}
	text, hint, _ := strings.Cut(answer, "\x00")
	err = fmt.Errorf("start the device process: %s", text)
	if hint != "" {
		err = withHint(err, hint)
	}
	return 0, err
}

// whereabouts says what a process that does not answer is doing.
func whereabouts(pid int) string {
	st, err := statOf(pid)
	if err != nil {
		return ""
	}
	in, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/wchan")
	if err != nil || len(in) == 0 {
		in = []byte("0")
	}
	return fmt.Sprintf("; it is in state %c with %d threads, the first waits in %s", st.state, st.threads, in)
}

// dump has a process that hangs write its stacks into its log, and waits a moment
// for that. It knows no keys before it is ready.
func dump(p *os.Process) {
	if p.Signal(unix.SIGQUIT) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		if st, err := statOf(p.Pid); err != nil || st.state == 'Z' || pause(ctx) != nil {
			return
		}
	}
}

// awaitReady reads what the device process says until it closes the pipe.
func awaitReady(ctx context.Context, r *os.File) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := io.ReadAll(io.LimitReader(r, 4096))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it is not ready: %w", context.Cause(ctx))
	}
	return string(b), err
}

// deviceEnv is the environment of the device process. The router's own may hold
// the mesh secret (WEFT_PASSWORD, WEFT_TOKEN), so only harmless names are passed on.
func deviceEnv() []string {
	env := []string{readyFD + "=3"} // the first of Files behind the standard ones
	for _, name := range []string{"PATH", "WEFT_LOG_LEVEL", "WEFT_LOG_FORMAT", "GOTRACEBACK", "GOCOVERDIR", "GOMEMLIMIT"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// openLog opens a log for appending. One that has grown large is renamed first;
// the run directory is in memory on most hosts.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// process is one process, not just a number that may be another's tomorrow.
type process struct {
	pid   int
	start uint64 // clock ticks after boot, field 22 of /proc/PID/stat (proc(5))
}

// readProcess reads the pid file: "PID START\n" in decimal.
func readProcess(runDir string) (process, error) {
	b, err := os.ReadFile(pidPath(runDir))
	if err != nil {
		return process{}, err
	}
	return parseProcess(b)
}

func parseProcess(b []byte) (process, error) {
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return process{}, errors.New("parse pid file: want a pid and a start time")
	}
	pid, err1 := strconv.ParseInt(f[0], 10, 32)
	start, err2 := strconv.ParseUint(f[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil || pid <= 1 {
		return process{}, errors.New("parse pid file: want a pid and a start time")
	}
	return process{int(pid), start}, nil
}

// write puts p into the pid file, in one step.
func (p process) write(runDir string) error {
	temp := pidPath(runDir) + ".tmp"
	if err := os.WriteFile(temp, fmt.Appendf(nil, "%d %d\n", p.pid, p.start), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, pidPath(runDir))
}

// alive says that p has not ended. A zombie has, but not before the last of its
// threads: until then they hold the link and the socket.
func (p process) alive() bool {
	st, err := statOf(p.pid)
	return err == nil && st.start == p.start && (st.state != 'Z' && st.state != 'X' || st.threads > 1)
}

// stop ends p: politely, after half of changeTimeout by force, and returns when
// it has ended.
func (p process) stop(ctx context.Context) error {
	h, err := os.FindProcess(p.pid)
	if err != nil {
		return fmt.Errorf("find process %d: %w", p.pid, err)
	}
	defer h.Release()
	// From here on the handle, a pidfd where the kernel has them, is this very process.
	if !p.alive() {
		return nil
	}
	if err := h.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d: %w", p.pid, err)
	}
	polite, cancel := context.WithTimeout(ctx, changeTimeout/2)
	defer cancel()
	for p.alive() {
		if pause(polite) != nil {
			h.Kill()
			if err := pause(ctx); err != nil && p.alive() {
				return fmt.Errorf("end process %d: %w", p.pid, err)
			}
		}
	}
	return nil
}

// stat is what we read of /proc/PID/stat (proc(5)).
type stat struct {
	state   byte   // field 3
	threads uint64 // field 20
	start   uint64 // field 22
}

func statOf(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads a line of /proc/PID/stat. The second field, the command in
// parentheses, may contain anything, parentheses and spaces too.
func parseStat(b []byte) (stat, error) {
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // f[0] is field 3
	if len(f) < 20 || len(f[0]) != 1 || f[0][0] < 'A' || f[0][0] > 'z' {
		return stat{}, errors.New("parse /proc/PID/stat: too few fields, or no state")
	}
	threads, err1 := strconv.ParseUint(f[17], 10, 64)
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return stat{}, fmt.Errorf("parse /proc/PID/stat: %w", err)
	}
	return stat{f[0][0], threads, start}, nil
}

// reap takes a child that has ended off the process table; zero is no child.
// False: it has not ended.
func reap(pid int) bool {
	if pid <= 0 {
		return true
	}
	got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return got == pid || err == unix.ECHILD
}
