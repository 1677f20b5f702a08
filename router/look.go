package router

import (
	"context"
	"errors"
	"sync"

	"weft/docker"
)

// onEvent follows the engine. An event may come late or twice: it only says that
// the container should be looked at.
func (r *Router) onEvent(ctx context.Context) func(docker.Event) {
	return func(e docker.Event) {
		switch e.Kind {
		case docker.Connected:
			r.engineConnected(ctx)
		case docker.Lost:
			r.mu.Lock()
			r.engine = false
			r.mu.Unlock()
		default:
			r.lookSoon(ctx, e.Container)
		}
		r.pokeBoth()
	}
}

// engineConnected looks at everything: events may have been missed.
func (r *Router) engineConnected(ctx context.Context) {
	r.mu.Lock()
	r.engine = true
	var keys []string
	for k, a := range r.attached {
		if a.docker() {
			keys = append(keys, k)
		}
	}
	r.mu.Unlock()
	ask, cancel := context.WithTimeout(ctx, engineTimeout)
	if bridge, err := r.docker.BridgeAddr(ask); err == nil {
		r.setBridge(bridge)
	}
	cancel()
	for _, k := range keys {
		r.lookSoon(ctx, k)
	}
}

// lookSoon has lookAt called, and does not wait for it: the engine says nothing of a container
// while it starts that one, and others have events, too. What needs no engine is done at once.
func (r *Router) lookSoon(ctx context.Context, key string) {
	r.mu.Lock()
	a := r.attached[key]
	r.mu.Unlock()
	if a != nil {
		r.hideEnded(a)
	}
	r.looker.soon(key, func() {
		if ctx.Err() == nil {
			r.lookAt(ctx, key)
			r.pokeBoth()
		}
	})
}

// looksAtOnce bounds the questions to an engine that comes back with many containers.
const looksAtOnce = 64

// looker looks at containers, at several at the same time and at each by one goroutine. Wait
// waits for all of them.
type looker struct {
	sync.WaitGroup
	mu    sync.Mutex      // guards the fields below
	looks map[string]bool // what is being looked at; true: and then again, since it has changed meanwhile
	slots chan struct{}
}

func (l *looker) soon(key string, look func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.looks == nil {
		l.looks, l.slots = map[string]bool{}, make(chan struct{}, looksAtOnce)
	}
	if _, looks := l.looks[key]; looks {
		l.looks[key] = true
		return
	}
	l.looks[key] = false
	l.Go(func() {
		l.slots <- struct{}{}
		defer func() { <-l.slots }()
		for again := true; again; again = l.another(key) {
			look()
		}
	})
}

func (l *looker) another(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.looks[key] {
		l.looks[key] = false
		return true
	}
	delete(l.looks, key)
	return false
}

// lookAt makes an attachment follow its container. What can not be done now is
// tried again by watchNamespaces.
func (r *Router) lookAt(ctx context.Context, key string) {
	r.mu.Lock()
	a := r.attached[key]
	delete(r.dirty, key)
	r.mu.Unlock()
	if a == nil {
		return
	}
	if err := r.follow(ctx, key); err != nil && ctx.Err() == nil {
		r.mu.Lock()
		first := !r.failing[key]
		r.dirty[key], r.failing[key] = true, true
		r.mu.Unlock()
		if first {
			r.log.Warn("follow a container; trying again", "container", shortKey(key), "err", err)
		}
		return
	}
	r.mu.Lock()
	delete(r.failing, key)
	r.mu.Unlock()
}

func (r *Router) follow(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	unlock, err := r.ops.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := r.docker.Inspect(ctx, key)
	switch {
	case errors.Is(err, docker.ErrNotFound):
		return r.containerRemoved(key)
	case err != nil:
		return err
	case !c.Running || c.PID == 0:
		r.containerDied(key)
		return r.stoppedRenamed(c)
	}
	return r.containerStarted(c)
}
