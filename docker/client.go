package docker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/client"
)

// Options says which engine.
type Options struct {
	Host string       // unix:///path or tcp://host:port; zero: DOCKER_HOST, else unix:///var/run/docker.sock
	Log  *slog.Logger // zero: discard
}

// Client asks one Docker engine.
type Client struct {
	host string
	opts []client.Opt
	log  *slog.Logger

	mu  sync.Mutex // guards the field below
	api *engine
}

// engine is the library's client for one life of the engine.
type engine struct {
	*client.Client
	negotiated atomic.Bool
}

// New makes a client and does not connect. As with the docker command, DOCKER_API_VERSION fixes the API's version, and for tcp hosts
// DOCKER_CERT_PATH and DOCKER_TLS_VERIFY are honoured.
func New(o Options) (*Client, error) {
	c := &Client{host: cmp.Or(o.Host, os.Getenv(client.EnvOverrideHost), client.DefaultDockerHost), log: o.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	switch scheme, addr, _ := strings.Cut(c.host, "://"); {
	case addr == "" || scheme != "unix" && scheme != "tcp":
		return nil, fmt.Errorf("docker host %q: use unix:///path or tcp://host:port", c.host)
	case scheme == "tcp":
		c.opts = append(c.opts, client.WithTLSClientConfigFromEnv()) // before WithHost: it replaces the transport
	}
	c.opts = append(c.opts, client.WithHost(c.host), client.WithAPIVersionFromEnv(), client.WithHTTPResponseHook(noteSubscribed))
	api, err := c.connect()
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", c.host, err)
	}
	c.api = api
	return c, nil
}

func (c *Client) connect() (*engine, error) {
	api, err := client.New(c.opts...)
	if err != nil {
		return nil, err
	}
	return &engine{Client: api}, nil
}

// Host returns the engine's address, as unix:///path or tcp://host:port.
func (c *Client) Host() string { return c.host }

// Close drops idle connections. Calls under way go on, and the client stays usable.
func (c *Client) Close() error { return c.engine().Close() }

// Ping asks whether the engine is there, and returns the API version that is spoken with it. Errors: ErrUnavailable.
func (c *Client) Ping(ctx context.Context) (apiVersion string, err error) {
	err = c.do(ctx, func(api *engine) error {
		_, err := api.Ping(ctx, client.PingOptions{})
		apiVersion = api.ClientVersion()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ping docker engine: %w", err)
	}
	return apiVersion, nil
}

func (c *Client) engine() *engine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api
}

// renew replaces the library's client, so that the version is negotiated anew, unless somebody else has done so already.
func (c *Client) renew(old *engine) *engine {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api == old {
		if api, err := c.connect(); err == nil { // fails only if TLS files have gone bad: keep what we have
			old.Close()
			c.api = api
		}
	}
	return c.api
}

// do calls the engine. The library ignores a failed negotiation and asks in its own newest version, which gets a misleading error from
// an engine that is just starting; so the version is settled first.
func (c *Client) do(ctx context.Context, call func(*engine) error) error {
	api := c.engine()
	err := settle(ctx, api)
	if err == nil {
		err = call(api)
	}
	if err != nil && isWrongVersion(err) {
		api = c.renew(api)
		if err = settle(ctx, api); err == nil {
			err = call(api)
		}
	}
	if err != nil && isUnavailable(err) && ctx.Err() == nil {
		c.renew(api)
	}
	return translate(ctx, err)
}

func settle(ctx context.Context, api *engine) error {
	if api.negotiated.Load() {
		return nil
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return err
	}
	api.negotiated.Store(true)
	return nil
}

// subscribed is the context key of an *atomic.Bool that noteSubscribed sets when the engine has said yes to a request. The library's
// Events does not tell a subscription from a failure until the first event or error has come.
type subscribed struct{}

func noteSubscribed(resp *http.Response) {
	if resp.StatusCode != http.StatusOK || resp.Request == nil || !strings.HasSuffix(resp.Request.URL.Path, "/events") {
		return
	}
	if ok, _ := resp.Request.Context().Value(subscribed{}).(*atomic.Bool); ok != nil {
		ok.Store(true)
	}
}
