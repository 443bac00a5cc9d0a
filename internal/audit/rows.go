package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Bounds of the rows that wait to be stored.
const (
	maxBatch  = 100                    // rows of one transaction
	maxQueued = 4096                   // rows that wait
	delay     = 500 * time.Millisecond // longest wait for further rows of a batch
	pause     = time.Second            // between attempts while the database does not answer
	maxWait   = 10 * time.Second       // longest wait of a request for room in the queue
	reports   = time.Minute            // interval of reports about the same problem
)

// batches stores rows in batches. A goroutine runs while rows wait.
type batches struct {
	store Rows
	log   *slog.Logger

	mu       sync.Mutex
	queue    []Entry
	running  bool
	closed   bool
	room     chan struct{} // closed when rows have left a full queue; nil unless somebody waits
	idle     chan struct{} // closed when the goroutine ends
	dropped  int64
	reported time.Time

	full    chan struct{} // receives a value when a batch is full
	closing chan struct{} // closed by close
}

func newBatches(store Rows, log *slog.Logger) *batches {
	return &batches{store: store, log: log, full: make(chan struct{}, 1), closing: make(chan struct{})}
}

// add appends a row to the queue. If the queue is full it waits, so that the server accepts no more changes than the
// database takes. After maxWait it drops the row and reports that.
func (b *batches) add(e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	deadline := time.Now().Add(maxWait)
	for len(b.queue) >= maxQueued && !b.closed {
		if !b.waitForRoom(deadline) {
			b.dropped++
			b.report("the database takes no audit entries; their rows are lost, their lines are not", slog.Int64("lost", b.dropped))
			return
		}
	}
	if b.closed {
		return
	}
	b.queue = append(b.queue, e)
	if !b.running {
		b.running, b.idle = true, make(chan struct{})
		go b.run()
	}
	if len(b.queue) >= maxBatch {
		select {
		case b.full <- struct{}{}:
		default:
		}
	}
}

// waitForRoom releases mu until rows have left the queue. It returns false at the deadline.
func (b *batches) waitForRoom(deadline time.Time) bool {
	if b.room == nil {
		b.room = make(chan struct{})
	}
	room := b.room
	b.mu.Unlock()
	defer b.mu.Lock()
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	select {
	case <-room:
		return true
	case <-timeout.C:
		return false
	}
}

// run stores batches until the queue is empty.
func (b *batches) run() {
	ctx := context.Background() //nolint:forbidigo // rows of many requests
	wait := delay
	for {
		b.waitForBatch(wait)
		b.mu.Lock()
		batch := b.queue[:min(len(b.queue), maxBatch)]
		b.mu.Unlock()
		err := b.store.Add(ctx, batch)
		b.mu.Lock()
		if err == nil {
			b.remove(len(batch))
			wait = delay
		} else {
			b.report("cannot store audit entries; they are stored later", slog.Int("waiting", len(b.queue)), slog.Any("err", err))
			wait = pause
		}
		if len(b.queue) == 0 || b.closed {
			b.running = false
			close(b.idle)
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
	}
}

// waitForBatch waits until a batch is full, the log is closed, or the time has passed. After a failure a full batch
// waits as well.
func (b *batches) waitForBatch(wait time.Duration) {
	full := b.full
	if wait == pause {
		full = nil
	}
	b.mu.Lock()
	ready := len(b.queue) >= maxBatch && full != nil
	b.mu.Unlock()
	if ready {
		return
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case <-timeout.C:
	case <-full:
	case <-b.closing:
	}
}

// remove removes n rows from the front of the queue and wakes those that wait for room.
func (b *batches) remove(n int) {
	b.queue = append(b.queue[:0:0], b.queue[n:]...)
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}

// report logs a problem, at most once per interval.
func (b *batches) report(problem string, attrs ...slog.Attr) {
	if time.Since(b.reported) < reports {
		return
	}
	b.reported = time.Now()
	b.log.LogAttrs(context.Background(), slog.LevelError, problem, attrs...) //nolint:forbidigo // not about one request
}

// close stores the rows that wait.
func (b *batches) close(ctx context.Context) error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.closing)
	}
	idle, running := b.idle, b.running
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
	b.mu.Unlock()
	if running {
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for len(b.queue) > 0 { // nobody else uses it any more
		batch := b.queue[:min(len(b.queue), maxBatch)]
		if err := b.store.Add(ctx, batch); err != nil {
			return fmt.Errorf("%d rows are lost: %w", len(b.queue), err)
		}
		b.queue = b.queue[len(batch):]
	}
	return nil
}
