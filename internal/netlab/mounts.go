package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// stateDir is where weft keeps its state: each host gets a tmpfs there.
const stateDir = "/var/lib/weft"

// hostMounts gives the calling thread's new mount namespace what makes it a
// host: /run, /etc, /var/lib, /sys and the state directory of its own. mark is
// the directory in /run that tells the host's processes; files maps paths in
// the host to files outside that appear there.
func hostMounts(mark string, files map[string]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := freshSys(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// Where /var/run is a directory of its own, the sockets in it would meet.
	if fi, err := os.Lstat("/var/run"); err == nil && fi.IsDir() {
		if err := unix.Mount("/run", "/var/run", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /var/run: %w", err)
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	// Daemons write to /etc and /var/lib (dockerd makes /etc/docker/key.json):
	// an overlay keeps that off the machine, and lets mount points be made.
	for _, dir := range []string{"/etc", "/var/lib"} {
		err := overlay(dir, filepath.Join(mark, filepath.Base(dir)))
		if err != nil && !errors.Is(err, unix.ENODEV) { // a kernel without overlayfs: the host shares dir
			return err
		}
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", stateDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return fmt.Errorf("mount %s: %w", stateDir, err)
	}
	for path, source := range files {
		if err := showFile(source, path); err != nil {
			return err
		}
	}
	// Shared, as systemd leaves it: a workload's namespace then follows mounts
	// and unmounts of the host's, and holds no network namespace for longer.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// workloadMounts prepares the mount namespace of a workload inside a host.
func workloadMounts(files map[string]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts follow the host's: %w", err)
	}
	if err := freshSys(); err != nil {
		return err
	}
	for path, source := range files {
		if err := showFile(source, path); err != nil {
			return err
		}
	}
	return nil
}

// freshSys mounts /sys anew, since it shows the network namespace of whoever
// mounted it, and puts the cgroup mounts back that the new one hides.
func freshSys() error {
	const cgroups = "/sys/fs/cgroup"
	tree, err := unix.OpenTree(unix.AT_FDCWD, cgroups, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if errors.Is(err, fs.ErrNotExist) { // a machine without cgroups
		return mountSys()
	}
	if err != nil {
		return fmt.Errorf("copy mount %s: %w", cgroups, err)
	}
	defer unix.Close(tree)
	if err := mountSys(); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, cgroups, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("put back mount %s: %w", cgroups, err)
	}
	return nil
}

func mountSys() error {
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

// overlay makes changes below dir stay in scratch, a directory on a tmpfs.
func overlay(dir, scratch string) error {
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", dir, err)
	}
	return nil
}

// showFile makes the file at source appear at path. It never changes the
// machine: path is made or replaced only where it is the host's own.
func showFile(source, path string) error {
	var fsType unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fsType); err != nil {
		return fmt.Errorf("look at directory of %s: %w", path, err)
	}
	fi, err := os.Lstat(path)
	regular := err == nil && fi.Mode().IsRegular()
	if !regular && fsType.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return nil
	}
	if !regular {
		// /etc/resolv.conf may be a link into /run, which is empty now.
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show file %s: %w", path, err)
	}
	return nil
}
