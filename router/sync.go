package router

import (
	"context"
	"sync"
)

// keyed lets one operation at a time run for each key. The zero value is ready.
type keyed struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

// lock waits for the key or for ctx.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		busy, ok := k.held[key]
		if !ok {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try takes the key if it is free.
func (k *keyed) try(key string) (unlock func(), ok bool) {
	k.mu.Lock()
	_, busy := k.held[key]
	k.mu.Unlock()
	if busy {
		return nil, false
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // so that lock takes it or gives up
	unlock, err := k.lock(ctx, key)
	return unlock, err == nil
}

// broadcast wakes everybody who waits. The zero value is ready.
type broadcast struct {
	mu sync.Mutex // guards c
	c  chan struct{}
}

// next is closed at the next call of wake.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
