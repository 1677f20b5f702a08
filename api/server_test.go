package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hinted is an error as other packages make them: without knowing api.
type hinted struct{}

func (hinted) Error() string { return "address 10.32.0.9 is in use" }
func (hinted) Hint() string  { return "take another" }
func (hinted) Status() int   { return http.StatusConflict }

type body struct {
	Targets []string `json:"targets"`
	Replace bool     `json:"replace"`
}

func routes() []Route {
	return []Route{
		{"GET", "/both", true, func(_ context.Context, r *Request) (any, error) {
			if r.WantsJSON() {
				return map[string]any{"a": r.Query("a"), "b": r.QueryAll("b")}, nil
			}
			return "text " + r.Query("a"), nil
		}},
		{"GET", "/name/{container}/{ip}", true, func(_ context.Context, r *Request) (any, error) {
			return r.Path("container") + " " + r.Path("ip"), nil
		}},
		{"GET", "/token", false, func(context.Context, *Request) (any, error) { return "secret", nil }},
		{"GET", "/empty", true, func(context.Context, *Request) (any, error) { return "", nil }},
		{"GET", "/raw", true, func(context.Context, *Request) (any, error) {
			return Raw{ContentType: "image/svg+xml", Body: []byte("<svg/>")}, nil
		}},
		{"GET", "/panic", true, func(context.Context, *Request) (any, error) { panic("boom") }},
		{"GET", "/unencodable", true, func(context.Context, *Request) (any, error) { return make(chan int), nil }},
		{"POST", "/connect", false, func(_ context.Context, r *Request) (any, error) {
			var b body
			if err := r.JSON(&b); err != nil {
				return nil, err
			}
			return b, nil
		}},
		{"POST", "/nothing", false, func(context.Context, *Request) (any, error) { return nil, nil }},
		{"POST", "/hinted", false, func(context.Context, *Request) (any, error) {
			return nil, fmt.Errorf("claim: %w", hinted{})
		}},
		{"POST", "/plain", false, func(context.Context, *Request) (any, error) {
			return nil, errors.Join(errors.New("one"), errors.New("two"))
		}},
	}
}

func TestResults(t *testing.T) {
	_, socket := start(t, Options{Routes: routes()})
	c := NewClient(socket)
	ctx := t.Context()

	var text string
	if err := c.Do(ctx, "GET", "/both?a=x%20y", nil, &text); err != nil || text != "text x y" {
		t.Errorf("text: %q, %v", text, err)
	}
	var both struct {
		A string
		B []string
	}
	if err := c.Do(ctx, "GET", "/both?a=1&b=2&b=3", nil, &both); err != nil || both.A != "1" || strings.Join(both.B, " ") != "2 3" {
		t.Errorf("JSON: %+v, %v", both, err)
	}
	if err := c.Do(ctx, "GET", "/name/netns:%2Frun%2Fnetns%2Fa/10.32.0.1", nil, &text); err != nil || text != "netns:/run/netns/a 10.32.0.1" {
		t.Errorf("path: %q, %v", text, err)
	}
	if err := c.Do(ctx, "GET", "/empty", nil, &text); err != nil || text != "" {
		t.Errorf("empty text: %q, %v", text, err)
	}
	if err := c.Do(ctx, "GET", "/raw", nil, &text); err != nil || text != "<svg/>" {
		t.Errorf("raw: %q, %v", text, err)
	}
	var got body
	if err := c.Do(ctx, "POST", "/connect", body{Targets: []string{"a"}, Replace: true}, &got); err != nil || !got.Replace || len(got.Targets) != 1 {
		t.Errorf("body: %+v, %v", got, err)
	}
	var raw json.RawMessage
	if err := c.Do(ctx, "POST", "/nothing", nil, &raw); err != nil || len(raw) != 0 {
		t.Errorf("no content: %q, %v", raw, err)
	}
}

func TestErrors(t *testing.T) {
	_, socket := start(t, Options{Routes: routes()})
	c := NewClient(socket)
	big := map[string]string{"targets": strings.Repeat("x", MaxBody)}
	for _, test := range []struct {
		method, path string
		in           any
		code         int
		want, hint   string
	}{
		{"POST", "/hinted", nil, 409, "claim: address 10.32.0.9 is in use", "take another"},
		{"POST", "/plain", nil, 500, "one\ntwo", ""},
		{"GET", "/panic", nil, 500, "GET /panic: internal error", "bug in weft"},
		{"GET", "/unencodable", nil, 500, "encode response", ""},
		{"GET", "/nowhere", nil, 404, "there is no operation GET /nowhere", ""},
		{"DELETE", "/connect", nil, 404, "there is no operation DELETE /connect", ""},
		{"POST", "/connect", nil, 400, "request body is empty", ""},
		{"POST", "/connect", map[string]any{"target": 1}, 400, `unknown field "target"`, ""},
		{"POST", "/connect", json.RawMessage(`"x"`), 400, "parse request body", ""},
		{"POST", "/connect", big, 413, "larger than 1048576 bytes", ""},
	} {
		err := c.Do(t.Context(), test.method, test.path, test.in, nil)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status() != test.code || !strings.Contains(e.Error(), test.want) || !strings.Contains(e.Hint(), test.hint) || test.hint == "" && e.Hint() != "" {
			t.Errorf("%s %s: %v (%+v), want %d %q hint %q", test.method, test.path, err, e, test.code, test.want, test.hint)
		}
	}
}

func TestTrailingBodyIsRefused(t *testing.T) {
	_, socket := start(t, Options{Routes: routes()})
	got := exchange(t, "unix", socket, "POST /connect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n{}{}")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "something follows") {
		t.Errorf("got %s", got)
	}
}

// TestHangUpCancels holds the promise that prime and attach need: a caller that
// goes away ends the operation, whether or not it sent a body.
func TestHangUpCancels(t *testing.T) {
	entered, cancelled := make(chan struct{}), make(chan struct{})
	wait := func(ctx context.Context, _ *Request) (any, error) {
		entered <- struct{}{}
		<-ctx.Done()
		cancelled <- struct{}{}
		return nil, ctx.Err()
	}
	_, socket := start(t, Options{Routes: []Route{{"GET", "/ring", false, wait}, {"POST", "/attach", false, wait}}})
	for _, in := range []any{nil, body{Replace: true}} {
		method, path := "GET", "/ring"
		if in != nil {
			method, path = "POST", "/attach"
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- NewClient(socket).Do(ctx, method, path, in, nil) }()
		await(t, entered)
		cancel()
		await(t, cancelled)
		if err := await(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestStopCancels: the server's own end cancels what is under way.
func TestStopCancels(t *testing.T) {
	entered := make(chan struct{})
	socket := filepath.Join(t.TempDir(), "s")
	s, err := New(Options{Socket: socket, Routes: []Route{{"GET", "/ring", false, func(ctx context.Context, _ *Request) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran, called := make(chan error, 1), make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	await(t, s.Ready())
	go func() { called <- NewClient(socket).Do(t.Context(), "GET", "/ring", nil, nil) }()
	await(t, entered)
	cancel()
	if e, ok := errors.AsType[*Error](await(t, called)); !ok || e.Status() != http.StatusServiceUnavailable {
		t.Errorf("call: %v", e)
	}
	if err := await(t, ran); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket's file is left")
	}
}

func TestHTTPServesOnlyReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // find a free port
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	start(t, Options{Routes: routes(), HTTPAddr: addr})
	for _, test := range []struct {
		method, path, host string
		want               string
	}{
		{"GET", "/both?a=1", "127.0.0.1:6784", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "127.0.0.1", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "localhost:1", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "LOCALHOST", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "[::1]:6784", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "[::1]", "HTTP/1.1 200"},
		{"GET", "/metrics", "127.0.0.1", "HTTP/1.1 200"},
		{"GET", "/both?a=1", "rebound.example:6784", "HTTP/1.1 403"},
		{"GET", "/both?a=1", "localhost.rebound.example", "HTTP/1.1 403"},
		{"GET", "/both?a=1", "127.0.0.1.rebound.example", "HTTP/1.1 403"},
		{"GET", "/both?a=1", "192.168.48.11:6784", "HTTP/1.1 403"},
		{"GET", "/both?a=1", "", "HTTP/1.1 403"},
		{"GET", "/metrics", "rebound.example", "HTTP/1.1 403"},
		{"GET", "/nowhere", "rebound.example", "HTTP/1.1 403"},
		{"GET", "/token", "127.0.0.1", "HTTP/1.1 403"},
		{"POST", "/connect", "127.0.0.1", "HTTP/1.1 403"},
		{"POST", "/both", "127.0.0.1", "HTTP/1.1 404"},
	} {
		got := exchange(t, "tcp", addr, test.method+" "+test.path+" HTTP/1.1\r\nHost: "+test.host+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s %s with host %q: %.60q, want %s", test.method, test.path, test.host, got, test.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, socket := start(t, Options{Routes: routes(), MetricsAddr: addr, Metrics: func() []Sample {
		return []Sample{
			{Name: "weft_peers", Help: "Peers, by state.", Labels: map[string]string{"state": "alive"}, Value: 3},
			{Name: "weft_peers", Help: "Peers, by state.", Labels: map[string]string{"state": "failed"}, Value: 1},
			{Name: "weft_sent_bytes_total", Help: "Bytes.", Counter: true, Value: 7},
		}
	}})
	var text string
	if err := NewClient(socket).Do(t.Context(), "GET", "/empty", nil, &text); err != nil {
		t.Fatal(err)
	}
	got := exchange(t, "tcp", addr, "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	for _, want := range []string{
		`weft_peers{state="alive"} 3`, `weft_peers{state="failed"} 1`, "# TYPE weft_sent_bytes_total counter",
		`weft_api_requests_total{code="200",operation="GET /empty"} 1`, "go_goroutines",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if got := exchange(t, "tcp", addr, "GET /both HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404") {
		t.Errorf("metrics address serves more than metrics: %.40q", got)
	}
}

func TestNewRefuses(t *testing.T) {
	ok := Route{"GET", "/a", true, func(context.Context, *Request) (any, error) { return nil, nil }}
	for name, o := range map[string]Options{
		"no socket":    {},
		"public":       {Socket: "s", HTTPAddr: "0.0.0.0:6784"},
		"any":          {Socket: "s", HTTPAddr: ":6784"},
		"no port":      {Socket: "s", HTTPAddr: "127.0.0.1"},
		"twice":        {Socket: "s", Routes: []Route{ok, ok}},
		"bad wildcard": {Socket: "s", Routes: []Route{{"GET", "/{", true, ok.Handle}}},
		"no handler":   {Socket: "s", Routes: []Route{{Method: "GET", Path: "/a"}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := filepath.Join(t.TempDir(), "s")
	s, err := New(Options{Socket: socket, HTTPAddr: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), "in use") || !strings.Contains(e.Hint(), "--http-addr") {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket's file is left")
	}
}

// exchange sends one request as it is and returns all that comes back.
func exchange(t *testing.T, network, addr, request string) string {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(bufio.NewReader(c))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
