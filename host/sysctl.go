package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// setSysctl writes /proc/sys/net/PATH if it does not hold value yet. The kernel
// takes /proc/sys/net from the network namespace of the thread that opens it.
func setSysctl(path, value string) error {
	file := "/proc/sys/net/" + path
	have, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read sysctl: %w", err)
	}
	if strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

// setSysctls sets each "path value" of one interface; IPv6's are skipped when the
// kernel has no IPv6.
func setSysctls(link string, settings ...string) error {
	var errs []error
	for _, s := range settings {
		path, value, _ := strings.Cut(s, " ")
		err := setSysctl(strings.Replace(path, "LINK", link, 1), value)
		if strings.HasPrefix(path, "ipv6/") && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// noIPv6Error is a kernel without IPv6, which the control addresses need.
type noIPv6Error struct{ link string }

func (e *noIPv6Error) Error() string {
	return fmt.Sprintf("switch IPv6 on for %s: this kernel was started without IPv6", e.link)
}

// Hint is what the operator can do.
func (e *noIPv6Error) Hint() string {
	return "remove ipv6.disable=1 from the kernel's command line and restart the machine"
}
