package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// handlers makes what the UNIX socket serves and what the loopback address
// serves. Conflicting or malformed routes are an error.
func handlers(routes []Route, m *metrics, log *slog.Logger) (all, reads http.Handler, err error) {
	defer func() { // ServeMux panics on patterns that it cannot take
		if p := recover(); p != nil {
			err = fmt.Errorf("register route: %v", p)
		}
	}()
	a, r := http.NewServeMux(), http.NewServeMux()
	for _, route := range routes {
		if route.Handle == nil || route.Method == "" || !strings.HasPrefix(route.Path, "/") {
			return nil, nil, fmt.Errorf("register route %q %q: method, path and handler are needed", route.Method, route.Path)
		}
		pattern := route.Method + " " + route.Path
		h := handle(route.Handle, pattern, m, log)
		a.Handle(pattern, h)
		if !route.Read || route.Method != http.MethodGet {
			h = handle(socketOnly, pattern, m, log)
		}
		r.Handle(pattern, h)
	}
	for _, mux := range []*http.ServeMux{a, r} {
		mux.Handle("GET /metrics", m.handler())
		mux.Handle("/", handle(unknown, "none", m, log))
	}
	return a, loopbackOnly(r), nil
}

// handle makes an http.Handler of a Handler and counts its answers.
func handle(h Handler, pattern string, m *metrics, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.WithLabelValues(pattern, strconv.Itoa(serve(h, w, r, log))).Inc()
	})
}

func unknown(_ context.Context, r *Request) (any, error) {
	return nil, Errorf(http.StatusNotFound, "there is no operation %s %s", r.r.Method, r.r.URL.Path)
}

func socketOnly(_ context.Context, r *Request) (any, error) {
	return nil, &Error{
		Code: http.StatusForbidden,
		Tip:  "use the UNIX socket, weft.sock in the router's run directory",
		Err:  fmt.Errorf("%s %s is not served on this address, which only reads", r.r.Method, r.r.URL.Path),
	}
}

// loopbackOnly refuses requests whose Host header is not a name or a literal of
// the loopback. A page whose author points its DNS name at 127.0.0.1 runs in a
// browser here with that name in the header.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isLoopback(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		code, contentType, body := encodeError(&Error{
			Code: http.StatusForbidden,
			Tip:  "ask for http://127.0.0.1 or http://localhost",
			Err:  fmt.Errorf("host %q is not this machine's loopback", r.Host),
		})
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		_, _ = w.Write(body)
	})
}

// isLoopback tells whether host[:port] names the loopback without asking DNS.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
