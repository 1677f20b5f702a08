package netlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	idLen      = 12 // hexadecimal digits
	dirPrefix  = "weft-netlab-"
	closeGrace = 500 * time.Millisecond // between SIGTERM and SIGKILL
)

// Options says how to make a Lab.
type Options struct {
	Name   string       // for messages and the record; it may be anything. "": the program's name
	Dir    string       // parent of the lab's own directory, on a disk when Docker is used. "": the temporary directory
	Anchor []string     // command that Keep leaves in each namespace; it must do nothing for ever. nil: sleep infinity
	Log    *slog.Logger // nil: nothing is logged
}

// Lab is a set of test hosts on a switch of their own.
type Lab struct {
	o       Options
	record  record
	dir     string
	cabling *cabling

	mu       sync.Mutex // guards the fields below
	closed   bool
	hosts    []*Host
	procs    []*Proc
	captures []*Capture
}

// New makes a lab without hosts. It needs root. The caller must Close it, and
// should Sweep before.
func New(o Options) (*Lab, error) {
	if o.Name == "" {
		o.Name = filepath.Base(os.Args[0])
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if len(o.Anchor) == 0 {
		o.Anchor = []string{"sleep", "infinity"}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("make lab: namespaces need root")
	}
	parent, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	for _, hidden := range []string{"/run", "/var/run", "/sys", "/etc", "/var/lib"} {
		if strings.HasPrefix(parent+"/", hidden+"/") {
			return nil, fmt.Errorf("make lab: hosts do not see the machine's %s, so files of the lab cannot be in %s", hidden, parent)
		}
	}
	id := make([]byte, idLen/2)
	rand.Read(id)
	self, _ := readProcess(os.Getpid())
	r := record{ID: hex.EncodeToString(id), Name: o.Name, Owner: os.Getpid(), Start: self.start}
	r.Dir = filepath.Join(parent, dirPrefix+r.ID)

	// The record comes first: whatever exists can be swept.
	if err := r.save(); err != nil {
		return nil, fmt.Errorf("record lab: %w", err)
	}
	l := &Lab{o: o, record: r, dir: r.Dir}
	for _, d := range []string{"logs", "hosts"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(l.dir, d), 0o755))
	}
	if err == nil {
		l.cabling, err = newCabling()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make lab: %w", err), l.Close())
	}
	o.Log.Debug("lab made", "name", o.Name, "id", r.ID, "dir", l.dir)
	return l, nil
}

// ID is the lab's random name, unique on the machine.
func (l *Lab) ID() string { return l.record.ID }

// Dir is the lab's directory, removed by Close. It is seen by all hosts.
func (l *Lab) Dir() string { return l.dir }

// Close ends every process in the lab, by SIGTERM and after half a second by
// SIGKILL, and removes everything that the lab made. It may be repeated; after
// Keep it does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()

	err := l.stopListening()
	err = errors.Join(err, l.record.end(closeGrace))
	for _, p := range l.procs {
		<-p.done
	}
	return errors.Join(err, l.letGo())
}

// Keep leaves the hosts and their processes up when this process ends, until
// End or the machine's restart, and returns the lab's ID. Cuts stay;
// impairments and captures are ended, since this process does their work.
func (l *Lab) Keep() (id string, err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return "", os.ErrClosed
	}
	l.closed = true
	l.mu.Unlock()

	err = errors.Join(l.stopListening(), l.cabling.anchor(l))
	for _, h := range l.hosts {
		err = errors.Join(err, h.anchor())
		for _, w := range h.workloads {
			err = errors.Join(err, w.anchor())
		}
	}
	kept := l.record
	kept.Kept = true
	err = errors.Join(err, kept.save())
	if err != nil {
		return "", errors.Join(fmt.Errorf("keep lab: %w", err), l.record.end(0), l.letGo())
	}
	return kept.ID, l.letGo()
}

// stopListening ends captures and impairments.
func (l *Lab) stopListening() error {
	for _, c := range l.captures {
		c.Stop()
	}
	if l.cabling == nil {
		return nil
	}
	return l.cabling.calm()
}

// letGo closes the files that hold the namespaces.
func (l *Lab) letGo() error {
	var errs []error
	for _, h := range l.hosts {
		for _, w := range h.workloads {
			errs = append(errs, w.space.close())
		}
		errs = append(errs, h.space.close())
	}
	if l.cabling != nil {
		errs = append(errs, l.cabling.close())
	}
	return errors.Join(errs...)
}

// Hosts lists the hosts that are complete, in the order in which they were asked for.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.hosts), func(h *Host) bool { return h.cable == nil })
}

// Logs returns the output of every process so far, by HOST.NAME, each cut to
// its last 256 KiB. The commands that Run ran are in HOST.commands. It works
// until Close.
func (l *Lab) Logs() map[string]string {
	logs := make(map[string]string)
	paths, _ := filepath.Glob(filepath.Join(l.dir, "logs", "*.log"))
	for _, path := range paths {
		text, err := tail(path, 256<<10)
		if err != nil {
			text = err.Error()
		}
		logs[strings.TrimSuffix(filepath.Base(path), ".log")] = text
	}
	return logs
}

// tail reads the last n bytes of a file.
func tail(path string, n int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	from := max(0, fi.Size()-n)
	b := make([]byte, fi.Size()-from)
	k, err := f.ReadAt(b, from)
	if k == len(b) {
		err = nil
	}
	return string(b[:k]), err
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: want 1 to 32 lower-case letters, digits and inner hyphens", name)
	}
	return nil
}
