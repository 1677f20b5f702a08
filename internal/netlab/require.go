package netlab

import (
	"os"
	"strings"
)

// TB is what Require needs of a testing.TB. This package is part of the
// product, which does not link testing.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Require ends a test that misses something on this machine: it is skipped for
// a developer and fails when the environment has CI=true. A need is root,
// docker (engine, client and busybox), or the name of a program.
func Require(t TB, needs ...string) {
	t.Helper()
	missing := missing(needs)
	if len(missing) == 0 {
		return
	}
	stop := t.Skipf
	if os.Getenv("CI") == "true" {
		stop = t.Fatalf
	}
	stop("this test needs %s", strings.Join(missing, ", "))
}

func missing(needs []string) []string {
	var m []string
	program := func(name, pkg string) {
		if !strings.Contains(lookPath(name), "/") {
			m = append(m, "the program "+name+pkg)
		}
	}
	for _, need := range needs {
		switch need {
		case "root":
			if os.Geteuid() != 0 {
				m = append(m, "root")
			}
		case "docker":
			program("dockerd", " (docker.io)")
			program("docker", " (docker.io)")
			program("iptables", "")
			program("busybox", " (busybox-static)")
		default:
			program(need, "")
		}
	}
	return m
}
