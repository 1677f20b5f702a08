package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// maxResponse bounds what a client reads, in bytes.
const maxResponse = 256 << 20

// ErrNotRunning means that no router answers on the socket.
var ErrNotRunning error = &Error{
	Code: http.StatusServiceUnavailable,
	Tip:  "start it with: weft launch",
	Err:  errors.New("router is not running"),
}

// ErrHungUp says that the router ended, or was killed, while it was asked.
var ErrHungUp = errors.New("the router hung up before it had answered")

// Client calls a router's operations through its UNIX socket. It keeps no
// connection open between calls and may be used concurrently.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the router at socket. It connects to nothing.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return c
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	return d.DialContext(ctx, "unix", c.socket)
}

// Do calls one operation and blocks until it answers or ctx ends; ending ctx
// cancels the operation. path is escaped, with its query ("/lookup?name=a").
// in is sent as JSON; nil sends no body. out says what is wanted: nil nothing,
// *string the text form, *[json.RawMessage] the JSON as it is, any other pointer
// the JSON decoded into it. An operation that answers nothing leaves out as it is.
//
// Errors are [ErrNotRunning], an [*Error] with the router's own words and hint,
// or tell what happened to the connection.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://weft"+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if _, text := out.(*string); text {
		req.Header.Set("Accept", "text/plain")
	} else {
		req.Header.Set("Accept", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return c.explain(ctx, err)
	}
	if len(b) > maxResponse {
		return fmt.Errorf("read response: larger than %d bytes", maxResponse)
	}
	if resp.StatusCode/100 != 2 {
		return remoteError(resp.StatusCode, b)
	}
	return decode(b, out)
}

func decode(b []byte, out any) error {
	switch v := out.(type) {
	case nil:
		return nil
	case *string:
		*v = string(b)
		return nil
	case *json.RawMessage:
		if len(b) > 0 && !json.Valid(b) {
			return errors.New("read response: not JSON; is the router of another version?")
		}
		*v = b
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read response: %w", err)
	}
	return nil
}

// remoteError is what the router answered instead of a result.
func remoteError(status int, body []byte) error {
	var e errorBody
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("router answered %d: %s", status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	return &Error{Code: status, Tip: e.Hint, Err: errors.New(e.Error)}
}

// explain says in an operator's words why a call came to nothing.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		return &Error{
			Tip: "run it as root, for instance with sudo",
			Err: fmt.Errorf("open %s: permission denied", c.socket),
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &Error{
			Tip: "its log, router.log beside the socket, or the journal says why",
			Err: ErrHungUp,
		}
	}
	return fmt.Errorf("call the router: %w", err)
}
