package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

// writeTimeout is how long a caller may take to read a response.
const writeTimeout = 30 * time.Second

// errorBody is how an error travels.
type errorBody struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// serve runs one handler and writes its result. It returns the status that it
// answered with.
func serve(h Handler, w http.ResponseWriter, r *http.Request, log *slog.Logger) int {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	body, err := readBody(w, r)
	var result any
	if err == nil {
		result, err = call(h, &Request{r: r, body: body}, log)
	}
	if stream, ok := result.(Stream); ok && err == nil {
		return serveStream(stream, w, r)
	}
	var code int
	var contentType string
	var out []byte
	if err == nil {
		code, contentType, out, err = encode(result)
	}
	if err != nil {
		code, contentType, out = encodeError(err)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.WriteHeader(code)
	if code != http.StatusNoContent {
		_, _ = w.Write(out) // a caller that has gone is no event
	}
	return code
}

// serveStream sends line by line. A caller that reads nothing for writeTimeout is cut off.
func serveStream(stream Stream, w http.ResponseWriter, r *http.Request) int {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = stream(r.Context(), func(v any) error {
		line, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode line: %w", err)
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		return rc.Flush()
	})
	return http.StatusOK
}

// call runs the handler and turns a panic into an error: one broken operation
// must not take the host's names and addresses down with it.
func call(h Handler, r *Request, log *slog.Logger) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("operation panicked", "method", r.r.Method, "path", r.r.URL.Path,
				"err", fmt.Sprint(p), "stack", string(debug.Stack()))
			result, err = nil, &Error{
				Tip: "this is a bug in weft; the router's log has the details",
				Err: fmt.Errorf("%s %s: internal error", r.r.Method, r.r.URL.Path),
			}
		}
	}()
	return h(r.r.Context(), r)
}

// encode turns a handler's result into a response.
func encode(result any) (code int, contentType string, body []byte, err error) {
	switch v := result.(type) {
	case nil:
		return http.StatusNoContent, "", nil, nil
	case string:
		return http.StatusOK, "text/plain; charset=utf-8", []byte(v), nil
	case Raw:
		return http.StatusOK, v.ContentType, v.Body, nil
	}
	body, err = json.Marshal(result)
	if err != nil {
		return 0, "", nil, fmt.Errorf("encode response: %w", err)
	}
	return http.StatusOK, "application/json", append(body, '\n'), nil
}

// encodeError turns an error into a response.
func encodeError(err error) (code int, contentType string, body []byte) {
	code = http.StatusInternalServerError
	switch s, ok := errors.AsType[interface {
		error
		Status() int
	}](err); {
	case ok:
		code = s.Status()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		code = http.StatusServiceUnavailable // the router is stopping: nobody reads it otherwise
	}
	if code < 400 || code > 599 {
		code = http.StatusInternalServerError
	}
	e := errorBody{Error: err.Error()}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		e.Hint = h.Hint()
	}
	body, _ = json.Marshal(e) // two strings: cannot fail
	return code, "application/json", append(body, '\n')
}
