//go:build !linux

package dns

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// batches says that UDP is read and answered many packets at a time.
const batches = false

type batched struct{}

func newBatched(*Server, *net.UDPConn) (*batched, error) { return nil, errors.ErrUnsupported }

func (*batched) run(context.Context) error { return errors.ErrUnsupported }

func tune(*net.UDPConn) {}

func share(syscall.RawConn) error { return errors.ErrUnsupported }

func steer(syscall.RawConn, bool, int) {}
