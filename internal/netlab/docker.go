package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	engineStart = 60 * time.Second // how long dockerd may take to answer
	// engineStop is how long dockerd may take to end. It gives each container
	// its stop timeout, 10 s unless `docker run --stop-timeout` says otherwise.
	engineStop = 40 * time.Second

	engineSocket = "/var/run/docker.sock"
)

// StartDocker starts a Docker engine of the host's own (dockerd with its
// containerd) and waits until it answers. Its images and containers are kept in
// the lab's directory until Close, across stops and kills.
func (h *Host) StartDocker() error {
	h.engineMu.Lock()
	defer h.engineMu.Unlock()
	if err := h.startDockerLocked(); err != nil {
		return fmt.Errorf("start Docker on %s: %w", h.name, err)
	}
	return nil
}

func (h *Host) startDockerLocked() error {
	if h.engineRunsLocked() {
		return errors.New("it runs already")
	}
	// Not the machine's /etc/docker/daemon.json: an option given there and here is an error.
	config := filepath.Join(h.dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o644); err != nil {
		return err
	}
	err := h.Do(func() error {
		// After a kill they would be taken for those of a running engine.
		for _, path := range []string{"/run/docker.pid", engineSocket, "/run/docker/containerd/containerd.pid"} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	engine, err := h.start("dockerd", "docker", "dockerd",
		"--config-file", config,
		"--data-root", filepath.Join(h.dir, "docker"),
		"--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid",
		"--host", "unix://"+engineSocket,
		"--group", "root",
		// Engines in one machine share its cgroups; systemd's driver would
		// want to be asked for them.
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", h.lab.record.mark(h.name).cgroup)
	if err != nil {
		return err
	}
	h.engine = engine
	limit := time.After(engineStart)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for h.Do(pingEngine) != nil {
		select {
		case <-tick.C:
		case <-engine.Done():
			return fmt.Errorf("dockerd ended with %v%s", engine.cmd.ProcessState, lastLines(engine.Log(), ""))
		case <-limit:
			return fmt.Errorf("dockerd does not answer after %v%s", engineStart, lastLines(engine.Log(), ""))
		}
	}
	return nil
}

// pingEngine asks the engine of the calling thread's mount namespace for life.
func pingEngine() error {
	conn, err := net.DialTimeout("unix", engineSocket, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4096))
	if err == nil && !strings.Contains(string(answer), " 200 OK\r\n") {
		err = fmt.Errorf("answer %.60q", answer)
	}
	return err
}

// StopDocker stops the engine as its service manager does: dockerd ends the
// containers, then itself. Whatever is left of it then is killed.
func (h *Host) StopDocker() error {
	h.engineMu.Lock()
	defer h.engineMu.Unlock()
	if h.engine == nil {
		return nil
	}
	err := h.engine.Kill(syscall.SIGTERM)
	if err == nil {
		select {
		case <-h.engine.Done():
		case <-time.After(engineStop):
			err = fmt.Errorf("dockerd still runs after %v", engineStop)
		}
	}
	if err = errors.Join(err, h.endEngine()); err != nil {
		return fmt.Errorf("stop Docker on %s: %w", h.name, err)
	}
	return nil
}

// SignalDocker sends dockerd a signal: one that is stopped by SIGSTOP takes connections and says nothing.
func (h *Host) SignalDocker(sig syscall.Signal) error {
	h.engineMu.Lock()
	defer h.engineMu.Unlock()
	if h.engine == nil {
		return fmt.Errorf("signal Docker on %s: it does not run", h.name)
	}
	return h.engine.Kill(sig)
}

// RestartDocker stops the engine and starts it. Containers come back as their
// restart policy says.
func (h *Host) RestartDocker() error {
	if err := h.StopDocker(); err != nil {
		return err
	}
	return h.StartDocker()
}

// KillDocker kills dockerd and its containerd by SIGKILL. As on a real host the
// containers run on, without an engine, until StartDocker starts one, which
// ends them and starts those that have a restart policy.
func (h *Host) KillDocker() error {
	h.engineMu.Lock()
	defer h.engineMu.Unlock()
	if h.engine == nil {
		return nil
	}
	// The kernel kills containerd with dockerd (a parent-death signal), but not
	// before a new engine could meet it.
	engine, err := running(mark{env: h.engineMark()})
	engine = slices.DeleteFunc(engine, func(p process) bool { return p.pid != h.engine.Pid() && p.parent != h.engine.Pid() })
	if err == nil {
		err = endProcesses(func() ([]process, error) {
			engine = slices.DeleteFunc(engine, func(p process) bool { return !p.runs() })
			return engine, nil
		}, 0)
	}
	if err != nil {
		return fmt.Errorf("kill Docker on %s: %w", h.name, err)
	}
	<-h.engine.Done()
	return nil
}

func (h *Host) engineRunsLocked() bool {
	if h.engine == nil {
		return false
	}
	select {
	case <-h.engine.Done():
		return false
	default:
		return true
	}
}

// endEngine kills what is left of the engine and its containers.
func (h *Host) endEngine() error {
	cgroup := h.lab.record.mark(h.name).cgroup
	thaw(cgroup)
	return endMarked(mark{env: h.engineMark(), cgroup: cgroup}, 0)
}

func (h *Host) engineMark() string { return h.lab.record.ID + "/" + h.part + "/docker" }

// Docker runs the docker command and returns its output without the newline at
// the end.
func (h *Host) Docker(args ...string) (string, error) {
	out, _, err := h.Run(append([]string{"docker"}, args...)...)
	return strings.TrimRight(out, "\n"), err
}

// ImportImage makes the image `busybox` for the host's engine out of the
// machine's busybox, which must be a static program. It needs no registry.
func (h *Host) ImportImage(name string) error {
	if name != "busybox" {
		return fmt.Errorf("import image %s: only busybox is known", name)
	}
	tar, err := busyboxTar()
	if err != nil {
		return fmt.Errorf("import image %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	cmd := h.Command(ctx, "docker", "import", "--change", `CMD ["sh"]`, "-", name)
	cmd.Stdin = strings.NewReader(tar)
	_, _, err = h.run(cmd)
	return err
}
