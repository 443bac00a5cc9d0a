package metrics

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errSlow is the error of a read that has not ended within stateTimeout.
var errSlow = errors.New("reading takes too long")

// kept keeps the result of a function for a time. One call runs at a time, and no caller waits longer than stateTimeout, even
// if the function does not heed its context. It is safe for concurrent use.
type kept[T any] struct {
	read func(context.Context) (T, error)

	mu      sync.Mutex
	running chan struct{} // closed when the running call has ended; nil without one
	value   T
	err     error
	until   time.Time // the result is kept until this time
}

func newKept[T any](read func(context.Context) (T, error)) *kept[T] { return &kept[T]{read: read} }

// get returns the kept result, or the one of a new call.
func (k *kept[T]) get() (T, error) {
	k.mu.Lock()
	if k.running == nil && time.Now().Before(k.until) {
		defer k.mu.Unlock()
		return k.value, k.err
	}
	if k.running == nil {
		k.running = make(chan struct{})
		go k.call(k.running)
	}
	running := k.running
	k.mu.Unlock()
	timeout := time.NewTimer(stateTimeout)
	defer timeout.Stop()
	select {
	case <-running:
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.value, k.err
	case <-timeout.C:
		var none T
		return none, errSlow
	}
}

// call calls the function and keeps its result.
func (k *kept[T]) call(running chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), stateTimeout) //nolint:forbidigo // the result is for many scrapes
	defer cancel()
	began := time.Now()
	value, err := k.read(ctx)
	took := time.Since(began)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.value, k.err, k.until = value, err, time.Now().Add(max(stateLife, stateShare*took))
	k.running = nil
	close(running)
}
