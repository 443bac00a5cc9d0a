package redisqueue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// watch is the subscription to the cancel of one task, shared by all its waiters.
type watch struct {
	canceled chan struct{}
	closed   bool
	waiters  int
}

// Canceled implements tasks.Queue. It also reports a cancel of the last 30 seconds.
func (q *Queue) Canceled(ctx context.Context, id string) (<-chan struct{}, func(), error) {
	w := q.watch(id)
	s := q.current()
	active := s.isActive() // before the look: a cancel after it is notified
	err := q.notifyRecorded(ctx, []string{id})
	if err == nil && !active {
		if err = q.awaitActive(ctx, s); err == nil {
			err = q.notifyRecorded(ctx, []string{id})
		}
	}
	if err != nil {
		q.unwatch(id, w)
		return nil, nil, fmt.Errorf("watch %s: %w", id, err)
	}
	return w.canceled, sync.OnceFunc(func() { q.unwatch(id, w) }), nil
}

func (q *Queue) watch(id string) *watch {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.watches[id]
	if w == nil {
		w = &watch{canceled: make(chan struct{})}
		q.watches[id] = w
	}
	w.waiters++
	return w
}

func (q *Queue) unwatch(id string, w *watch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.waiters--; w.waiters == 0 && q.watches[id] == w {
		delete(q.watches, id)
	}
}

func (q *Queue) watched() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.watches))
}

// notifyRecorded notifies the watchers of those ids whose cancel is recorded in Redis.
func (q *Queue) notifyRecorded(ctx context.Context, ids []string) error {
	canceled, err := q.canceled(ctx, ids)
	for _, id := range canceled {
		q.notifyWatchers(id)
	}
	return err
}

func (q *Queue) notifyWatchers(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.watches[id]; w != nil && !w.closed {
		w.closed = true
		close(w.canceled)
	}
}
