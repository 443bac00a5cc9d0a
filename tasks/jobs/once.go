package jobs

import (
	"context"
	"errors"
	"sync"
)

// once does things that are named by a key at most once at a time and remembers what came of them. Its zero value is ready.
type once[T any] struct {
	mu   sync.Mutex
	done map[string]*outcome[T]
}

type outcome[T any] struct {
	ended chan struct{}
	value T
	err   error
}

// do returns what f returned for the key, to whoever asked first.
func (o *once[T]) do(ctx context.Context, key string, f func() (T, error)) (T, error) {
	o.mu.Lock()
	if o.done == nil {
		o.done = map[string]*outcome[T]{}
	}
	r, running := o.done[key]
	if !running {
		r = &outcome[T]{ended: make(chan struct{})}
		o.done[key] = r
	}
	o.mu.Unlock()
	if running {
		select {
		case <-r.ended:
			return r.value, r.err
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	defer close(r.ended)
	r.err = errors.New("it did not end") // of a panic
	r.value, r.err = f()
	return r.value, r.err
}
