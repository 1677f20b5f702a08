package docker

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"
)

// Kind is what an event is about.
type Kind int

const (
	Connected Kind = iota + 1 // events flow from now on; earlier ones are lost: look at everything (List)
	Lost                      // the engine cannot be reached; its containers may well live on
	Started                   // a container's process runs
	Died                      // a container's process has ended
	Removed                   // a container is no more
	Renamed                   // a container has another name
	Health                    // a container's health check passes, or does not any more
)

// String is for logs.
func (k Kind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Lost:
		return "lost"
	case Started:
		return "started"
	case Died:
		return "died"
	case Removed:
		return "removed"
	case Renamed:
		return "renamed"
	case Health:
		return "health"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Event says that a container, or the connection to the engine, should be looked at again.
type Event struct {
	Kind      Kind
	Container string // full ID; "" for Connected and Lost
}

// actions are the engine's names for what is watched. They are also the filter that the engine is given. A change of health is
// called "health_status: unhealthy" and the like, and the filter looks at what is before the colon.
var actions = map[string]Kind{"start": Started, "die": Died, "destroy": Removed, "rename": Renamed, "health_status": Health}

const (
	// overlap is how far before the subscription events are asked for: the engine may note two events that come at once in the
	// order of their arrival rather than of their times, and stops looking back at the first that is too old.
	overlap = 100 * time.Millisecond

	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second // an engine's restart takes about that; a refused connect to a local socket costs nothing
)

// Watch calls f for every event until ctx ends, and then returns nil. It reconnects for ever. The first call is Connected or Lost, and
// these two alternate from then on. f is called from this goroutine, one call at a time; it should hand on and return, since the engine
// drops events for a subscriber that lags behind by more than about a thousand.
func (c *Client) Watch(ctx context.Context, f func(Event)) error {
	retry := minRetry
	for first := true; ; first = false {
		begin := time.Now()
		connected, err := c.follow(ctx, f)
		if ctx.Err() != nil {
			return nil
		}
		if connected || first {
			if connected {
				c.log.Warn("docker engine lost, retrying", "host", c.host, "err", err)
			} else {
				c.log.Info("no docker engine answers; looking for one", "host", c.host, "err", err)
			}
			f(Event{Kind: Lost})
		}
		if connected && time.Since(begin) > maxRetry {
			retry = minRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

// follow passes on one stream of events until it ends. It says whether there was one.
func (c *Client) follow(ctx context.Context, f func(Event)) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	api := c.engine()
	if err := settle(ctx, api); err != nil {
		c.renew(api)
		return false, translate(ctx, err)
	}
	defer c.renew(api) // the stream has ended: what comes back may be another engine

	var ok atomic.Bool
	since := time.Now().Add(-overlap)
	filters := make(client.Filters).Add("type", "container")
	for action := range actions {
		filters.Add("event", action)
	}
	stream := api.Events(context.WithValue(ctx, subscribed{}, &ok), client.EventsListOptions{
		Since:   fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()),
		Filters: filters,
	})
	defer func() {
		cancel()
		for range stream.Err { // closed when the library's goroutine is done
		}
	}()
	if !ok.Load() {
		return false, translate(ctx, <-stream.Err)
	}
	c.log.Info("docker engine connected", "host", c.host, "version", api.ClientVersion())
	f(Event{Kind: Connected})
	for {
		select {
		case m := <-stream.Messages:
			action, _, _ := strings.Cut(string(m.Action), ":")
			if kind := actions[action]; kind != 0 && m.Type == "container" && m.Actor.ID != "" {
				f(Event{Kind: kind, Container: m.Actor.ID})
			}
		case err := <-stream.Err:
			return true, translate(ctx, err)
		}
	}
}
