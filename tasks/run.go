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
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Job implements one kind of task.
type Job struct {
	// Run executes the task. Its context ends when the task is canceled, when another worker has claimed it,
	// when its user is no longer permitted to run it, and when the process stops. A job that stores results
	// calls the store method that completes the claim in the same transaction; otherwise the worker completes
	// the task when Run returns nil. A job may run more than once, so it derives the remaining work from the
	// database.
	Run func(ctx context.Context, r *Run) error
	// Permit checks that an active user may have the task executed. It requires, of the user and of the objects
	// in their present state, the permissions that the endpoint required when it dispatched the task. Its error
	// is shown to users; it is Denied if a permission is missing. A job without Permit runs for the command
	// line and the server only.
	Permit func(ctx context.Context, r *Run, user pulp.User) error
}

// RetryLater marks the error of a job that can be repeated when a dependency (a key, the upstream) is available
// again. The worker puts the task back to waiting, to be claimed after a pause. The attempt does not count as a
// lost worker.
func RetryLater(err error) error { return retryLater{err} }

type retryLater struct{ error }

// Unwrap returns the error that RetryLater was called with.
func (r retryLater) Unwrap() error { return r.error }

// Run is one attempt at a task. It is safe for concurrent use.
type Run struct {
	Task  taskstore.Task
	Claim *taskstore.Claim

	store  *store.Store
	log    *slog.Logger
	job    Job
	permit func(context.Context) error
	user   atomic.Pointer[pulp.User] // as read by the latest check; nil before the first

	mu      sync.Mutex
	reports []*Report
	dirty   bool
}

// Decode unmarshals the task's arguments into args.
func (r *Run) Decode(args any) error {
	if err := json.Unmarshal(r.Task.Args, args); err != nil {
		return fmt.Errorf("arguments of task %s: %w", r.Task.ID, err)
	}
	return nil
}

// Report is one progress report of a running task. It is safe for concurrent use.
type Report struct {
	run      *Run
	progress taskstore.Progress // guarded by run.mu
}

// Report adds a progress report. total is the number of items; a negative total is unknown.
func (r *Run) Report(code, message string, total int) *Report {
	p := taskstore.Progress{Message: message, Code: code, State: taskstore.TaskRunning}
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

// Add adds n to the number of finished items.
func (p *Report) Add(n int) {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	p.progress.Done += int64(n)
	p.run.dirty = true
}

// Set sets the number of finished items.
func (p *Report) Set(n int) {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	p.progress.Done = int64(n)
	p.run.dirty = true
}

// Complete marks the report as completed and stores all reports.
func (p *Report) Complete(ctx context.Context) error {
	p.run.mu.Lock()
	p.progress.State = taskstore.TaskCompleted
	p.run.dirty = true
	p.run.mu.Unlock()
	return p.run.flush(ctx)
}

// end moves every running report to the final state of the task. If the task failed, only the report that was
// added last becomes failed; earlier ones become canceled, as in Pulp.
func (r *Run) end(state taskstore.TaskState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range slices.Backward(r.reports) {
		if p.progress.State != taskstore.TaskRunning {
			continue
		}
		p.progress.State = state
		r.dirty = true
		if state == taskstore.TaskFailed {
			state = taskstore.TaskCanceled
		}
	}
}

// snapshot returns copies of all reports and clears dirty. The caller holds mu and stores the copies.
func (r *Run) snapshot() []taskstore.Progress {
	r.dirty = false
	reports := make([]taskstore.Progress, len(r.reports))
	for i, p := range r.reports {
		reports[i] = p.progress
	}
	return reports
}

// Finished completes every running report and returns all reports, for a job that stores them with its results.
func (r *Run) Finished() []taskstore.Progress {
	r.end(taskstore.TaskCompleted)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot()
}

// flush stores the reports if they changed since the last call.
func (r *Run) flush(ctx context.Context) error {
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return nil
	}
	reports := r.snapshot()
	r.mu.Unlock()
	return r.store.Tasks.ReportProgress(ctx, r.Claim, reports)
}

// flushEvery calls flush at each interval until ctx ends.
func (r *Run) flushEvery(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := r.flush(ctx); err != nil && ctx.Err() == nil {
				r.log.DebugContext(ctx, "cannot store the progress of the task", slog.Any("err", err))
			}
		}
	}
}
