package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// place is where commands run: a host or a workload. Its methods are Host's
// and Workload's.
type place struct {
	lab   *Lab
	space *space
	label string // HOST or HOST.WORKLOAD, for logs and messages
	part  string // HOST/ or HOST/workload.NAME, for envMark
	pid   int    // of the anchor, once kept
}

// Do runs f inside, on an OS thread of its own: files that it opens, sockets
// that it makes and links that it changes are those of the inside. Goroutines
// that f starts run outside.
func (p *place) Do(f func() error) error { return p.space.do(f) }

// WriteFile writes a file inside.
func (p *place) WriteFile(path string, data []byte, mode os.FileMode) error {
	return p.space.do(func() error { return os.WriteFile(path, data, mode) })
}

// ReadFile reads a file inside.
func (p *place) ReadFile(path string) (data []byte, err error) {
	err = p.space.do(func() (err error) { data, err = os.ReadFile(path); return err })
	return data, err
}

// Enter is the shell command that opens a shell inside, on the machine. It
// works as long as the lab's process lives, and after Keep.
func (p *place) Enter() string {
	if p.pid != 0 {
		return fmt.Sprintf("nsenter -t %d -m -n -u", p.pid)
	}
	fds := fmt.Sprintf("/proc/%d/fd/", os.Getpid())
	return fmt.Sprintf("nsenter --mount=%[1]s%[2]d --net=%[1]s%[3]d --uts=%[1]s%[4]d", fds, p.space.fd("mnt"), p.space.fd("net"), p.space.fd("uts"))
}

// anchor starts a process that holds the place's namespaces.
func (p *place) anchor() (err error) {
	p.pid, err = startAnchor(p.lab, p.space, p.lab.record.ID+"/"+p.part+"/anchor")
	return err
}

// startAnchor starts Options.Anchor in s and does not wait for it.
func startAnchor(l *Lab, s *space, value string) (pid int, err error) {
	cmd := exec.Command(lookPath(l.o.Anchor[0]), l.o.Anchor[1:]...)
	cmd.Env = environ(value)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.do(cmd.Start); err != nil {
		return 0, fmt.Errorf("start anchor: %w", err)
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// systemDirs hold the programs that daemons need; a user's PATH may lack some.
var systemDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"}

// lookPath finds a program in PATH and systemDirs. A name that is not found
// comes back as it is.
func lookPath(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range systemDirs {
		if path, err := exec.LookPath(dir + "/" + name); err == nil {
			return path
		}
	}
	return name
}

// environ is this process's environment without what would lead weft or
// Docker astray, with the mark of the lab and with systemDirs in PATH.
func environ(mark string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "WEFT_") || strings.HasPrefix(kv, "DOCKER_") || strings.HasPrefix(kv, "PATH=")
	})
	path := strings.Split(os.Getenv("PATH"), ":")
	for _, dir := range systemDirs {
		if !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return append(env, "PATH="+strings.Join(path, ":"), envMark+"="+mark)
}
