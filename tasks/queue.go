package tasks

import (
	"context"
	"time"
)

// Queue notifies workers of tasks that may be ready and of tasks to cancel. A notification is only a hint: the
// claim in the database decides. So a queue may lose its contents at any time. It is safe for concurrent use.
type Queue interface {
	// Push appends the ids of tasks that may be ready. An id that is in the queue already keeps its place.
	Push(ctx context.Context, ids ...string) error
	// Remove deletes an id from the queue, because its task was claimed. Removing an absent id has no effect.
	Remove(ctx context.Context, id string) error
	// Pop removes and returns the first id. It waits up to wait for one, and returns "" if none arrives.
	Pop(ctx context.Context, wait time.Duration) (string, error)
	// Cancel notifies the worker that runs a task, if any, to stop it.
	Cancel(ctx context.Context, id string) error
	// Canceled returns a channel that is closed when Cancel is called for id, and a function that ends the
	// subscription. The function may be called more than once.
	Canceled(ctx context.Context, id string) (<-chan struct{}, func(), error)
}
