package api

import (
	"context"
)

// Route is one operation of the API.
type Route struct {
	Method string // "GET", "POST", "PUT" or "DELETE"
	Path   string // a net/http ServeMux path with {wildcards}, such as "/name/{container}/{ip}"
	// Read says that the operation changes nothing and tells no secret: a GET
	// that is a Read is also served on the loopback HTTP address. Everything
	// else is served on the UNIX socket alone.
	Read   bool
	Handle Handler
}

// Handler answers one request. It runs on the request's own goroutine, several
// at a time; ctx ends when the caller hangs up or the server stops.
//
// The result becomes the response: nil is 204 without a body, a string is
// text/plain, a [Raw] is sent as it is, a [Stream] writes as long as it likes, anything else is JSON. An error becomes
// {"error", "hint"}: its status is 500 unless it, or one it wraps, has a method
// Status() int; its hint is that of the first in its chain with Hint() string.
type Handler func(ctx context.Context, r *Request) (any, error)

// Raw is a response that is neither text nor JSON made here.
type Raw struct {
	ContentType string
	Body        []byte
}

// Stream is a response without an end of its own: JSON values, one a line, each sent when
// it is written. It returns when ctx ends, or at write's first error; nobody reads its own
// error then.
type Stream func(ctx context.Context, write func(v any) error) error
