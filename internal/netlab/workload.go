package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Workload is a network, mount and UTS namespace inside a host, without any
// link but lo, like a container's: with its own hostname, /etc/resolv.conf,
// /etc/hosts and /sys, and the host's files otherwise.
type Workload struct {
	place
	host   *Host
	name   string
	dir    string // the workload's files outside
	closed bool   // guarded by Lab.mu
}

// Workload makes a workload. The name becomes its hostname: lower-case letters,
// digits and hyphens.
func (h *Host) Workload(name string) (*Workload, error) {
	w, err := h.newWorkload(name)
	if err != nil {
		return nil, fmt.Errorf("make workload %s on %s: %w", name, h.name, err)
	}
	return w, nil
}

func (h *Host) newWorkload(name string) (*Workload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	l := h.lab
	w := &Workload{host: h, name: name, dir: filepath.Join(h.dir, "workloads", name)}
	w.place = place{lab: l, label: h.name + "." + name, part: h.name + "/workload." + name, space: new(space)}
	err := l.own(func() error {
		if slices.ContainsFunc(h.workloads, func(o *Workload) bool { return o.name == name }) {
			return errors.New("the host has a workload of that name")
		}
		h.workloads = append(h.workloads, w)
		return os.MkdirAll(w.dir, 0o755)
	})
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for path, text := range map[string]string{
		"/etc/hostname":    name + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n",
		"/etc/resolv.conf": "# no name server\n",
	} {
		files[path] = filepath.Join(w.dir, filepath.Base(path))
		if err := os.WriteFile(files[path], []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	s, err := newSpace(h.space, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS, func() error {
		if err := workloadMounts(files); err != nil {
			return err
		}
		if err := setUpLink("lo"); err != nil {
			return err
		}
		return unix.Sethostname([]byte(name))
	})
	if err != nil {
		return nil, err
	}
	w.space.take(s)
	err = h.space.do(func() error {
		if err := os.MkdirAll(filepath.Dir(w.NetNSPath()), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(w.NetNSPath(), nil, 0o444); err != nil {
			return err
		}
		source := fmt.Sprintf("/proc/self/fd/%d", w.space.fd("net"))
		if err := unix.Mount(source, w.NetNSPath(), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("name network namespace: %w", err)
		}
		return nil
	})
	if err == nil {
		err = l.own(func() error { return nil }) // it may have been closed meanwhile
	}
	if err != nil {
		return nil, errors.Join(err, w.space.close())
	}
	return w, nil
}

// Name is the workload's name.
func (w *Workload) Name() string { return w.name }

// NetNSPath is where the host sees the workload's network namespace, as `ip
// netns` does: /run/netns/NAME.
func (w *Workload) NetNSPath() string { return "/run/netns/" + w.name }

// SetResolvConf writes the workload's /etc/resolv.conf.
func (w *Workload) SetResolvConf(text string) error {
	return os.WriteFile(filepath.Join(w.dir, "resolv.conf"), []byte(text), 0o644)
}

// Close ends the workload's processes and its namespaces. It may be repeated.
func (w *Workload) Close() error {
	var closed bool
	err := w.lab.own(func() error {
		closed, w.closed = w.closed, true
		w.host.workloads = slices.DeleteFunc(w.host.workloads, func(o *Workload) bool { return o == w })
		return nil
	})
	if closed || errors.Is(err, os.ErrClosed) { // the lab has ended it
		return nil
	}
	id, err := w.space.netID()
	if err == nil {
		err = endMarked(mark{env: w.lab.record.ID + "/" + w.part + "/", netns: id}, 0)
	}
	err = errors.Join(err, w.host.space.do(func() error {
		return errors.Join(unix.Unmount(w.NetNSPath(), unix.MNT_DETACH), os.Remove(w.NetNSPath()))
	}), w.space.close(), os.RemoveAll(w.dir))
	if err != nil {
		return fmt.Errorf("close workload %s: %w", w.label, err)
	}
	return nil
}
