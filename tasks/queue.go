package tasks

import (
	"context"
	"time"
)

// Queue tells workers where to look: which tasks may be ready, and which are to be canceled. What it says is a hint until the claim in
// the database succeeds, so it may forget everything at any time. It is safe for concurrent use.
type Queue interface {
	// Push says that tasks may be ready. Pushing one that is in the queue already changes nothing.
	Push(ctx context.Context, ids ...string) error
	// Remove takes a task out of the queue, wherever it stands: somebody has it. Removing one that is not there changes nothing.
	Remove(ctx context.Context, id string) error
	// Pop returns the id that was pushed first, waiting for one at most so long; "" when none came.
	Pop(ctx context.Context, wait time.Duration) (string, error)
	// Cancel tells whoever runs a task to stop.
	Cancel(ctx context.Context, id string) error
	// Canceled returns a channel that is closed when the task is canceled, and a function that ends the waiting.
	Canceled(ctx context.Context, id string) (<-chan struct{}, func(), error)
}
