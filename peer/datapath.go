package peer

import "fmt"

// Datapath says which WireGuard carries the traffic.
type Datapath string

const (
	Auto      Datapath = "auto"      // what lives is adopted; else the kernel's; else userspace
	Kernel    Datapath = "kernel"    // the Linux kernel's
	Userspace Datapath = "userspace" // wireguard-go in a process of its own
)

// ParseDatapath reads auto, kernel or userspace; empty is auto.
func ParseDatapath(s string) (Datapath, error) {
	switch d := Datapath(s); d {
	case "":
		return Auto, nil
	case Auto, Kernel, Userspace:
		return d, nil
	}
	return "", fmt.Errorf("parse datapath %q: want auto, kernel or userspace", clip(s))
}
