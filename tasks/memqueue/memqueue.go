// Package memqueue implements tasks.Queue inside one process.
package memqueue

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/countersign/countersign/tasks"
)

// Queue is a first-in, first-out queue of ids. The zero value is ready for use.
type Queue struct {
	mu      sync.Mutex
	ids     list.List                // of strings
	queued  map[string]*list.Element // by id
	arrived chan struct{}            // closed, and replaced, when ids become available
	running map[string]*watch
}

// watch is the subscription to the cancel of one task, shared by all its waiters.
type watch struct {
	canceled chan struct{}
	closed   bool
	waiters  int
}

var _ tasks.Queue = (*Queue)(nil)

// Push implements tasks.Queue.
func (q *Queue) Push(_ context.Context, ids ...string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queued == nil {
		q.queued = map[string]*list.Element{}
	}
	for _, id := range ids {
		if q.queued[id] == nil {
			q.queued[id] = q.ids.PushBack(id)
		}
	}
	if q.arrived != nil && q.ids.Len() > 0 {
		close(q.arrived)
		q.arrived = nil
	}
	return nil
}

// Remove implements tasks.Queue.
func (q *Queue) Remove(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.queued[id]; e != nil {
		q.ids.Remove(e)
		delete(q.queued, id)
	}
	return nil
}

// Pop implements tasks.Queue.
func (q *Queue) Pop(ctx context.Context, wait time.Duration) (string, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		id, arrived := q.take()
		if id != "" {
			return id, nil
		}
		select {
		case <-arrived:
		case <-timeout.C:
			return "", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// take removes and returns the first id. If there is none it returns a channel that is closed at the next push.
func (q *Queue) take() (string, <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ids.Len() == 0 {
		if q.arrived == nil {
			q.arrived = make(chan struct{})
		}
		return "", q.arrived
	}
	id, _ := q.ids.Remove(q.ids.Front()).(string)
	delete(q.queued, id)
	return id, nil
}

// Cancel implements tasks.Queue.
func (q *Queue) Cancel(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.running[id]; w != nil && !w.closed {
		w.closed = true
		close(w.canceled)
	}
	return nil
}

// Canceled implements tasks.Queue.
func (q *Queue) Canceled(_ context.Context, id string) (<-chan struct{}, func(), error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running == nil {
		q.running = map[string]*watch{}
	}
	w := q.running[id]
	if w == nil {
		w = &watch{canceled: make(chan struct{})}
		q.running[id] = w
	}
	w.waiters++
	return w.canceled, sync.OnceFunc(func() { q.unwatch(id, w) }), nil
}

func (q *Queue) unwatch(id string, w *watch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.waiters--; w.waiters == 0 && q.running[id] == w {
		delete(q.running, id)
	}
}
