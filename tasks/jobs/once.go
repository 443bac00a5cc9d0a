package jobs

import (
	"context"
	"errors"
	"sync"
)

// once calls a function at most once for each key and keeps its result. The zero value is ready for use.
type once[T any] struct {
	mu   sync.Mutex
	done map[string]*outcome[T]
}

type outcome[T any] struct {
	ended chan struct{}
	value T
	err   error
}

// do returns the result of the first call of f for the key. Concurrent calls wait for it, or until ctx ends.
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
	r.err = errors.New("the operation panicked") // the error of waiting calls if f panics
	r.value, r.err = f()
	return r.value, r.err
}
