package router

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

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
