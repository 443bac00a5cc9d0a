package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/telemetry"
)

// Intervals and limits of a worker.
const (
	keepAfter          = 20 * time.Millisecond  // a task that ends earlier does not subscribe to cancels
	heartbeatsPerLease = 3                      // least number of lease renewals and worker heartbeats per lease
	maxHeartbeat       = 5 * time.Second        // longest interval between heartbeats, however long the lease is
	retryPause         = 2 * time.Second        // least pause before a task that needs an unavailable key is claimed again
	forgetAfter        = time.Hour              // a worker without a heartbeat for so long is deleted
	sweepInterval      = time.Second            // interval between searches for tasks that were not announced
	progressInterval   = 300 * time.Millisecond // interval between writes of progress
	popWait            = time.Minute            // longest wait for the queue
	endTimeout         = 10 * time.Second       // limit for the last write of a task
	unknownWait        = time.Hour              // time after its creation in which a task of an unknown kind is left to newer workers
	announceLimit      = 100                    // tasks that one sweep announces at most
)

// Causes with which a task's context ends.
var (
	errCanceled = errors.New("the task was canceled")
	errStopping = errors.New("the worker is being stopped")
)

// Worker claims and runs tasks. It is safe for concurrent use.
type Worker struct {
	store *store.Store
	queue Queue
	jobs  map[string]Job
	log   *slog.Logger
	audit *audit.Log
	slots int
	found chan struct{} // received by an idle slot for each task that the sweep found

	foundLong chan struct{} // received by an idle slot that accepts long tasks, when a slot for short tasks was woken in vain
	longWait  atomic.Bool   // whether long tasks were ready at the last check
	reserved  pool          // counts tasks in the slots for short tasks
	long      pool          // counts long tasks

	observer Observer
	show     func(any) any
	confirm  func(context.Context, pulp.User) (pulp.User, error)
	lease    time.Duration
	self     pulp.Worker // without Services

	findUsable func(context.Context) ([]pulp.SigningService, error)
	usable     atomic.Pointer[[]pulp.SigningService] // latest result of findUsable; nil before the first
}

// WorkerOptions are the dependencies and settings of a worker.
type WorkerOptions struct {
	Store    *store.Store
	Queue    Queue
	Jobs     map[string]Job // by the name of the task
	Log      *slog.Logger
	Audit    *audit.Log // receives the tasks that fail or are refused when they run; nil: nothing does
	Observer Observer   // receives the attempts at tasks; nil: nothing does
	Slots    int        // tasks at a time, in addition to those in spare slots; 0: immediate tasks only
	Name     string     // <pid>@<host>
	Versions map[string]string
	Show     func(any) any // returns the representation of an object that clients see as a task's result; nil: results show no objects
	// Confirm returns an account as the source of people that it comes from confirms it (auth.Auth.Confirm); nil: as it is.
	Confirm func(context.Context, pulp.User) (pulp.User, error)
	// Usable returns the signing services whose keys this process can use; nil: all services.
	Usable func(context.Context) ([]pulp.SigningService, error)
	// Lease is the time after which a task without a heartbeat of its worker may be claimed by another; 0:
	// DefaultLease.
	Lease time.Duration
}

// DefaultLease is the lease of a worker that does not set one.
const DefaultLease = 30 * time.Second

// NewWorker returns a worker. It claims no tasks before Run is called.
func NewWorker(o WorkerOptions) *Worker {
	if o.Show == nil { // an object may contain secrets
		o.Show = func(any) any { return nil }
	}
	if o.Confirm == nil {
		o.Confirm = func(_ context.Context, u pulp.User) (pulp.User, error) { return u, nil }
	}
	if o.Observer == nil {
		o.Observer = unobserved{}
	}
	return &Worker{
		observer: o.Observer, store: o.Store, queue: o.Queue, jobs: o.Jobs, log: o.Log, audit: o.Audit, slots: o.Slots, show: o.Show, confirm: o.Confirm, findUsable: o.Usable,
		found: make(chan struct{}), foundLong: make(chan struct{}), lease: cmp.Or(o.Lease, DefaultLease),
		reserved: pool{most: 1}, long: pool{most: max(1, o.Slots)},
		self: pulp.Worker{ID: pulp.NewID(), Name: o.Name, Versions: o.Versions},
	}
}

// Run claims and runs tasks until ctx ends. Then it claims no more and lets running tasks continue for at most
// grace. After that it cancels them, returns them to the database to be run again, and returns.
func (w *Worker) Run(ctx context.Context, grace time.Duration) error {
	if err := errors.Join(w.lookForServices(ctx), w.beat(ctx)); err != nil {
		if ctx.Err() != nil { // stopped before it registered
			return nil
		}
		return fmt.Errorf("register worker: %w", err)
	}
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var slots sync.WaitGroup
	for _, s := range w.newSlots() {
		slots.Go(func() { s.takeTasks(ctx, running) })
	}
	slots.Go(func() { w.sweep(ctx) })
	<-ctx.Done()
	timeout := time.AfterFunc(grace, func() { stop(errStopping) })
	defer timeout.Stop()
	slots.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return w.store.Tasks.RemoveWorker(last, w.self.ID, false)
}

// wait returns when the queue announces a task or the sweep found one for this process, and after popWait at
// the latest. long reports whether the waiting slot accepts long tasks.
func (w *Worker) wait(ctx context.Context, long bool) error {
	var foundLong chan struct{}
	if long {
		foundLong = w.foundLong
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-w.found:
			stop()
		case <-foundLong:
			stop()
		case <-waiting.Done():
		}
	}()
	_, err := w.queue.Pop(waiting, popWait)
	if waiting.Err() != nil {
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runTask claims a task and runs it to its end. It does nothing if the task is not ready.
func (w *Worker) runTask(ctx context.Context, id string) {
	t, err := w.store.Tasks.ClaimTask(ctx, w.self.ID, id, w.services(), w.lease)
	if err != nil {
		w.notClaimed(ctx, err)
	}
	if t != nil {
		w.work(ctx, t)
	}
}

// notClaimed logs a failed claim and pauses.
func (w *Worker) notClaimed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.log.ErrorContext(ctx, "cannot claim a task", slog.Any("err", err))
		sleep(ctx, sweepInterval)
	}
}

// work runs a claimed task to its end.
func (w *Worker) work(ctx context.Context, t *taskstore.Task) {
	ctx, span := telemetry.StartSpan(telemetry.WithTraceparent(telemetry.WithCorrelation(ctx, t.CID), t.Traceparent), telemetry.KindConsumer,
		"task "+t.Name, slog.String("countersign.task", t.ID), slog.Int64("countersign.task.attempt", t.Attempt),
		slog.String("countersign.correlation_id", t.CID))
	log := w.log.With(slog.String("task", t.ID), slog.String("name", t.Name))
	r := &Run{Task: *t, store: w.store, log: log, job: w.jobs[t.Name]}
	r.permit = func(ctx context.Context) error { return w.permit(ctx, r) }
	r.Claim = &taskstore.Claim{TaskID: t.ID, Attempt: t.Attempt, Show: w.show, Permit: r.stillPermitted}
	log.InfoContext(ctx, "task started", slog.Int64("attempt", t.Attempt))
	began := time.Now()
	w.observer.TaskStarted(t.Name)
	err, cause := w.attempt(ctx, r)
	result := w.end(ctx, r, err, cause)
	w.observer.TaskEnded(t.Name, result, time.Since(began))
	span.Set(slog.String("countersign.task.result", string(result)))
	if result == Failed {
		span.Fail(sentence(err))
	}
	span.End(nil)
	// Tasks that became ready are left to idle slots. The finished task's own announcement may still be in the
	// queue if all slots were busy.
	if err := errors.Join(w.queue.Push(ctx, r.Claim.Freed()...), w.queue.Remove(ctx, t.ID)); err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "cannot update the queue; the next sweep announces ready tasks", slog.Any("err", err))
	}
}

// attempt runs the task's job, and beside it the lease renewal and the progress writer. It returns the job's
// error and the cause of the context's end, if it ended.
func (w *Worker) attempt(ctx context.Context, r *Run) (err, cause error) {
	if r.job.Run == nil {
		return w.unknownKind(r.Task), nil
	}
	if err := r.permit(ctx); err != nil {
		return err, nil
	}
	ctx = withActor(ctx, r.Task, r.User())
	working, cancel := context.WithCancelCause(ctx)
	var keepers sync.WaitGroup
	keepers.Go(func() { r.flushEvery(working, progressInterval) })
	keepers.Go(func() { w.keep(working, r, cancel) })
	err = guard(func() error { return r.job.Run(working, r) })
	cause = context.Cause(working)
	cancel(nil)
	keepers.Wait()
	return err, cause
}

// unknownKind returns the error for a task of a kind that this worker lacks. During an upgrade newer processes create such
// tasks, so it is left to them for unknownWait.
func (w *Worker) unknownKind(t taskstore.Task) error {
	err := fault.New(fault.Invalid, "No worker knows the task %s. Finish the upgrade of all workers and start the task again.", t.Name)
	if w.store.DB.Now().Sub(t.Stamps.Created) < unknownWait {
		return RetryLater(err)
	}
	return err
}

// keep renews the lease and waits for a cancel until ctx ends. It ends ctx if the task was canceled, or claimed
// by another worker.
func (w *Worker) keep(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	if sleep(ctx, keepAfter); ctx.Err() != nil {
		return
	}
	canceled, stop, err := w.queue.Canceled(ctx, r.Task.ID)
	if err != nil {
		r.log.WarnContext(ctx, "cannot subscribe to cancels; one takes effect at the next heartbeat", slog.Any("err", err))
	} else {
		defer stop()
	}
	if mine, err := w.store.Tasks.StillClaimed(ctx, r.Claim); err == nil && !mine { // the task was canceled before the subscription began
		cancel(taskstore.ErrFenced)
	}
	tick := time.NewTicker(w.heartbeatInterval())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-canceled:
			cancel(errCanceled)
			return
		case <-tick.C:
			w.checkLease(ctx, r, cancel)
			w.checkPermission(ctx, r, cancel)
		}
	}
}

func (w *Worker) checkLease(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	err := w.store.Tasks.ExtendLease(ctx, r.Claim, w.lease)
	switch {
	case errors.Is(err, taskstore.ErrFenced):
		cancel(taskstore.ErrFenced)
	case err != nil && ctx.Err() == nil:
		r.log.WarnContext(ctx, "cannot renew the task's lease", slog.Any("err", err))
	}
}

// guard returns a job's panic as its error.
func guard(job func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return job()
}

// end stores the result of an attempt and returns it. If the database does not accept it, the task is claimed again when its
// lease ends.
func (w *Worker) end(ctx context.Context, r *Run, jobErr, cause error) Result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	var err error
	result := Completed
	if fault.Is(cause, fault.Denied) && !r.Claim.Ended() { // this cause is more precise than the job's error
		jobErr = cause
	}
	if jobErr == nil && !r.Claim.Ended() {
		if err = w.complete(ctx, r); fault.Is(err, fault.Denied) {
			jobErr, err = err, nil
		}
	}
	switch {
	case jobErr == nil:
	case errors.Is(cause, errStopping):
		result = Returned
		err = w.store.Tasks.ReturnTask(ctx, r.Claim, 0)
	case cause == nil && isRetryLater(jobErr):
		result = Postponed
		err = errors.Join(r.flush(ctx), w.store.Tasks.ReturnTask(ctx, r.Claim, retryPause))
	case cause == nil && sqldb.IsUnavailable(jobErr): // not the task's fault: treated like the loss of its worker
		result = Left
	case errors.Is(cause, errCanceled), errors.Is(cause, taskstore.ErrFenced), errors.Is(jobErr, taskstore.ErrFenced):
		result = Canceled
		r.end(taskstore.TaskCanceled)
		err = errors.Join(r.flush(ctx), w.store.Tasks.EndCanceled(ctx, r.Claim))
	default:
		result = Failed
		r.end(taskstore.TaskFailed)
		err = errors.Join(r.flush(ctx), w.store.Tasks.FailTask(ctx, r.Claim, sentence(jobErr)))
	}
	if errors.Is(err, taskstore.ErrFenced) {
		// A concurrent cancel won: EndCanceled ends the task. If another worker has claimed it, EndCanceled is
		// fenced, too.
		result = Fenced
		err = w.store.Tasks.EndCanceled(ctx, r.Claim)
	}
	if err != nil && !errors.Is(err, taskstore.ErrFenced) {
		r.log.ErrorContext(ctx, "cannot store the task's result; it runs again when its lease has ended", slog.Any("err", err))
	}
	if result == Failed && err == nil {
		w.recordFailure(ctx, r, jobErr)
	}
	ended := []slog.Attr{slog.String("result", string(result))}
	if jobErr != nil {
		ended = append(ended, slog.Any("err", jobErr))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "task ended", ended...)
	return result
}

// complete completes a task whose job stored its results, if any, in other transactions.
func (w *Worker) complete(ctx context.Context, r *Run) error {
	r.end(taskstore.TaskCompleted)
	return errors.Join(r.flush(ctx), w.store.Tasks.CompleteTask(ctx, r.Claim, taskstore.Outcome{}))
}

func isRetryLater(err error) bool {
	_, ok := errors.AsType[retryLater](err)
	return ok
}

// sentence returns the description of an error for a failed task. It contains only text that is safe to show.
func sentence(err error) string {
	if msg, ok := fault.Message(err); ok {
		return msg
	}
	return "Internal error; the server's log has the details under the task's logging_cid."
}
