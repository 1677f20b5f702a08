package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// MaxBody bounds the body of a request, in bytes.
const MaxBody = 1 << 20

// bodyTimeout is how long a caller may take to send a body.
const bodyTimeout = 10 * time.Second

// Request is what a [Handler] sees of an HTTP request.
type Request struct {
	r    *http.Request
	body []byte
}

// Path returns the value of a {wildcard} of the route's path, unescaped.
func (r *Request) Path(name string) string { return r.r.PathValue(name) }

// Query returns the first value of a query parameter, "" without one.
func (r *Request) Query(name string) string { return r.r.URL.Query().Get(name) }

// QueryAll returns all values of a query parameter, in order.
func (r *Request) QueryAll(name string) []string { return r.r.URL.Query()[name] }

// JSON reads the body, one JSON value of at most [MaxBody] bytes, into what
// into points to. Unknown fields and anything after the value are refused, so
// that a misspelt option is not silently ignored; an empty body is an error too.
// Its errors carry status 400.
func (r *Request) JSON(into any) error {
	if len(bytes.TrimSpace(r.body)) == 0 {
		return Errorf(http.StatusBadRequest, "request body is empty; a JSON object is wanted")
	}
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if err != nil {
		return &Error{Code: http.StatusBadRequest, Err: fmt.Errorf("parse request body: %w", err)}
	}
	return nil
}

// WantsJSON tells whether the caller asked for JSON: its Accept header names
// application/json.
func (r *Request) WantsJSON() bool {
	for _, accept := range r.r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if t, _, err := mime.ParseMediaType(part); err == nil && t == "application/json" {
				return true
			}
		}
	}
	return false
}

// readBody reads the whole body. It comes before the handler because net/http
// watches a connection for a hang-up only once the request's body is at its end:
// without it a handler that ignores the body would not be cancelled.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	// Not Server.ReadTimeout: that one goes on counting while a handler blocks,
	// and would end prime after as many seconds. Where a deadline cannot be set
	// (a test's recorder) there is nobody slow either.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	_ = rc.SetReadDeadline(time.Time{})
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, Errorf(http.StatusRequestEntityTooLarge, "request body is larger than %d bytes", MaxBody)
	}
	if err != nil {
		return nil, &Error{Code: http.StatusBadRequest, Err: fmt.Errorf("read request body: %w", err)}
	}
	return b, nil
}
