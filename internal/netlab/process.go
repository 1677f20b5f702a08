package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// envMark is the environment variable LAB/HOST/PART that every process of a
// lab is started with.
const envMark = "WEFT_NETLAB"

// mark says which processes of the machine are meant: those that have one of
// the marks set here, and their descendants.
type mark struct {
	env    string // prefix of envMark's value
	dir    string // a directory that the process sees in its root
	cgroup string // a cgroup that the process is in, at any depth
	netns  fileID // zero: any; only for namespaces held open
}

type fileID struct{ dev, ino uint64 }

type process struct {
	pid, parent int
	start       uint64 // clock ticks after boot; with pid it is unique
}

// running lists the processes that m means, without this one and zombies.
func running(m mark) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	ours := make(map[int]bool)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, alive := readProcess(pid)
		if !alive {
			continue
		}
		all = append(all, p)
		ours[pid] = m.on(pid)
	}
	for grown := true; grown; { // children may come before their parents
		grown = false
		for _, p := range all {
			if !ours[p.pid] && ours[p.parent] {
				ours[p.pid], grown = true, true
			}
		}
	}
	var found []process
	for _, p := range all {
		if ours[p.pid] {
			found = append(found, p)
		}
	}
	return found, nil
}

func (m mark) on(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	if m.env != "" {
		env, _ := os.ReadFile(proc + "/environ") // unreadable: gone, or a kernel thread
		if bytes.Contains(append([]byte{0}, env...), []byte("\x00"+envMark+"="+m.env)) {
			return true
		}
	}
	var st unix.Stat_t
	if m.dir != "" && unix.Stat(proc+"/root"+m.dir, &st) == nil {
		return true
	}
	if m.netns != (fileID{}) && unix.Stat(proc+"/ns/net", &st) == nil && m.netns == (fileID{st.Dev, st.Ino}) {
		return true
	}
	if m.cgroup != "" {
		groups, _ := os.ReadFile(proc + "/cgroup")
		for line := range strings.Lines(string(groups)) {
			if strings.Contains(strings.TrimSpace(line)+"/", m.cgroup+"/") {
				return true
			}
		}
	}
	return false
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)); zombies are not alive, unless other threads of theirs
// still end: these hold the process's files, its sockets among them.
func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, string(b))
}

func parseStat(pid int, stat string) (process, bool) {
	// The name, in parentheses, may hold anything, also parentheses.
	_, rest, ok := cutLast(stat, ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" && (f[17] == "1" || f[17] == "0") || f[0] == "X" {
		return process{}, false
	}
	parent, err1 := strconv.Atoi(f[1])
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	return process{pid: pid, parent: parent, start: start}, err1 == nil && err2 == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (p process) runs() bool {
	now, alive := readProcess(p.pid)
	return alive && now.start == p.start
}

// signal sends sig unless another process has taken the ID meanwhile.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.pid, err)
	}
	defer unix.Close(fd)
	if !p.runs() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// endMarked ends everything that m means; see endProcesses.
func endMarked(m mark, grace time.Duration) error {
	return endProcesses(func() ([]process, error) { return running(m) }, grace)
}

// endProcesses ends what find finds until it finds nothing: by SIGTERM, and by
// SIGKILL what still runs after grace (0: SIGKILL at once).
func endProcesses(find func() ([]process, error), grace time.Duration) error {
	const limit = 10 * time.Second
	start, sig := time.Now(), unix.SIGTERM
	told := make(map[process]unix.Signal)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if time.Since(start) >= grace {
			sig = unix.SIGKILL
		}
		// A process loses its marks some time before it is gone, and until it
		// is gone it may have children that a search has missed.
		maps.DeleteFunc(told, func(p process, _ unix.Signal) bool { return !p.runs() })
		found, err := find()
		if err != nil {
			return err
		}
		if len(found)+len(told) == 0 {
			return nil
		}
		if time.Since(start) > grace+limit {
			return fmt.Errorf("end processes: %v run %v after SIGKILL", slices.Collect(maps.Keys(told)), limit)
		}
		var errs []error
		for _, p := range found {
			if told[p] != sig {
				errs = append(errs, p.signal(sig))
				told[p] = sig
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		<-tick.C
	}
}

// cgroupDirs lists the directories of a cgroup in all hierarchies.
func cgroupDirs(name string) []string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var dirs []string
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): … mount point (5th) … - type source options
		fields, tail, _ := strings.Cut(line, " - ")
		f := strings.Fields(fields)
		if len(f) < 5 || !strings.HasPrefix(tail, "cgroup") {
			continue
		}
		if _, err := os.Stat(f[4] + name); err == nil {
			dirs = append(dirs, f[4]+name)
		}
	}
	return dirs
}

// thaw lets paused containers (cgroup v1) die: a frozen process ignores SIGKILL.
func thaw(cgroup string) {
	for _, dir := range cgroupDirs(cgroup) {
		_ = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "freezer.state" {
				_ = os.WriteFile(dir+"/"+path, []byte("THAWED"), 0)
			}
			return nil
		})
	}
}

// removeCgroup removes a cgroup and those below it from all hierarchies.
func removeCgroup(name string) error {
	var errs []error
	for _, dir := range cgroupDirs(name) {
		errs = append(errs, removeCgroupDir(dir))
	}
	return errors.Join(errs...)
}

func removeCgroupDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupDir(dir + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	// The kernel counts a process as a member for a moment after it has gone.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for try := 0; ; try++ {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try == 400 {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		<-tick.C
	}
}
