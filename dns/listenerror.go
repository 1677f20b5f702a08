package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// ListenError says which address could not be bound, and why.
type ListenError struct {
	Addr    netip.AddrPort
	Network string // udp or tcp
	Holder  string // who has it: "NAME (pid N)"; empty if unknown or nobody
	Err     error
}

func newListenError(a netip.AddrPort, network string, err error) *ListenError {
	e := &ListenError{Addr: a, Network: network, Err: err}
	// The library's error repeats the address.
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		e.Err = sys.Err
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		e.Holder = holder(network, a)
	}
	return e
}

func (e *ListenError) Error() string {
	if e.Holder != "" {
		return fmt.Sprintf("listen for DNS on %s %v: taken by %s: %v", e.Network, e.Addr, e.Holder, e.Err)
	}
	return fmt.Sprintf("listen for DNS on %s %v: %v", e.Network, e.Addr, e.Err)
}

func (e *ListenError) Unwrap() error { return e.Err }

// Hint says what to do about it; empty if there is nothing to say.
func (e *ListenError) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		who := "what listens there"
		if e.Holder != "" {
			who = e.Holder
		}
		return fmt.Sprintf("stop %s or keep it off %v, or launch with --dns-listen-address and another address, or with --no-dns", who, e.Addr)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("no interface of this host has %v: ip -brief address", e.Addr.Addr())
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("port %d needs root or CAP_NET_BIND_SERVICE", e.Addr.Port())
	}
	return ""
}
