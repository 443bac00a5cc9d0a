package signing

import (
	"context"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"
)

// slice is the time after which a caller lets waiting callers go first.
const slice = 10 * time.Millisecond

// slots limits the goroutines that verify keys and signatures from outside to half of the processors, so that pushes and
// pulls keep the other half.
var slots = semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2)))

// turn is the right to use a processor. The OpenPGP library accepts no contexts, so its work is divided into parts,
// and check is called between them.
type turn struct {
	ctx   context.Context // io.Reader passes none
	since time.Time
	held  bool
	err   error // why the turn ended early
}

// begin waits for a free slot. It returns the cause of the end of ctx if that comes first.
func begin(ctx context.Context) (*turn, error) {
	t := &turn{ctx: ctx}
	return t, t.acquire()
}

func (t *turn) acquire() error {
	if t.ctx.Err() != nil || slots.Acquire(t.ctx, 1) != nil {
		t.err = context.Cause(t.ctx)
		return t.err
	}
	t.since, t.held = time.Now(), true
	return nil
}

// check returns the cause of the end of the context, if it has ended. When the turn has lasted for a slice, it frees
// the slot for waiting callers and acquires one again.
func (t *turn) check() error {
	if t.err != nil {
		return t.err
	}
	if t.ctx.Err() != nil {
		t.err = context.Cause(t.ctx)
		return t.err
	}
	if time.Since(t.since) < slice {
		return nil
	}
	t.end()
	return t.acquire()
}

// end frees the slot. It may be called more than once.
func (t *turn) end() {
	if t.held {
		slots.Release(1)
		t.held = false
	}
}

// turnReader calls check before each read. The library reads a packet only after it has verified the one before.
type turnReader struct {
	turn *turn
	from io.Reader
}

// Read reads from the underlying reader unless the turn has ended.
func (r turnReader) Read(p []byte) (int, error) {
	if err := r.turn.check(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
