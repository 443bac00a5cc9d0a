package redisqueue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// watch is what those wait on who run a task: closed when it is canceled.
type watch struct {
	canceled chan struct{}
	closed   bool
	waiters  int
}

// Canceled implements tasks.Queue. A cancel that came up to half a minute before is seen as well.
func (q *Queue) Canceled(ctx context.Context, id string) (<-chan struct{}, func(), error) {
	w := q.watch(id)
	l := q.current()
	heard := l.stands() // before the look: a cancel that comes after it is heard
	err := q.recall(ctx, []string{id})
	if err == nil && !heard {
		if err = q.heard(ctx, l); err == nil {
			err = q.recall(ctx, []string{id})
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

// recall tells the watchers of those ids that were canceled a moment ago.
func (q *Queue) recall(ctx context.Context, ids []string) error {
	canceled, err := q.canceled(ctx, ids)
	for _, id := range canceled {
		q.tellWatchers(id)
	}
	return err
}

func (q *Queue) tellWatchers(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.watches[id]; w != nil && !w.closed {
		w.closed = true
		close(w.canceled)
	}
}
