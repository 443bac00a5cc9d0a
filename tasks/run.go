package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// Job is one kind of task.
type Job struct {
	// Run does the task's work. Its context ends when the task is canceled, lost to another worker, no longer permitted, or when the process stops. A job
	// that stores results does so through the store method that completes the claim in the same transaction; otherwise the task
	// is completed when Run returns nil. A job may be run twice, so it starts from what the database says.
	Run func(ctx context.Context, r *Run) error
	// Permit reports whether an active user may have the task done: it requires, of the user and of the objects as they are now, the permissions that the
	// endpoint required when it dispatched the task. Its error is shown; it is Denied if a permission is missing. A job without Permit
	// runs for the command line and the server only.
	Permit func(ctx context.Context, r *Run, user pulp.User) error
}

// Again says that a job did not fail: what it needs is away for a while. The task goes back to be run again, and does not count as lost.
func Again(err error) error { return again{err} }

type again struct{ error }

// Unwrap returns why.
func (a again) Unwrap() error { return a.error }

// Run is one attempt at a task.
type Run struct {
	Task  store.Task
	Claim *store.Claim

	store  *store.Store
	log    *slog.Logger
	job    Job
	permit func(context.Context) error
	user   atomic.Pointer[pulp.User] // of the latest check; nil before the first

	mu      sync.Mutex
	reports []*Report
	dirty   bool
}

// Decode reads the task's arguments.
func (r *Run) Decode(args any) error {
	if err := json.Unmarshal(r.Task.Args, args); err != nil {
		return fmt.Errorf("arguments of task %s: %w", r.Task.ID, err)
	}
	return nil
}

// Report is one progress report of a running task. It is safe for concurrent use.
type Report struct {
	run      *Run
	progress store.Progress // guarded by run.mu
}

// Report starts a progress report. total is how much there is to do, or negative when that is not known.
func (r *Run) Report(code, message string, total int) *Report {
	p := store.Progress{Message: message, Code: code, State: store.TaskRunning}
	if total >= 0 {
		n := int64(total)
		p.Total = &n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	report := &Report{run: r, progress: p}
	r.reports = append(r.reports, report)
	r.dirty = true
	return report
}

// Add says that n more are done.
func (p *Report) Add(n int) {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	p.progress.Done += int64(n)
	p.run.dirty = true
}

// Complete says that nothing is left to do, and stores it.
func (p *Report) Complete(ctx context.Context) error {
	p.run.mu.Lock()
	p.progress.State = store.TaskCompleted
	p.run.dirty = true
	p.run.mu.Unlock()
	return p.run.flush(ctx)
}

// end gives every report that still runs the state in which the task ends; of a task that fails, only what was begun last has failed, and the rest is canceled
// (golden 84c).
func (r *Run) end(state store.TaskState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range slices.Backward(r.reports) {
		if p.progress.State != store.TaskRunning {
			continue
		}
		p.progress.State = state
		r.dirty = true
		if state == store.TaskFailed {
			state = store.TaskCanceled
		}
	}
}

// snapshot returns the reports as they are. The caller holds mu, and stores them.
func (r *Run) snapshot() []store.Progress {
	r.dirty = false
	reports := make([]store.Progress, len(r.reports))
	for i, p := range r.reports {
		reports[i] = p.progress
	}
	return reports
}

// Finished completes every report that still runs, and returns all, for a job that stores them with its results.
func (r *Run) Finished() []store.Progress {
	r.end(store.TaskCompleted)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot()
}

// flush stores the reports if they have changed.
func (r *Run) flush(ctx context.Context) error {
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return nil
	}
	reports := r.snapshot()
	r.mu.Unlock()
	return r.store.ReportProgress(ctx, r.Claim, reports)
}

// flushEvery stores changed reports a few times a second until ctx ends.
func (r *Run) flushEvery(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := r.flush(ctx); err != nil && ctx.Err() == nil {
				r.log.DebugContext(ctx, "progress not stored", slog.Any("err", err))
			}
		}
	}
}
