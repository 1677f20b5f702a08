package docker

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// watcher runs Watch and collects what it says.
type watcher struct {
	t      *testing.T
	events chan Event
}

func watch(t *testing.T, c *Client) *watcher {
	w := &watcher{t: t, events: make(chan Event, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(e Event) { w.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Watch:", err)
		}
	})
	return w
}

// next wants these events, in this order, and no others before them.
func (w *watcher) next(want ...Event) {
	w.t.Helper()
	for _, want := range want {
		select {
		case got := <-w.events:
			if got != want {
				w.t.Fatalf("got %v %.12s, want %v %.12s", got.Kind, got.Container, want.Kind, want.Container)
			}
		case <-time.After(10 * time.Second):
			w.t.Fatalf("no event; want %v %.12s", want.Kind, want.Container)
		}
	}
}

func TestWatch(t *testing.T) {
	e := newFakeEngine(t)
	w := watch(t, newClient(t, e.socket))
	w.next(Event{Kind: Connected})
	web := e.run(fakeContainer{Name: "web"})
	e.log("container", "exec_die", web.ID)
	e.log("network", "destroy", web.ID)
	e.log("container", "pause", web.ID)
	e.change(web, "rename", func() { web.Name = "www" })
	e.change(web, "health_status: unhealthy", func() { web.Health = "unhealthy" })
	e.die(web)
	e.run(*web)
	e.die(web)
	e.remove(web)
	w.next(Event{Started, web.ID}, Event{Renamed, web.ID}, Event{Health, web.ID}, Event{Died, web.ID}, Event{Started, web.ID}, Event{Died, web.ID}, Event{Removed, web.ID})
}

// The stream breaks, the engine crashes, the engine is down at first: one Lost each, then Connected, and what happened meanwhile is
// found by listing.
func TestWatchReconnects(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	e.stop()
	w := watch(t, c)
	w.next(Event{Kind: Lost})
	e.set(func() { e.max = "1.40" })
	e.start(t)
	w.next(Event{Kind: Connected})

	web := e.run(fakeContainer{Name: "web"})
	w.next(Event{Started, web.ID})
	e.set(func() { e.memory = nil }) // else a quick reconnection may tell of the start again
	e.cut()
	w.next(Event{Kind: Lost}, Event{Kind: Connected})

	e.stop()
	w.next(Event{Kind: Lost})
	e.die(web)
	db := e.run(fakeContainer{Name: "db"})
	e.set(func() { e.min, e.max, e.memory = "1.44", "1.52", nil })
	e.start(t)
	w.next(Event{Kind: Connected})
	if got, err := c.List(t.Context()); err != nil || len(got) != 1 || got[0].ID != db.ID {
		t.Errorf("%+v, %v", got, err)
	}
	e.remove(web)
	w.next(Event{Removed, web.ID})
}

// The engine answers a subscription before it subscribes. What happens in between must not be missed.
func TestWatchMissesNothing(t *testing.T) {
	e := newFakeEngine(t)
	c := newClient(t, e.socket)
	inGap, goOn := make(chan struct{}), make(chan struct{})
	e.gap = func() { close(inGap); <-goOn }
	w := watch(t, c)
	<-inGap
	w.next(Event{Kind: Connected})
	listed, err := c.List(t.Context())
	if err != nil || len(listed) != 0 {
		t.Error(listed, err)
	}
	web := e.run(fakeContainer{Name: "web"}) // after the listing, before the subscription
	close(goOn)
	w.next(Event{Started, web.ID})
}

// An engine that the library cannot talk to is not Connected, and Watch does not hammer it.
func TestWatchRefused(t *testing.T) {
	e := newFakeEngine(t)
	asked := make(chan time.Time, 1000)
	e.intercept = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.24")
		asked <- time.Now()
	}
	w := watch(t, newClient(t, e.socket))
	w.next(Event{Kind: Lost})
	first := <-asked
	for range 2 {
		<-asked
	}
	if d := (<-asked).Sub(first); d < 7*minRetry {
		t.Errorf("four attempts within %v", d)
	}
	e.set(func() { e.intercept = nil })
	w.next(Event{Kind: Connected})
}

func TestWatchEndsWhileDown(t *testing.T) {
	c := newClient(t, filepath.Join(t.TempDir(), "none.sock"))
	ctx, cancel := context.WithCancel(t.Context())
	var got []Event
	if err := c.Watch(ctx, func(e Event) { got = append(got, e); cancel() }); err != nil {
		t.Error(err)
	}
	if !slices.Equal(got, []Event{{Kind: Lost}}) {
		t.Error(got)
	}
}

func TestKindText(t *testing.T) {
	var all []string
	for k := range Health + 1 {
		all = append(all, k.String())
	}
	if got := strings.Join(all, " "); got != "kind 0 connected lost started died removed renamed health" {
		t.Error(got)
	}
}
