package signing

import (
	"context"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"
)

// slice is how long one caller computes before it lets others go first.
const slice = 10 * time.Millisecond

// slots bounds how many goroutines of the process verify keys and signatures that came from outside at the same time. Half of the processors
// remain for pushes and pulls, however many such requests arrive.
var slots = semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2)))

// turn is the right to compute. The OpenPGP library knows no contexts, so the work is divided: check is called between its parts.
type turn struct {
	ctx   context.Context // a turn is passed down one call, through an io.Reader
	since time.Time
	held  bool
	err   error // why the turn ended early
}

// begin waits for a free slot. It returns the cause of ctx's end when that comes first.
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

// check returns the cause of the context's end, and otherwise lets waiting callers go first when the turn has lasted for a slice.
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

// end gives the slot back. It may be called more than once.
func (t *turn) end() {
	if t.held {
		slots.Release(1)
		t.held = false
	}
}

// turnReader checks a turn at each read: the library reads the next packet only after it has verified the one before.
type turnReader struct {
	turn *turn
	from io.Reader
}

// Read reads from the underlying reader, unless the turn's context has ended.
func (r turnReader) Read(p []byte) (int, error) {
	if err := r.turn.check(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
