package router

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weft/docker"
)

func TestLooker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l looker
		looks := make(chan string, 10)
		goOn := make(chan struct{})
		look := func(key string) {
			l.soon(key, func() {
				looks <- key
				<-goOn
			})
		}
		seen := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for len(looks) > 0 {
				got = append(got, <-looks)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: it looks at %v, want %v", what, got, want)
			}
		}
		look("a")
		look("b")
		seen("two", "a", "b")
		look("a")
		look("a")
		seen("both are being looked at")
		goOn <- struct{}{}
		goOn <- struct{}{}
		seen("a has changed meanwhile", "a")
		goOn <- struct{}{}
		l.Wait()
		if len(l.looks) > 0 {
			t.Errorf("it looks at %v for ever", l.looks)
		}
		for i := range looksAtOnce + 10 {
			l.soon(string(rune('a'+i)), func() { looks <- "x"; <-goOn })
		}
		synctest.Wait()
		if n := len(l.slots); n != looksAtOnce {
			t.Errorf("%d at once", n)
		}
		go func() {
			for range looks {
			}
		}()
		close(goOn)
		l.Wait()
		close(looks)
	})
}

// A container about which the engine does not answer keeps the events of no other.
func TestTheEngineIsSilentAboutOne(t *testing.T) {
	h := newRealHost(t)
	c1, c2 := dockerID("c1"), dockerID("c2")
	h.engine.pids[c1], h.engine.pids[c2] = h.process(), h.process()
	for _, c := range []string{c1, c2} {
		if _, err := h.attach(t.Context(), attachRequest{Container: c}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.engine.silent, h.engine.pids[c2] = c1, 0
	lives := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.attached[c2].running
	}
	for what, say := range map[string]func(){
		"its event": func() {
			f := h.onEvent(ctx)
			f(docker.Event{Kind: docker.Died, Container: c1})
			f(docker.Event{Kind: docker.Died, Container: c2})
		},
		"the engine": func() { h.onEvent(ctx)(docker.Event{Kind: docker.Connected}) },
	} {
		h.mu.Lock()
		a := h.attached[c2].clone()
		a.running = true
		h.attached[c2] = a
		h.mu.Unlock()
		say()
		until(t, what+" is followed", func() bool { return !lives() })
		if h.engine.waited.Load() {
			t.Errorf("%s: only when nobody waited for the other any more", what)
		}
	}
	cancel()
	h.looker.Wait()
}

// The name of a container that has ended goes within about a second, also if the engine does not tell, or is asked about it in vain
// all the while; those of others stay. It comes back, at the same address, with the container.
func TestEndsThatTheEngineDoesNotTell(t *testing.T) {
	h := newRealHost(t)
	h.Router.engine = true
	c1, c2 := dockerID("c1"), dockerID("c2")
	h.engine.pids[c1], h.engine.pids[c2] = h.process(), h.process()
	for _, c := range []string{c1, c2} {
		if _, err := h.attach(t.Context(), attachRequest{Container: c}); err != nil {
			t.Fatal(err)
		}
	}
	pid := h.engine.pids[c1]
	lives := func(key string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		a, names := h.attached[key], 0
		a.found(DefaultDomain, func(netip.Addr) bool { return false }, func(nameKey) { names++ })
		return names == 1
	}
	for _, c := range []struct {
		what          string
		watch         bool
		before, after []docker.Kind // events
	}{
		{what: "no event", watch: true},
		{what: "an event", after: []docker.Kind{docker.Died}},
		{what: "another event before", before: []docker.Kind{docker.Health}, watch: true},
		{what: "another event before, and then its own", before: []docker.Kind{docker.Health}, after: []docker.Kind{docker.Died}},
		{what: "the engine has gone", before: []docker.Kind{docker.Lost}, watch: true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		h.engine.set(c1, c1, pid)
		events := func(ks []docker.Kind) {
			for _, k := range ks {
				h.onEvent(ctx)(docker.Event{Kind: k, Container: c1})
			}
		}
		events(c.before)
		until(t, c.what+": the engine is asked", func() bool {
			unlock, ok := h.ops.try(c1)
			if ok {
				unlock()
			}
			return !ok || !slices.Contains(c.before, docker.Health)
		})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			if c.watch {
				_ = h.watchNamespaces(ctx)
			}
		}()
		begin := time.Now()
		h.ends[pid]()
		events(c.after)
		again := false
		until(t, c.what+": its name has gone", func() bool {
			gone := !lives(c1)
			h.mu.Lock()
			defer h.mu.Unlock()
			again = h.dirty[c1]
			return gone
		})
		if took := time.Since(begin); took > engineTimeout/2 {
			t.Errorf("%s: it has gone after %v", c.what, took)
		}
		cancel()
		<-watched
		h.looker.Wait()
		if !lives(c2) {
			t.Errorf("%s: another one's has gone, too", c.what)
		}
		if !again && c.after == nil {
			t.Errorf("%s: the engine is not asked again", c.what)
		}
		h.Router.engine = true
		pid = h.process()
		h.engine.set("", c1, pid)
		h.lookAt(t.Context(), c1)
		if !lives(c1) {
			t.Errorf("%s: its name does not come back", c.what)
		}
		h.says("c1[10.32.0.1/12] c2[10.32.0.2/12]")
		h.really("c1[10.32.0.1/12] c2[10.32.0.2/12]")
	}
}
