package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

var (
	// ErrNotFound says that the engine has no such container.
	ErrNotFound = errors.New("no such container")

	// ErrAmbiguous says that several containers have an ID that starts like that. It is also an ErrNotFound.
	ErrAmbiguous error = ambiguous{}

	// ErrUnavailable says that the engine could not be reached, or broke off. The error that wraps it says why.
	ErrUnavailable = errors.New("docker engine is not available")
)

type ambiguous struct{}

func (ambiguous) Error() string        { return "several containers have an ID that starts like that" }
func (ambiguous) Is(target error) bool { return target == ErrNotFound }

// translate turns an error of the library into one of this package, so that nobody else needs to know the library's.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil, ctx.Err() != nil: // a timeout of a dialer also is a context.DeadlineExceeded, but not the caller's
		return err
	case isUnavailable(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case strings.Contains(strings.ToLower(err.Error()), "multiple ids found with provided prefix"):
		return ErrAmbiguous // 500 in engines before 23, 400 since
	case errdefs.IsNotFound(err):
		return ErrNotFound
	}
	return err
}

func isUnavailable(err error) bool {
	// An answer that breaks off comes from the JSON decoder without the library's own mark.
	_, network := errors.AsType[net.Error](err)
	return client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) ||
		network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isWrongVersion recognises the refusal of an API version that was negotiated with an engine of another version.
func isWrongVersion(err error) bool {
	return errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "client version")
}
