package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// drainTimeout is how long requests under way get when the server stops.
const drainTimeout = 5 * time.Second

// Options say where to serve what.
type Options struct {
	Socket string // path of the UNIX socket; its directory exists; required
	// HTTPAddr is host:port of the loopback for the routes that read; empty:
	// none. Anything else than the loopback is refused.
	HTTPAddr    string
	MetricsAddr string          // host:port for Prometheus, /metrics alone; empty: none
	Routes      []Route         // the operations; /metrics comes by itself
	Metrics     func() []Sample // called at each scrape, concurrently; nil: the process's own only
	Log         *slog.Logger    // nil: nothing is logged
}

// Server serves the API. It starts nothing until [Server.Run].
type Server struct {
	o          Options
	all, reads http.Handler
	metrics    *metrics
	ready      chan struct{}
}

// New checks the options and the routes.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Socket == "" {
		return nil, errors.New("api: no socket path")
	}
	if err := CheckLoopback(o.HTTPAddr); err != nil {
		return nil, fmt.Errorf("http address %w", err)
	}
	m := newMetrics(o.Metrics)
	all, reads, err := handlers(o.Routes, m, o.Log)
	if err != nil {
		return nil, err
	}
	return &Server{o: o, all: all, reads: reads, metrics: m, ready: make(chan struct{})}, nil
}

// CheckLoopback says what is wrong with an HTTPAddr; empty is none.
func CheckLoopback(addr string) error {
	if addr == "" {
		return nil
	}
	if host, _, err := net.SplitHostPort(addr); err != nil || !isLoopback(host) {
		return &Error{
			Tip: "give a loopback address such as 127.0.0.1:6784, or an empty one to serve the UNIX socket alone",
			Err: fmt.Errorf("%q is not host:port on the loopback", addr),
		}
	}
	return nil
}

// Ready is closed once every address is being listened on.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run listens and serves until ctx ends, then lets requests under way finish for
// a few seconds, their contexts being cancelled. It is called once.
func (s *Server) Run(ctx context.Context) error {
	type service struct {
		l net.Listener
		h http.Handler
	}
	var services []service
	defer func() {
		for _, x := range services {
			x.l.Close()
		}
	}()
	u, err := listenUnix(s.o.Socket)
	if err != nil {
		return err
	}
	services = append(services, service{u, s.all})
	if s.o.HTTPAddr != "" {
		l, err := listenTCP(ctx, s.o.HTTPAddr, "--http-addr")
		if err != nil {
			return err
		}
		services = append(services, service{l, s.reads})
	}
	if s.o.MetricsAddr != "" {
		l, err := listenTCP(ctx, s.o.MetricsAddr, "--metrics-addr")
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metrics.handler())
		services = append(services, service{l, mux})
	}

	g, gctx := errgroup.WithContext(ctx)
	for _, x := range services {
		srv := &http.Server{
			Handler:           x.h,
			BaseContext:       func(net.Listener) context.Context { return gctx },
			ReadHeaderTimeout: 5 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		}
		// No ReadTimeout or WriteTimeout: operations such as prime block for as
		// long as they must. Bodies and responses have deadlines of their own.
		g.Go(func() error {
			if err := srv.Serve(x.l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", x.l.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-gctx.Done()
			drain, cancel := context.WithTimeout(context.WithoutCancel(gctx), drainTimeout)
			defer cancel()
			if srv.Shutdown(drain) != nil {
				srv.Close()
			}
			return nil
		})
	}
	close(s.ready)
	return g.Wait()
}

func listenTCP(ctx context.Context, addr, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &Error{
			Tip: fmt.Sprintf("give another address with %s, or an empty one for none", flag),
			Err: err,
		}
	}
	return l, nil
}
